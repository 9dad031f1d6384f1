//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
)

// exoShapes is the structure of exo's own answers, by the name of the request:
// see internal/httpapi/raw.
func exoShapes(t *testing.T) map[string]any {
	t.Helper()
	b, err := os.ReadFile("../../internal/httpapi/raw/testdata/shapes.json")
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// as holds a real answer against a structure, key by key: what exo has must be
// there and of its type, and nothing else but what is listed as more. A value
// that is null is of any type, since exo's may be too.
func as(path string, want any, got any, named map[string]any, more ...string) (out []string) {
	if name, ok := want.(string); ok && named[name] != nil {
		want = named[name]
	}
	bad := func(format string, args ...any) { out = append(out, path+": "+fmt.Sprintf(format, args...)) }
	if got == nil {
		return nil
	}
	switch want := want.(type) {
	case string:
		kind := map[bool]string{true: "number"}[isNumber(got)]
		switch got.(type) {
		case string:
			kind = "string"
		case bool:
			kind = "bool"
		}
		if want != "null" && kind != want {
			bad("exo has a %s, we %v", want, got)
		}
	case []any:
		list, ok := got.([]any)
		if !ok {
			bad("exo has a list, we %v", got)
		}
		for i, x := range list {
			if len(want) > 0 {
				out = append(out, as(fmt.Sprintf("%s[%d]", path, i), want[0], x, named, more...)...)
			}
		}
	case map[string]any:
		object, ok := got.(map[string]any)
		if !ok {
			bad("exo has an object, we %v", got)
			return out
		}
		if each, ids := want["*"]; ids {
			for _, key := range slices.Sorted(maps.Keys(object)) {
				out = append(out, as(path+".*", each, object[key], named, more...)...)
			}
			return out
		}
		union := len(object) == 1 && !slices.Contains([]string{"data", "previews", "completed", "disaggregation"}, slices.Collect(maps.Keys(object))[0]) && len(want) > 1
		for _, key := range slices.Sorted(maps.Keys(want)) {
			x, ok := object[key]
			if !ok && !union {
				bad("%s is missing", key)
			}
			if ok {
				out = append(out, as(path+"."+key, want[key], x, named, more...)...)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(object)) {
			if _, ok := want[key]; !ok && len(want) > 0 && !slices.Contains(more, key) {
				bad("we have %s, exo does not", key)
			}
		}
	}
	return out
}

func isNumber(v any) bool { _, ok := v.(float64); return ok }

// TestExoReplay puts each request of which exo's answer was recorded to three
// real nodes: what exo answered well has its shape here, and what it refused, or
// took and dropped, has its true status.
func TestExoReplay(t *testing.T) {
	dir := saveExact(t)
	var n [3]*node
	for i := range n {
		o := options{home: t.TempDir()}
		if i == 0 {
			o.args = []string{"--models-dir", dir}
		}
		n[i] = member(t, n[0], o)
	}
	together(t, n[:]...)
	for _, x := range n {
		eventually(t, exact+" to be known", func() bool { return strings.Contains(x.get("/models").body, `"`+exact+`"`) })
		// Each has heard of the others' memory once; that holds for a while, also
		// when they are too busy to say it again.
		eventually(t, "the model's placement on three nodes", func() bool {
			return x.get("/instance/placement?model_id="+exact+"&min_nodes=3").status == http.StatusOK
		})
	}
	shapes := exoShapes(t)
	const chat = `"messages":[{"role":"user","content":"hi"}]`
	for i, c := range []struct {
		method, path, body string
		status             int
		code               string // of an error
		shape              string // "": the status says all
		more               []string
	}{
		{"GET", "/node_id", "", 200, "", "", nil},
		{"GET", "/state", "", 200, "", "state, three idle nodes", nil},
		{"GET", "/state/topology", "", 200, "", "topology", nil},
		{"GET", "/state/nope", "", 404, "not_found", "", nil},
		{"GET", "/models", "", 200, "", "models", []string{"loaded"}},
		{"GET", "/v1/models", "", 200, "", "models", []string{"loaded"}},
		{"GET", "/v1/models?status=downloaded", "", 200, "", "models", []string{"loaded"}},
		{"POST", "/models/add", `{"model_id":"` + exact + `"}`, 200, "", "a model that is added", []string{"loaded"}},
		{"POST", "/models/add", `{"model_id":"no/such"}`, 404, "model_not_found", "", nil}, // exo: 400
		{"DELETE", "/models/custom/no/such", "", 404, "not_found", "", nil},
		{"GET", "/models/search?query=exa", "", 200, "", "search", nil}, // exo: 500
		{"GET", "/onboarding", "", 200, "", "onboarding", nil},
		{"GET", "/v1/feature-flags", "", 200, "", "feature flags", nil},
		{"GET", "/v1/instance-links", "", 200, "", "instance links", nil},
		{"GET", "/v1/traces", "", 200, "", "traces", nil},
		{"GET", "/images", "", 200, "", "images", nil},
		{"GET", "/instance/placement?model_id=" + exact + "&min_nodes=1", "", 200, "", "placement", nil},
		{"GET", "/instance/placement?model_id=" + exact + "&min_nodes=2&sharding=Pipeline&instance_meta=MlxRing", "", 200, "", "placement, two stages", nil},
		{"GET", "/instance/placement?model_id=" + exact + "&min_nodes=3&sharding=Tensor", "", 200, "", "placement, three ranks", []string{"tensorParts"}},
		{"GET", "/instance/placement?model_id=" + exact + "&min_nodes=9", "", 409, "not_enough_nodes", "", nil},     // exo: 400
		{"GET", "/instance/placement?model_id=" + exact + "&sharding=Foo", "", 422, "invalid_value", "", nil},       //
		{"GET", "/instance/placement", "", 422, "invalid_value", "", nil},                                           //
		{"GET", "/instance/placement?model_id=no/such", "", 404, "model_not_found", "", nil},                        // exo: 500
		{"GET", "/instance/previews?model_id=" + exact, "", 200, "", "previews", []string{"tensorParts"}},           //
		{"GET", "/instance/previews?model_id=no/such", "", 404, "model_not_found", "", nil},                         // exo: 400
		{"GET", "/instance/deadbeef", "", 404, "not_found", "", nil},                                                //
		{"DELETE", "/instance/nope", "", 404, "not_found", "", nil},                                                 //
		{"POST", "/instance", `{"instance":{}}`, 422, "invalid_value", "", nil},                                     //
		{"POST", "/place_instance", `{`, 422, "invalid_json", "", nil},                                              //
		{"POST", "/place_instance", `{}`, 422, "invalid_value", "", nil},                                            //
		{"POST", "/place_instance", `{"model_id":"no/such"}`, 404, "model_not_found", "", nil},                      // exo: 500
		{"POST", "/place_instance", `{"model_id":"` + exact + `","min_nodes":9}`, 409, "not_enough_nodes", "", nil}, // exo: 200
		{"POST", "/download/start", `{}`, 422, "invalid_value", "", nil},
		{"POST", "/v1/cancel/abc", `{}`, 404, "not_found", "", nil},
		{"POST", "/v1/chat/completions", `{"model": `, 400, "invalid_json", "", nil},                                        // exo: 422, as the next three
		{"POST", "/v1/chat/completions", `{"model":"` + exact + `"}`, 400, "missing_required_parameter", "", nil},           //
		{"POST", "/v1/chat/completions", `{"model":"` + exact + `","messages":"hi"}`, 400, "invalid_type", "", nil},         //
		{"POST", "/v1/chat/completions", ``, 400, "invalid_json", "", nil},                                                  //
		{"POST", "/v1/chat/completions", `{"model":"no/such",` + chat + `}`, 404, "model_not_found", "", nil},               //
		{"GET", "/v1/chat/completions", "", 405, "method_not_allowed", "", nil},                                             // exo: 404
		{"POST", "/v1/chat/completions", `{"model":"` + exact + `",` + chat + `,"max_tokens":3}`, 200, "", "chat", nil},     // exo: 404 without an instance
		{"POST", "/bench/chat/completions", `{"model":"` + exact + `",` + chat + `,"max_tokens":3}`, 200, "", "bench", nil}, //
		{"GET", "/state", "", 200, "", "state, one node that runs a model", nil},
		{"GET", "/nope", "", 404, "unknown_url", "", nil},
	} {
		at := n[i%3]
		r := at.must(c.method, c.path, c.body)
		what := fmt.Sprintf("%s %.90s %.60s", c.method, c.path, c.body)
		if c.code != "" {
			r.want(t, c.status, c.code)
		}
		var v any
		if err := json.Unmarshal([]byte(r.body), &v); err != nil || r.status != c.status {
			t.Errorf("%s: status %d, want %d, %v: %.300s", what, r.status, c.status, err, r.body)
			continue
		}
		if c.shape == "" {
			continue
		}
		if shapes[c.shape] == nil {
			t.Fatalf("there is no shape %q", c.shape)
		}
		for _, d := range as("", shapes[c.shape], v, shapes, append(c.more, "system_fingerprint", "timings", "refusal", "annotations")...) {
			t.Errorf("%s: %s", what, d)
		}
	}
}
