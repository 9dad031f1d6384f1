package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// goldenCase is one conversation of testdata/cases.json.
type goldenCase struct {
	Name     string `json:"name"`
	Messages []struct {
		Role             string `json:"role"`
		Content          string `json:"content"`
		Name             string `json:"name"`
		ReasoningContent string `json:"reasoning_content"`
		ToolCallID       string `json:"tool_call_id"`
	} `json:"messages"`
	Tools               json.RawMessage `json:"tools"`
	AddGenerationPrompt *bool           `json:"add_generation_prompt"`
	Args                map[string]any  `json:"args"`
}

func (c goldenCase) input() (Input, []Message) {
	in := Input{Args: c.Args, Now: time.Date(2026, 11, 22, 8, 5, 0, 0, time.UTC)}
	if c.Tools != nil {
		in.Tools = c.Tools
	}
	in.NoGenerationPrompt = c.AddGenerationPrompt != nil && !*c.AddGenerationPrompt
	var messages []Message
	for _, m := range c.Messages {
		messages = append(messages, Message{Role: m.Role, Content: m.Content, Name: m.Name, ReasoningContent: m.ReasoningContent, ToolCallID: m.ToolCallID})
	}
	return in, messages
}

// goldenResult is what Python's Jinja2 makes of a case.
type goldenResult struct {
	Text  string `json:"text"`
	Error string `json:"error"`
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// compare renders every case and returns the differences from golden. The
// template alone is rendered, without what Render does for templates that lack
// a role.
func compare(t *testing.T, folder string, golden map[string]map[string]goldenResult) (total int, misses map[string]string) {
	t.Helper()
	var cases []goldenCase
	readJSON(t, "testdata/cases.json", &cases)
	misses = make(map[string]string)
	for name, results := range golden {
		source, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		tmpl, err := Compile(t.Context(), Options{Source: string(source), BOS: "<s>", EOS: "</s>"})
		for _, c := range cases {
			want, ok := results[c.Name]
			if !ok {
				t.Fatalf("%s has no golden result for %q: run make golden", name, c.Name)
			}
			total++
			key := name + ": " + c.Name
			if err != nil {
				misses[key] = err.Error()
				continue
			}
			in, messages := c.input()
			got, err := tmpl.run(t.Context(), messages, in)
			var refused *TemplateError
			switch {
			case want.Error != "" && errors.As(err, &refused):
			case want.Error != "":
				misses[key] = fmt.Sprintf("rendered %q (%v), Python says %s", got, err, want.Error)
			case err != nil:
				misses[key] = err.Error()
			case got != want.Text:
				misses[key] = cmp.Diff(want.Text, got)
			}
		}
	}
	return total, misses
}

func TestGolden(t *testing.T) {
	var golden map[string]map[string]goldenResult
	readJSON(t, "testdata/golden.json", &golden)
	files, err := filepath.Glob("testdata/templates/*.jinja")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(golden) || len(files) < 15 {
		t.Fatalf("%d templates, golden results for %d: run make golden", len(files), len(golden))
	}
	_, misses := compare(t, "testdata/templates", golden)
	for key, diff := range misses {
		t.Errorf("%s\n%s", key, diff)
	}
}

// TestUpstreamTemplates compares with Jinja2 on templates that are not ours to
// keep here: SKEIN_TEMPLATES_DIR is a folder of them with the golden.json that
// scripts/golden-templates.py made for it.
func TestUpstreamTemplates(t *testing.T) {
	folder := os.Getenv("SKEIN_TEMPLATES_DIR")
	if folder == "" {
		t.Skip("SKIPPED: no upstream templates; make golden-upstream TEMPLATES=FOLDER runs this (docs/templates.md)")
	}
	var golden map[string]map[string]goldenResult
	readJSON(t, filepath.Join(folder, "golden.json"), &golden)
	var known []string
	readJSON(t, "testdata/upstream-misses.json", &known)
	total, misses := compare(t, folder, golden)
	t.Logf("%d of %d renderings of %d templates equal Jinja2's", total-len(misses), total, len(golden))
	for key, diff := range misses {
		if !slices.Contains(known, key) {
			t.Errorf("%s\n%s", key, diff)
		}
	}
	for _, key := range known {
		if _, miss := misses[key]; !miss {
			t.Logf("%s is equal now: take it off the list of known misses", key)
		}
	}
}
