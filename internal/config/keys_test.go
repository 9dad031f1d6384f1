package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNamedKeys(t *testing.T) {
	got, _, err := Resolve(Sources{File: parse(t, "named-key: [\"ci:chat:sk-1\", \"ops.2:manage:a:b\"]\n")})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]NamedKey{{"ci", "chat", "sk-1"}, {"ops.2", "manage", "a:b"}}, got.NamedKeys); diff != "" {
		t.Error(diff)
	}
	for given, want := range map[string]string{
		"hunter2":                  "NAME:ROLE:KEY",
		"ci:hunter2":               "NAME:ROLE:KEY",
		"ci:chat:":                 "NAME:ROLE:KEY",
		"Ci Ci:chat:hunter2":       "a-z",
		"hunter2:hunter2:x":        "one of chat, read, manage",
		"a:chat:x,a:read:hunter2":  "two named-keys a",
		":chat:hunter2":            "a-z",
		"-ci:manage:hunter2hunter": "a-z",
	} {
		flags := map[string][]string{"named-key": strings.Split(given, ",")}
		_, _, err := Resolve(Sources{Flags: flags})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--named-key") {
			t.Errorf("%s: %v", given, err)
		}
	}
	if _, _, err := Resolve(Sources{Flags: map[string][]string{"named-key": {"ci:owner:hunter2"}}}); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a key is told: %v", err)
	}
}
