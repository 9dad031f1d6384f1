package manage

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/httpapi"
)

func TestAddKey(t *testing.T) {
	f := newFake()
	h := serve(t, f)
	var a api.AddKeyAnswer
	w := call(h, "POST", "/v1/cluster/keys", `{"name":"ci","role":"chat","expires_seconds":60,"requests_per_minute":5,"concurrent":2}`, "Idempotency-Key", "mine")
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || w.Code != 200 {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	want := cluster.Key{Name: "ci", ID: "made-up", Role: cluster.RoleChat, Hash: sha256.Sum256([]byte("sk-skein-made-up")), Created: now, Expires: now.Add(time.Minute), PerMinute: 5, Concurrent: 2, By: "open"}
	if f.key != want || keyOf(f.id) != "mine" {
		t.Errorf("command %s makes %+v", f.id, f.key)
	}
	if a.Secret != "sk-skein-made-up" || a.Key.Name != "ci" || a.Key.ExpiresAt != a.Key.CreatedAt+60 || !strings.Contains(a.Message, "from now on every request needs a key; no key of the cluster may manage yet") {
		t.Errorf("%+v", a)
	}
	for body, want := range map[string]string{
		`{"name":"CI","role":"chat"}`:                       "422 name a-z",
		`{"name":"local","role":"chat"}`:                    "422 name audits call",
		`{"name":"","role":"chat"}`:                         "422 name a-z",
		`{"name":"ci","role":"owner"}`:                      "422 role expected value to be one of",
		`{"name":"ci"}`:                                     "422 role expected required property role",
		`{"name":"ci","role":"chat","concurrent":-1}`:       "422 concurrent >= 0",
		`{"name":"ci","role":"chat","expires_seconds":1e9}`: "422 expires_seconds <=",
		`{"name":"ci","role":"chat","secret":"mine"}`:       "422 secret unexpected",
	} {
		w := call(h, "POST", "/v1/cluster/keys", body)
		var e api.ErrorResponse
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Error.Param == nil {
			t.Fatalf("%s: %d %s", body, w.Code, w.Body)
		}
		parts := strings.SplitN(want, " ", 3)
		if fmt.Sprint(w.Code) != parts[0] || *e.Error.Param != parts[1] || !strings.Contains(e.Error.Message, parts[2]) {
			t.Errorf("%s: %d %s, want %s", body, w.Code, w.Body, want)
		}
	}
	f.refuse = Refused(command.Conflict, "there is a key ci already")
	if w := call(h, "POST", "/v1/cluster/keys", `{"name":"ci","role":"chat"}`); w.Code != 409 || strings.Contains(w.Body.String(), "sk-skein") {
		t.Errorf("refused: %d %s", w.Code, w.Body)
	}
	f.refuse = Refused(command.UnknownKey, "there is no key ci; there are: none")
	if w := call(h, "DELETE", "/v1/cluster/keys/ci", ""); w.Code != 404 || !strings.Contains(w.Body.String(), api.CodeKeyNotFound) {
		t.Errorf("revoke what is not: %d %s", w.Code, w.Body)
	}
}

func TestRevokeTheLastKey(t *testing.T) {
	f := newFake()
	f.in.State.Keys = map[string]cluster.Key{"ops": {Name: "ops", Role: cluster.RoleManage}}
	w := call(serve(t, f), "DELETE", "/v1/cluster/keys/ops", "")
	if w.Code != 200 || !strings.Contains(w.Body.String(), "it was the last key") || f.asked[len(f.asked)-1] != "ops" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestNothingTellsOfSecrets: no GET of the API, no stream of changes and no log
// has a hash of a key, or a secret.
func TestNothingTellsOfSecrets(t *testing.T) {
	f := newFake()
	hash := sha256.Sum256([]byte("some secret"))
	f.in.State.Keys = map[string]cluster.Key{"ops": {Name: "ops", ID: "i", Role: cluster.RoleManage, Hash: hash, Created: now, By: "local"}}
	f.in.State.Audit = []cluster.Audit{{Index: 1, At: now, By: "ops", Via: "n1", Command: "c", What: "load m", Result: "done"}}
	var log bytes.Buffer
	o := options(f)
	o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	s, err := httpapi.New(httpapi.Options{Address: "127.0.0.1:0", Log: o.Log})
	if err != nil {
		t.Fatal(err)
	}
	s.Mount(d)
	var told strings.Builder
	for _, p := range s.Patterns() {
		if path, ok := strings.CutPrefix(p, "GET "); ok && path != "/v1/cluster/events" {
			told.WriteString(call(s.Handler(), "GET", strings.NewReplacer("{id}", "n1", "{name...}", "m/status").Replace(path), "").Body.String())
		}
	}
	if !strings.Contains(told.String(), `"created_by":"local"`) || !strings.Contains(told.String(), `"what":"load m"`) {
		t.Errorf("the lists of keys and audits are not among what was told: %s", told.String())
	}
	before := view.Of(f.in)
	f.in.State = f.in.State.Apply(cluster.Event{Index: f.in.State.Index + 1, By: "ops", Via: "n1", Command: "c2", Change: cluster.KeyAdded{Key: cluster.Key{Name: "new", ID: "i", Role: cluster.RoleChat, Hash: sha256.Sum256([]byte("sk-skein-made-up"))}}})
	for _, e := range view.Diff(before, view.Of(f.in)) {
		told.Write(appendEvent(nil, e))
	}
	if !strings.Contains(told.String(), `"what":"add key new (chat)"`) {
		t.Errorf("no event tells of the command: %s", told.String())
	}
	call(s.Handler(), "POST", "/v1/cluster/keys", `{"name":"ci","role":"chat"}`) // the answer to this has the secret
	if !strings.Contains(log.String(), `msg=audit key=open node=n1 command_id=made-up what=add-key result=done`) {
		t.Errorf("the log does not tell of the command: %s", log.String())
	}
	told.WriteString(log.String())
	made := sha256.Sum256([]byte("sk-skein-made-up"))
	for _, secret := range []string{hex.EncodeToString(hash[:]), hex.EncodeToString(made[:]), hex.EncodeToString(hash[:4]), strings.Trim(fmt.Sprint(hash[:4]), "[]"), "sk-skein-made-up"} {
		if strings.Contains(told.String(), secret) {
			t.Errorf("%s is told", secret)
		}
	}
}
