package manage

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/go-cmp/cmp"
)

// The document is made of the code; a change of it is seen in review. Run
// go test ./internal/httpapi/manage -update after a wanted one.
func TestOpenAPI(t *testing.T) {
	w := call(serve(t, newFake()), "GET", "/openapi.json", "")
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, w.Body.Bytes(), "", " "); err != nil {
		t.Fatal(err)
	}
	pretty.WriteByte('\n')
	golden := filepath.Join("testdata", "openapi.json")
	if *update {
		if err := os.WriteFile(golden, pretty.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), pretty.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			Summary   string
			Responses map[string]any
		}
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") || strings.Contains(w.Body.String(), "ErrorModel") || strings.Contains(w.Body.String(), "problem+json") {
		t.Errorf("version %q, or the framework's errors are named", doc.OpenAPI)
	}
	var got []string
	for path, methods := range doc.Paths {
		for m, o := range methods {
			got = append(got, strings.ToUpper(m)+" "+path)
			if o.Summary == "" || o.Responses["200"] == nil || o.Responses["default"] == nil {
				t.Errorf("%s %s lacks something: %+v", m, path, o)
			}
		}
	}
	slices.Sort(got)
	list := []string{
		"DELETE /v1/cluster/library/{name}", "DELETE /v1/cluster/models/{name}", "GET /node_id", "GET /v1/cluster", "GET /v1/cluster/events", "GET /v1/cluster/health",
		"GET /v1/cluster/library", "GET /v1/cluster/library/{name}", "GET /v1/cluster/models", "GET /v1/cluster/models/{name}/status", "GET /v1/cluster/nodes",
		"GET /v1/cluster/nodes/{id}", "POST /v1/cluster/library", "POST /v1/cluster/master", "POST /v1/cluster/models/load", "POST /v1/cluster/models/swap",
		"POST /v1/cluster/nodes/{id}/drain", "POST /v1/cluster/nodes/{id}/resume",
		"DELETE /v1/cluster/keys/{key}", "GET /v1/cluster/audit", "GET /v1/cluster/keys", "POST /v1/cluster/keys",
		"GET /v1/models", "GET /v1/models/{model}", "POST /v1/chat/completions", "POST /v1/completions",
	}
	slices.Sort(list)
	if diff := cmp.Diff(list, got); diff != "" {
		t.Errorf("operations (-want +got):\n%s", diff)
	}
	// The page shows them all, and loads nothing.
	page := call(serve(t, newFake()), "GET", "/docs", "")
	for _, o := range list {
		_, path, _ := strings.Cut(o, " ")
		if !strings.Contains(page.Body.String(), ">"+path+"<") {
			t.Errorf("the page lacks %s", path)
		}
	}
	for _, field := range []string{"preferred_sharding", "estimated_memory_gb", "auto | pipeline | tensor", "Idempotency-Key", "Role of a key: <code>manage</code>"} {
		if !strings.Contains(page.Body.String(), field) {
			t.Errorf("the page lacks %s", field)
		}
	}
	if strings.Contains(page.Body.String(), "<script") || strings.Contains(page.Body.String(), "https://") {
		t.Error("the page loads something from elsewhere")
	}
}

// documented is the document as tools read it.
type documented struct {
	OpenAPI string
	Tags    []struct{ Name, Description string }
	Paths   map[string]map[string]struct {
		OperationID, Summary string
		Tags                 []string
		Security             []map[string][]string
		Parameters           []struct {
			Name, In, Description string
			Schema                huma.Schema
			Example               any
		}
		RequestBody *struct {
			Required bool
			Content  map[string]content
		}
		Responses map[string]struct {
			Description string
			Content     map[string]content
		}
	}
	Components struct {
		Schemas         map[string]map[string]any
		SecuritySchemes map[string]any
	}
}

type content struct {
	Schema  map[string]any
	Example any
}

