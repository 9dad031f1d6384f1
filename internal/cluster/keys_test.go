package cluster_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/cluster"
)

// aKey is a key whose secret is its name.
func aKey(name string, role cluster.Role) cluster.Key {
	return cluster.Key{Name: name, ID: "id-" + name, Role: role, Hash: sha256.Sum256([]byte(name)), Expires: time.Unix(5000, 0).UTC(), PerMinute: 60, Concurrent: 2}
}

func drawKeyChange(t *rapid.T, s cluster.State) cluster.Change {
	name := rapid.SampledFrom([]string{"ops", "ci", "grafana"}).Draw(t, "key")
	if rapid.IntRange(0, 3).Draw(t, "revoke") == 0 {
		return cluster.KeyRevoked{Name: name, ID: rapid.SampledFrom([]string{"", "id-" + name, "older"}).Draw(t, "id")}
	}
	if rapid.IntRange(0, 5).Draw(t, "audited") == 5 {
		return cluster.Audited{What: "promote node a", Result: rapid.SampledFrom([]string{"done", ""}).Draw(t, "result")}
	}
	k := aKey(name, rapid.SampledFrom([]cluster.Role{"chat", "read", "manage", "manage", "owner"}).Draw(t, "role"))
	if rapid.IntRange(0, 5).Draw(t, "same secret") == 5 {
		k.Hash = sha256.Sum256([]byte("ops"))
	}
	return cluster.KeyAdded{Key: k}
}

// TestKeysDoNotShow: whatever is made of a state or a change for people, there
// is no hash of a key in it, as hex, as base64, or as a list of numbers. What is
// made for nodes has it.
func TestKeysDoNotShow(t *testing.T) {
	shown := 0
	rapid.Check(t, func(t *rapid.T) {
		log, states := drawHistory(t)
		for i, s := range states {
			texts := map[string]string{"%v": fmt.Sprintf("%v %v", s, log[i]), "%+v": fmt.Sprintf("%+v %+v", s, log[i].Change), "%#v": fmt.Sprintf("%#v %#v", s, log[i].Change), "%x": fmt.Sprintf("%x %X", s.Keys, s.Keys)}
			for name, v := range map[string]any{"state": s, "change": log[i].Change, "event": log[i], "keys": s.Keys} {
				b, err := json.Marshal(v)
				if err != nil {
					t.Fatal(err)
				}
				texts["JSON of "+name] = string(b)
			}
			stored, err := s.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range s.Keys {
				for form, text := range texts {
					for _, hash := range forms(k.Hash) {
						if strings.Contains(text, hash) {
							t.Fatalf("the hash of key %s shows in %s: %s", k.Name, form, text)
						}
					}
				}
				if !bytes.Contains(stored, []byte(hex.EncodeToString(k.Hash[:]))) {
					t.Fatalf("a snapshot lacks the hash of key %s", k.Name)
				}
				shown++
			}
			if bytes.Contains([]byte(texts["JSON of state"]), []byte(`"keys"`)) {
				t.Fatal("a state's JSON tells of keys")
			}
		}
	})
	if shown == 0 {
		t.Error("there was never a key")
	}
}

// forms are what a hash may look like.
func forms(h cluster.KeyHash) []string {
	b := h[:]
	return []string{
		hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b)), base64.StdEncoding.EncodeToString(b)[:40], base64.URLEncoding.EncodeToString(b)[:40],
		strings.Trim(fmt.Sprint(b), "[]"), strings.Trim(fmt.Sprintf("%#v", [32]byte(b)), "[32]uint8{}"), strings.Trim(strings.ReplaceAll(fmt.Sprint(b), " ", ","), "[]"),
	}
}

