package manage

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/generation"
)

// fake is a node with one loaded model and what a test puts into it.
type fake struct {
	entries []api.LibraryEntry
	err     error
	asked   []string // name, and context and slots of Show
	added   []string
	context int
	slots   int
	load    api.LoadRequest
}

func (f *fake) List(context.Context) ([]api.LibraryEntry, error) { return f.entries, f.err }
func (f *fake) Add(_ context.Context, paths []string) ([]api.LibraryEntry, error) {
	f.added = paths
	return []api.LibraryEntry{{Name: "new", Paths: paths}}, f.err
}
func (f *fake) Show(_ context.Context, name string, contextLength, slots int) (api.LibraryModel, error) {
	f.asked, f.context, f.slots = append(f.asked, name), contextLength, slots
	return api.LibraryModel{LibraryEntry: api.LibraryEntry{Name: name}}, f.err
}
func (f *fake) Remove(_ context.Context, name string) (api.LibraryEntry, error) {
	f.asked = append(f.asked, name)
	return api.LibraryEntry{Name: name}, f.err
}
func (f *fake) Loaded(context.Context) ([]api.Model, error) {
	return []api.Model{{InstanceID: "i", ModelID: "org/m", ModelName: "m", Sharding: "pipeline", Status: "running"}}, f.err
}
func (f *fake) Downloading(context.Context) ([]api.Download, error) { return nil, nil }
func (f *fake) Load(_ context.Context, req api.LoadRequest) (api.LoadAnswer, error) {
	f.load = req
	return api.LoadAnswer{ModelID: req.ModelID, Placement: map[string]string{"n": "whole"}}, f.err
}
func (f *fake) Unload(_ context.Context, name string) (api.UnloadAnswer, error) {
	f.asked = append(f.asked, name)
	return api.UnloadAnswer{ModelID: name}, f.err
}

// serve mounts the dialect on a plain mux.
func serve(t *testing.T, f *fake) http.Handler {
	t.Helper()
	d, err := New(Options{Library: f, Models: f, Commands: f, Version: "v1", Now: func() time.Time { return time.UnixMilli(1700000000250) }})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	d.Register(mux)
	return mux
}