// Whoever reads the document, or makes a client of it, finds at each operation
// what there is to know, also of what does not follow from Go types.
func TestOperationsAreDescribed(t *testing.T) {
	for _, path := range []string{"/openapi.json", "/openapi-3.0.json"} {
		var doc documented
		w := call(serve(t, newFake()), "GET", path, "")
		if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
			t.Fatal(err)
		}
		if doc.Components.SecuritySchemes["bearer"] == nil || doc.Components.SecuritySchemes["apiKey"] == nil {
			t.Errorf("%s: security schemes %v", path, doc.Components.SecuritySchemes)
		}
		ids := map[string]bool{}
		for route, methods := range doc.Paths {
			for method, o := range methods {
				where := path + ": " + method + " " + route
				if o.OperationID == "" || ids[o.OperationID] || o.Summary == "" || len(o.Tags) != 1 {
					t.Errorf("%s: id %q, summary %q, tags %q", where, o.OperationID, o.Summary, o.Tags)
				}
				ids[o.OperationID] = true
				if !slices.ContainsFunc(doc.Tags, func(tag struct{ Name, Description string }) bool {
					return tag.Name == o.Tags[0] && tag.Description != ""
				}) {
					t.Errorf("%s: nothing is said of the tag %q", where, o.Tags[0])
				}
				if len(o.Security) != 3 || o.Security[0]["bearer"] == nil || o.Security[1]["apiKey"] == nil || len(o.Security[2]) != 0 {
					t.Errorf("%s: security %v", where, o.Security)
				}
				for _, p := range o.Parameters {
					if p.Description == "" || p.Schema.Type == "" || p.In == "path" && p.Example == nil {
						t.Errorf("%s: parameter %s: %q, %q, example %v", where, p.Name, p.Description, p.Schema.Type, p.Example)
					}
				}
				statuses := []string{"200", "401", "403", "429", "503", "default"}
				if o.RequestBody != nil {
					statuses = append(statuses, "400", "413")
					if body := o.RequestBody.Content["application/json"]; body.Example == nil || body.Schema["$ref"] == nil || !o.RequestBody.Required {
						t.Errorf("%s: body %+v", where, o.RequestBody)
					}
				}
				if o.Tags[0] != "inference" && (method != "get" || strings.Contains(route, "{")) {
					statuses = append(statuses, "422")
				}
				for _, s := range statuses {
					if r, ok := o.Responses[s]; !ok || r.Description == "" {
						t.Errorf("%s: nothing is said of status %s", where, s)
					}
				}
				for status, r := range o.Responses {
					for kind, c := range r.Content {
						if c.Schema == nil || c.Example == nil {
							t.Errorf("%s: status %s, %s has %+v", where, status, kind, c)
						}
					}
				}
			}
		}
		// A union without a name has no good type in most languages.
		for name, s := range doc.Components.Schemas {
			for field, p := range s["properties"].(map[string]any) {
				for _, union := range []string{"oneOf", "anyOf", "allOf"} {
					if _, ok := p.(map[string]any)[union]; ok && path == "/openapi.json" {
						t.Errorf("%s.%s is a union", name, field)
					}
				}
			}
		}
	}
}

// Examples are bodies that the API takes, and answers that it could give.
func TestExamplesFitTheirSchemas(t *testing.T) {
	d, err := New(options(newFake()))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var o *huma.OpenAPI
	d.o.Describe = func(described *huma.OpenAPI) { o = described }
	d.Register(http.NewServeMux())
	fits := func(where string, s *huma.Schema, example any) {
		b, err := json.Marshal(example)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		var result huma.ValidateResult
		huma.Validate(o.Components.Schemas, s, huma.NewPathBuffer(nil, 0), huma.ModeReadFromServer, v, &result)
		for _, err := range result.Errors {
			t.Errorf("%s: %v in %s", where, err, b)
		}
	}
	n := 0
	for path, item := range o.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Delete} {
			if op == nil {
				continue
			}
			if op.RequestBody != nil {
				media := op.RequestBody.Content["application/json"]
				fits(op.Method+" "+path, media.Schema, media.Example)
				n++
			}
			for status, r := range op.Responses {
				if media := r.Content["application/json"]; media != nil {
					fits(op.Method+" "+path+" "+status, media.Schema, media.Example)
					n++
				}
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d examples", n)
	}
}