func TestKeys(t *testing.T) {
	add := func(k cluster.Key) cluster.Change { return cluster.KeyAdded{Key: k} }
	s := play(t, cluster.State{}, add(aKey("ops", cluster.RoleManage)), add(aKey("ci", cluster.RoleChat)))
	if k := s.Keys["ops"]; k.Created != time.Unix(1000, 0).UTC() || k.Role != cluster.RoleManage || k.PerMinute != 60 {
		t.Errorf("%+v", k)
	}
	odd := func(change func(*cluster.Key)) cluster.Change {
		k := aKey("new", cluster.RoleRead)
		change(&k)
		return add(k)
	}
	for want, c := range map[string]cluster.Change{
		"there is a key ops already":       add(aKey("ops", cluster.RoleRead)),
		"must be of a-z":                   odd(func(k *cluster.Key) { k.Name = "Ops" }),
		"begin with a letter or digit":     odd(func(k *cluster.Key) { k.Name = "-x" }),
		"at most 64":                       odd(func(k *cluster.Key) { k.Name = strings.Repeat("x", 65) }),
		"what audits call":                 odd(func(k *cluster.Key) { k.Name = "local" }),
		"the role of key new":              odd(func(k *cluster.Key) { k.Role = "owner" }),
		"has no hash":                      odd(func(k *cluster.Key) { k.Hash = cluster.KeyHash{} }),
		"needs an id":                      odd(func(k *cluster.Key) { k.ID = "" }),
		"the limits of key new":            odd(func(k *cluster.Key) { k.Concurrent = -1 }),
		"from 0, which is none, to 100000": odd(func(k *cluster.Key) { k.PerMinute = 1e6 + 1 }),
		"is that of another key":           odd(func(k *cluster.Key) { k.Hash = s.Keys["ci"].Hash }),
		"there is no key new":              cluster.KeyRevoked{Name: "new"},
		"there is a newer one":             cluster.KeyRevoked{Name: "ci", ID: "another"},
		"must have from 1":                 cluster.Audited{What: "x"},
	} {
		if err := s.Admit(cluster.Event{Index: s.Index + 1, Session: s.Session, Change: c}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	s = play(t, s, cluster.KeyRevoked{Name: "ci", ID: "id-ci"}, cluster.KeyRevoked{Name: "ops"})
	if s.Keys != nil {
		t.Errorf("keys %v are left", s.Keys)
	}
	for n := range 256 {
		s = play(t, s, add(aKey(fmt.Sprintf("k%d", n), cluster.RoleChat)))
	}
	if err := s.Admit(cluster.Event{Index: s.Index + 1, Session: s.Session, Change: add(aKey("more", cluster.RoleChat))}); err == nil || !strings.Contains(err.Error(), "revoke some") {
		t.Errorf("one more key than there may be: %v", err)
	}
}

func TestExpiry(t *testing.T) {
	k := aKey("x", cluster.RoleChat)
	for at, want := range map[int64]bool{4999: false, 5000: true, 9999: true} {
		if k.Expired(time.Unix(at, 0)) != want {
			t.Errorf("at %d: %v", at, !want)
		}
	}
	if k.Expires = (time.Time{}); k.Expired(time.Unix(1<<40, 0)) {
		t.Error("a key without an end ends")
	}
}

// TestAudit: of each command that somebody gave there is one entry, of the
// newest so many.
func TestAudit(t *testing.T) {
	s := play(t, cluster.State{}, beginning()...)
	if len(s.Audit) != 0 {
		t.Fatalf("what nobody asked for is audited: %+v", s.Audit)
	}
	give := func(command, by string, c cluster.Change) {
		s = s.Apply(cluster.Event{Index: s.Index + 1, Session: s.Session, At: s.At, Command: command, By: by, Via: "a", Change: c})
	}
	give("c1", "ops", cluster.ModelUnwanted{Wanted: "w0", Cause: "unloaded"})
	give("", "ops", cluster.ModelUnwanted{Wanted: "w1", Cause: "unloaded"}) // a later event of it
	give("c2", "", cluster.NodeDrained{Node: "a"})
	give("c3", "local", cluster.NodeDrained{Node: "b"})
	give("c4", "local", cluster.NodeDrained{Node: "b"}) // does not fit
	give("c5", "ops", cluster.KeyAdded{Key: aKey("ci", cluster.RoleChat)})
	give("c6", "ops", cluster.Audited{What: "promote node b", Result: "refused: no"})
	give("c7", "ops", cluster.CommandDropped{Command: "c7", Reason: "it is so"})
	var got []string
	for _, a := range s.Audit {
		got = append(got, fmt.Sprintf("%s %s@%s: %s, %s", a.Command, a.By, a.Via, a.What, a.Result))
	}
	want := []string{"c1 ops@a: unload big, done", "c3 local@a: drain node b, done", "c5 ops@a: add key ci (chat), done", "c6 ops@a: promote node b, refused: no", "c7 ops@a: command dropped, dropped: it is so"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
	if s.Keys["ci"].By != "ops" {
		t.Errorf("the key was made by %q", s.Keys["ci"].By)
	}
	for n := range 500 {
		give(fmt.Sprint("d", n), "ops", cluster.Audited{What: "x", Result: "done"})
	}
	if err := cluster.Check(s); err != nil || len(s.Audit) != 200 || s.Audit[199].Command != "d499" || s.Audit[0].Command != "d300" {
		t.Errorf("%d audits from %+v on, %v", len(s.Audit), s.Audit[0], err)
	}
	if err := s.Admit(cluster.Event{Index: s.Index + 1, Session: s.Session, By: strings.Repeat("x", 81), Change: cluster.SessionBegan{}}); err == nil {
		t.Error("a name without end is taken")
	}
}
