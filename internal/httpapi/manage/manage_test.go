package manage

import (
	"encoding/json"
	"flag"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/ids"
)

var update = flag.Bool("update", false, "rewrite the golden files of testdata")

func TestLibraryRoutes(t *testing.T) {
	f := newFake()
	h := serve(t, f)
	for _, path := range []string{"/v1/cluster/library", "/v1/cluster/library/"} {
		if w := call(h, "GET", path, ""); w.Code != 200 || !strings.HasPrefix(w.Body.String(), `{"models":[],`) {
			t.Errorf("GET %s: %d %s", path, w.Code, w.Body)
		}
	}
	w := call(h, "POST", "/v1/cluster/library", `{"paths":["/a.gguf","/b c.gguf"]}`, "Content-Type", "application/x-www-form-urlencoded")
	if w.Code != 200 || !slices.Equal(f.added, []string{"/a.gguf", "/b c.gguf"}) {
		t.Errorf("add: %d %s, added %q", w.Code, w.Body, f.added)
	}
	if w := call(h, "GET", "/v1/cluster/library/org/My%20Model-GGUF?context_length=100&slots=3", ""); w.Code != 200 || f.context != 100 || f.slots != 3 {
		t.Errorf("show: %d %s, context %d, slots %d", w.Code, w.Body, f.context, f.slots)
	}
	if w := call(h, "DELETE", "/v1/cluster/library/m/", ""); w.Code != 200 {
		t.Errorf("remove: %d %s", w.Code, w.Body)
	}
	if diff := cmp.Diff([]string{"org/My Model-GGUF", "m"}, f.asked); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

// A model that only another node has is no unknown one: who asks is told where
// to ask.
func TestLibraryElsewhere(t *testing.T) {
	f := newFake()
	f.change(func(in *view.Inputs) {
		m := in.State.Models["m"]
		m.Holders = []ids.Node{"n2"}
		in.State.Models["m"] = m
	})
	f.libraryOnly = true
	h := serve(t, f)
	var list api.LibraryList
	f.entries = []api.LibraryEntry{{Name: "here"}}
	if w := call(h, "GET", "/v1/cluster/library", ""); json.Unmarshal(w.Body.Bytes(), &list) != nil || len(list.Models) != 2 || !slices.Equal(list.Models[1].NodeNames, []string{"Mini"}) {
		t.Errorf("list: %d %s", w.Code, w.Body)
	}
	f.err = api.NewError(404, api.CodeModelNotFound, "name", "model \"m\" is not known")
	for _, method := range []string{"GET", "DELETE"} {
		if w := call(h, method, "/v1/cluster/library/M", ""); w.Code != 404 || !strings.Contains(w.Body.String(), "m is not in the library of this node, but on Mini: ask there") {
			t.Errorf("%s: %d %s", method, w.Code, w.Body)
		}
		if w := call(h, method, "/v1/cluster/library/nope", ""); w.Code != 404 || !strings.Contains(w.Body.String(), "is not known") {
			t.Errorf("%s of nothing: %d %s", method, w.Code, w.Body)
		}
	}
}

// Who opens the address in a browser reads what is there, and that is no route
// for all that is not.
func TestWelcome(t *testing.T) {
	h := serve(t, newFake())
	if w := call(h, "GET", "/", ""); w.Code != 200 || !strings.HasPrefix(w.Body.String(), "skein is running.") || w.Header().Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%d %q %s", w.Code, w.Header(), w.Body)
	}
	if w := call(h, "HEAD", "/", ""); w.Code != 200 {
		t.Errorf("HEAD: %d", w.Code)
	}
	if w := call(h, "POST", "/", "{}"); w.Code != 405 {
		t.Errorf("POST: %d", w.Code)
	}
	for _, path := range []string{"/index.html", "/nothing"} {
		if w := call(h, "GET", path, ""); w.Code != 404 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

// What a web client may expect of any address.
func TestManners(t *testing.T) {
	h := serve(t, newFake())
	for _, path := range []string{"/v1/cluster", "/v1/cluster/health", "/v1/cluster/nodes", "/v1/cluster/nodes/n1", "/v1/cluster/models", "/v1/cluster/models/ready-gguf/status", "/node_id", "/openapi.json", "/docs"} {
		whole := call(h, "GET", path, "")
		slash := call(h, "GET", path+"/", "")
		if whole.Code != 200 || slash.Code != 200 || whole.Body.String() != slash.Body.String() {
			t.Errorf("GET %s: %d, with a slash %d %s", path, whole.Code, slash.Code, slash.Body)
		}
		head := call(h, "HEAD", path, "")
		if head.Code != 200 || head.Header().Get("Content-Type") != whole.Header().Get("Content-Type") {
			t.Errorf("HEAD %s: %d %s", path, head.Code, head.Header())
		}
		options := call(h, "OPTIONS", path, "")
		if options.Code != 204 || !strings.Contains(options.Header().Get("Allow"), "GET") {
			t.Errorf("OPTIONS %s: %d %q", path, options.Code, options.Header().Get("Allow"))
		}
		if w := call(h, "PUT", path, "{}"); w.Code != 405 {
			t.Errorf("PUT %s: %d", path, w.Code)
		}
	}
	if w := call(h, "HEAD", "/v1/cluster/events", ""); w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/event-stream") {
		t.Errorf("HEAD of the stream: %d %s", w.Code, w.Header())
	}
	// A model's name takes the rest of a path, but a list has none, and only the
	// status of one can be read.
	for path, allow := range map[string]string{
		"/v1/cluster/library": "GET, HEAD, POST", "/v1/cluster/library/": "GET, HEAD, POST", "/v1/cluster/library/org/m": "GET, HEAD, DELETE", "/v1/cluster/models": "GET, HEAD",
		"/v1/cluster/models/org/m": "DELETE", "/v1/cluster/models/org/m/status": "GET, HEAD, DELETE", "/v1/cluster/models/status": "DELETE",
	} {
		if got := call(h, "OPTIONS", path, "").Header().Get("Allow"); got != allow {
			t.Errorf("OPTIONS %s: %q, want %q", path, got, allow)
		}
		if w := call(h, "PATCH", path, ""); w.Code != 405 || w.Header().Get("Allow") != allow {
			t.Errorf("PATCH %s: %d %q", path, w.Code, w.Header().Get("Allow"))
		}
	}
	if w := call(h, "DELETE", "/v1/cluster/library", ""); w.Code != 405 {
		t.Errorf("DELETE of the list: %d %s", w.Code, w.Header())
	}
	// Any body may be a form's, so pages of other origins change nothing.
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/v1/cluster/models/load", `{"model_id":"m"}`}, {"POST", "/v1/cluster/models/swap", `{}`}, {"DELETE", "/v1/cluster/models/ready-gguf", ""},
		{"POST", "/v1/cluster/master", `{}`}, {"POST", "/v1/cluster/nodes/n1/drain", ""}, {"PUT", "/v1/cluster", ""},
	} {
		for _, origin := range []string{"https://elsewhere.example", "null"} {
			if w := call(h, c.method, c.path, c.body, "Origin", origin, "Content-Type", "text/plain"); w.Code != http.StatusForbidden {
				t.Errorf("%s %s from %s: %d %s", c.method, c.path, origin, w.Code, w.Body)
			}
		}
	}
	if w := call(h, "POST", "/v1/cluster/models/load", `{"model_id":"m"}`, "Origin", "http://example.com"); w.Code != 200 {
		t.Errorf("the own origin: %d %s", w.Code, w.Body)
	}
	if w := call(h, "GET", "/v1/cluster", "", "Origin", "https://elsewhere.example"); w.Code != 200 || w.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a foreign page reads: %d %s", w.Code, w.Header())
	}
}