func call(h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req := httptest.NewRequest(method, path, r)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

// The shape that scripts rely on, to the byte.
func TestClusterModels(t *testing.T) {
	w := call(serve(t, &fake{}), "GET", "/v1/cluster/models", "")
	want := `{"loaded":[{"instance_id":"i","model_id":"org/m","model_name":"m","sharding":"pipeline","instance_type":"LlamaCpp",` +
		`"nodes":[],"node_names":[],"storage_size_gb":0,"runner_statuses":{},"ready":true,"status":"running",` +
		`"predicted_tokens_per_second":0,"measured_tokens_per_second":0,"context_length":0,"slots":0,"memory_gb":0}],` +
		`"downloading":[],"timestamp":1700000000.25}` + "\n"
	if diff := cmp.Diff(want, w.Body.String()); diff != "" || w.Code != 200 {
		t.Errorf("status %d (-want +got):\n%s", w.Code, diff)
	}
	if ct := w.Header().Get("Content-Type"); ct != "application/json" {
		t.Errorf("content type %q", ct)
	}
}

func TestLibraryRoutes(t *testing.T) {
	f := &fake{}
	h := serve(t, f)
	for _, path := range []string{"/v1/cluster/library", "/v1/cluster/library/"} {
		if w := call(h, "GET", path, ""); w.Code != 200 || !strings.HasPrefix(w.Body.String(), `{"models":[],`) {
			t.Errorf("GET %s: %d %s", path, w.Code, w.Body)
		}
	}
	// curl -d sends a form's Content-Type.
	w := call(h, "POST", "/v1/cluster/library", `{"paths":["/a.gguf","/b c.gguf"]}`, "Content-Type", "application/x-www-form-urlencoded")
	if w.Code != 200 || !slices.Equal(f.added, []string{"/a.gguf", "/b c.gguf"}) {
		t.Errorf("add: %d %s, added %q", w.Code, w.Body, f.added)
	}
	if w := call(h, "GET", "/v1/cluster/library/org/My%20Model-GGUF?context_length=100&slots=3", ""); w.Code != 200 || f.context != 100 || f.slots != 3 {
		t.Errorf("show: %d %s, context %d, slots %d", w.Code, w.Body, f.context, f.slots)
	}
	if w := call(h, "DELETE", "/v1/cluster/library/m", ""); w.Code != 200 {
		t.Errorf("remove: %d %s", w.Code, w.Body)
	}
	if w := call(h, "POST", "/v1/cluster/models/load", `{"model_id":"m","context_length":7,"slots":2}`); w.Code != 200 || f.load.ContextLength != 7 {
		t.Errorf("load: %d %s", w.Code, w.Body)
	}
	if w := call(h, "DELETE", "/v1/cluster/models/org/m", ""); w.Code != 200 {
		t.Errorf("unload: %d %s", w.Code, w.Body)
	}
	if diff := cmp.Diff([]string{"org/My Model-GGUF", "m", "org/m"}, f.asked); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestErrors(t *testing.T) {
	retry := api.NewError(503, api.CodeUnavailable, "", "starting; ask again")
	retry.RetryAfter = 3
	tests := []struct {
		name               string
		err                error
		method, path, body string
		status             int
		code, param, text  string
	}{
		{"no JSON", nil, "POST", "/v1/cluster/library", `{"paths":`, 400, "invalid_body", "", "JSON"},
		{"no body", nil, "POST", "/v1/cluster/library", ``, 400, "invalid_body", "", "body"},
		{"wrong type", nil, "POST", "/v1/cluster/library", `{"paths":"x"}`, 422, "invalid_value", "paths", "array"},
		{"none given", nil, "POST", "/v1/cluster/library", `{"paths":[]}`, 422, "invalid_value", "paths", "paths"},
		{"field missing", nil, "POST", "/v1/cluster/models/load", `{}`, 422, "invalid_value", "", "model_id"},
		{"unknown field", nil, "POST", "/v1/cluster/models/load", `{"model_id":"x","slot":1}`, 422, "invalid_value", "slot", "slot"},
		{"bad query", nil, "GET", "/v1/cluster/library/m?slots=many", ``, 422, "invalid_value", "slots", "slots"},
		{"negative", nil, "GET", "/v1/cluster/library/m?context_length=-1", ``, 422, "invalid_value", "context_length", "0"},
		{"api error", api.NewError(404, api.CodeModelNotFound, "name", "no m; there is n"), "GET", "/v1/cluster/library/m", ``, 404, "model_not_found", "name", "there is n"},
		{"kind", &generation.Error{Kind: generation.KindNoMemory, Message: "need 2 GB"}, "POST", "/v1/cluster/models/load", `{"model_id":"m"}`, 507, "", "", "need 2 GB"},
		{"retry", retry, "GET", "/v1/cluster/models", ``, 503, "unavailable", "", "ask again"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := call(serve(t, &fake{err: tt.err}), tt.method, tt.path, tt.body)
			var body api.ErrorResponse
			d := json.NewDecoder(w.Body)
			d.DisallowUnknownFields()
			if err := d.Decode(&body); err != nil {
				t.Fatalf("not the shape of an error: %v", err)
			}
			if w.Code != tt.status || !strings.Contains(body.Error.Message, tt.text) {
				t.Errorf("status %d, message %q; want %d and %q", w.Code, body.Error.Message, tt.status, tt.text)
			}
			if tt.code != "" && body.Error.ErrorCode() != tt.code {
				t.Errorf("code %q, want %q", body.Error.ErrorCode(), tt.code)
			}
			if tt.param != "" && (body.Error.Param == nil || *body.Error.Param != tt.param) {
				t.Errorf("param is not %q: %+v", tt.param, body.Error)
			}
			if ct := w.Header().Get("Content-Type"); ct != "application/json" {
				t.Errorf("content type %q", ct)
			}
			if tt.err == retry && w.Header().Get("Retry-After") != "3" {
				t.Errorf("Retry-After is %q", w.Header().Get("Retry-After"))
			}
		})
	}
}

// What goes wrong inside is not told to a client.
func TestInternalErrorIsHidden(t *testing.T) {
	w := call(serve(t, &fake{err: errors.New("secret path /root")}), "GET", "/v1/cluster/library", "")
	if w.Code != 500 || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestOpenAPI(t *testing.T) {
	w := call(serve(t, &fake{}), "GET", "/openapi.json", "")
	var doc struct {
		OpenAPI    string
		Paths      map[string]map[string]any
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("version %q", doc.OpenAPI)
	}
	var got []string
	for path, methods := range doc.Paths {
		for m := range methods {
			got = append(got, strings.ToUpper(m)+" "+path)
		}
	}
	slices.Sort(got)
	want := []string{
		"DELETE /v1/cluster/library/{name}", "DELETE /v1/cluster/models/{name}",
		"GET /v1/cluster/library", "GET /v1/cluster/library/{name}", "GET /v1/cluster/models",
		"POST /v1/cluster/library", "POST /v1/cluster/models/load",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("operations (-want +got):\n%s", diff)
	}
	if strings.Contains(w.Body.String(), "ErrorModel") || strings.Contains(w.Body.String(), "problem+json") {
		t.Error("the document names the framework's errors")
	}
	if _, ok := doc.Components.Schemas["ErrorResponse"]; !ok {
		t.Error("the document lacks the shape of errors")
	}
}

// Options are checked.
func TestOptions(t *testing.T) {
	f := &fake{}
	for name, o := range map[string]Options{"library": {Models: f, Version: "v"}, "models": {Library: f, Version: "v"}, "version": {Library: f, Models: f}} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	d, err := New(Options{Library: f, Models: f, Version: "v"})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	d.Register(mux)
	if w := call(mux, "POST", "/v1/cluster/models/load", `{"model_id":"m"}`); w.Code == 200 {
		t.Error("commands answer without an implementation")
	}
}
