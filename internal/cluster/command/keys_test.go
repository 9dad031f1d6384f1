package command_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
)

func newKey(name, id string) cluster.Change {
	return cluster.KeyAdded{Key: cluster.Key{Name: name, ID: id, Role: cluster.RoleManage, Hash: sha256.Sum256([]byte(name + id))}}
}

// by is a command that a key gave at a node.
func by(t *testing.T, who, id string, c cluster.Change) command.Command {
	t.Helper()
	cmd, err := command.Of(id, c)
	if err != nil {
		t.Fatal(err)
	}
	cmd.By, cmd.Via = who, "b"
	return cmd
}

func TestKeyCommands(t *testing.T) {
	w := three(t)
	w.do(by(t, "local", "c1", newKey("ops", "1")), nil)
	if k := w.state.Keys["ops"]; k.By != "local" || k.Hash != sha256.Sum256([]byte("ops1")) {
		t.Errorf("%+v, by %s", k, k.By)
	}
	if r := w.do(by(t, "local", "c1", newKey("ops", "2")), nil); !r.Again || w.state.Keys["ops"].ID != "1" {
		t.Errorf("the same command again: %+v", r)
	}
	for want, c := range map[string]cluster.Change{
		command.Conflict + ": there is a key ops already": newKey("ops", "3"),
		command.UnknownKey + ": there is no key none":     cluster.KeyRevoked{Name: "none"},
		command.Invalid + ": key_added: the name":         newKey("Ops", "4"),
	} {
		_, _, err := w.decide(by(t, "ops", fmt.Sprint("x", want), c))
		code, text, _ := strings.Cut(want, ": ")
		if no, ok := err.(*command.Refusal); !ok || no.Code != code || !strings.Contains(no.Message, text) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	w.do(by(t, "ops", "c2", cluster.KeyRevoked{Name: "ops"}), nil)
	if len(w.state.Keys) != 0 {
		t.Errorf("%+v are left", w.state.Keys)
	}
	if last := w.state.Audit[len(w.state.Audit)-1]; last.By != "ops" || last.Via != "b" || last.What != "revoke key ops" {
		t.Errorf("audited: %+v", last)
	}
}

// What a losing half decided about keys is decided anew, with the name of who
// did; a name that both gave is the winner's.
func TestKeysAfterASplit(t *testing.T) {
	h := split(t, func(w *world) {
		w.do(by(t, "local", "c1", newKey("leaked", "1")), nil)
		w.do(by(t, "local", "c2", newKey("reissued", "1")), nil)
	})
	h.lose(by(t, "ops", "c3", cluster.KeyRevoked{Name: "leaked", ID: "1"}), nil)
	h.lose(by(t, "ops", "c4", newKey("new", "1")), nil)
	h.lose(by(t, "ops", "c5", newKey("both", "lost")), nil)
	h.lose(by(t, "ops", "c6", cluster.KeyRevoked{Name: "reissued", ID: "1"}), nil)
	h.winner.do(by(t, "me", "c7", newKey("both", "won")), nil)
	h.winner.do(by(t, "me", "c8", cluster.KeyRevoked{Name: "reissued", ID: "1"}), nil)
	h.winner.do(by(t, "me", "c9", newKey("reissued", "2")), nil)
	h.heal()
	s := h.winner.state
	var got []string
	for name, k := range s.Keys {
		got = append(got, name+" "+k.ID+" "+k.By)
	}
	slices.Sort(got)
	if want := "both won me, new 1 ops, reissued 2 me"; strings.Join(got, ", ") != want {
		t.Errorf("keys %q, want %s", got, want)
	}
	if o := s.Commands["c5"]; !strings.Contains(o.Dropped, "there is a key both already") {
		t.Errorf("the maker of the lost key is told %+v", o)
	}
	if !slices.ContainsFunc(s.Audit, func(a cluster.Audit) bool {
		return a.Command == "c5" && a.By == "ops" && strings.HasPrefix(a.Result, "dropped: ")
	}) {
		t.Errorf("no audit tells of it: %+v", s.Audit)
	}
	// The secret's hash travels whole, and nothing said of it shows it.
	sum := sha256.Sum256([]byte("new1"))
	if s.Keys["new"].Hash != sum {
		t.Error("the key of the losing half opens nothing")
	}
	if strings.Contains(fmt.Sprintf("%+v", s.Commands), hex.EncodeToString(sum[:])) {
		t.Error("a refusal shows a hash")
	}
}