// Answers of the API are what the document says of them.
func TestAnswersFollowTheDocument(t *testing.T) {
	h := serve(t, newFake())
	var doc struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]any
				Required   []string
			}
		}
	}
	if err := json.Unmarshal(call(h, "GET", "/openapi.json", "").Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	for path, schema := range map[string]string{
		"/v1/cluster": "Overview", "/v1/cluster/health": "Health", "/v1/cluster/nodes/n1": "Node", "/v1/cluster/models": "ClusterModels", "/v1/cluster/models/m/status": "ModelStatusAnswer",
	} {
		var got map[string]any
		if err := json.Unmarshal(call(h, "GET", path, "").Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		s := doc.Components.Schemas[schema]
		if len(s.Properties) == 0 {
			t.Fatalf("there is no schema %s", schema)
		}
		for name := range got {
			if s.Properties[name] == nil {
				t.Errorf("%s answers %s, which %s lacks", path, name, schema)
			}
		}
		for _, name := range s.Required {
			if _, ok := got[name]; !ok {
				t.Errorf("%s lacks %s", path, name)
			}
		}
	}
}

// Options are checked.
func TestOptions(t *testing.T) {
	f := newFake()
	for name, clear := range map[string]func(*Options){
		"library": func(o *Options) { o.Library = nil }, "cluster": func(o *Options) { o.Cluster = nil }, "node": func(o *Options) { o.Node = "" },
		"version": func(o *Options) { o.Version = "" }, "logger": func(o *Options) { o.Log = nil },
	} {
		o := options(f)
		clear(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	o := options(f)
	o.Commands, o.Name, o.Now = nil, nil, nil
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	mux := http.NewServeMux()
	d.Register(mux)
	if w := call(mux, "POST", "/v1/cluster/models/load", `{"model_id":"m"}`); w.Code == 200 {
		t.Error("commands answer without an implementation")
	}
	name := func(key, operation string, in any) string {
		id, err := d.id(view.Of(view.Inputs{}), Key{key}, operation, in)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	if one, two := name("", "load", 1), name("", "load", 1); one == two || keyOf(name("k", "load", 1)) != "k" || keyOf("k") != "k" {
		t.Error("ids of commands")
	}
	same := name("k", "load", 1)
	if same != name("k", "load", 1) || same == name("k", "load", 2) || same == name("k", "unload", 1) {
		t.Error("ids of commands do not follow from their requests")
	}
}

// Every code of package command has its status.
func TestRefusals(t *testing.T) {
	for code, r := range refusals {
		if r.status < 400 || r.code == "" {
			t.Errorf("%s is %+v", code, r)
		}
	}
	var f *failure
	if err := fail(Refused("x", "m"), "p"); !asFailure(err, &f) || f.GetStatus() != 409 || f.Error() != "m" || f.body.Param != "p" {
		t.Errorf("%+v", f)
	}
	if e := api.NewError(409, "c", "", "m"); e.Status != 409 {
		t.Error(e)
	}
}

func asFailure(err error, f **failure) bool {
	var ok bool
	*f, ok = err.(*failure)
	return ok
}
