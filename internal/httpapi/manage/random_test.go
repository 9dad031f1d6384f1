package manage

import (
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/skein-run/skein/api"
)

// Whatever is sent, the answer is one of the contract: no 5xx, and every
// refusal has the shape of an error with a message.
func TestAnyRequestHasAnAnswer(t *testing.T) {
	h := serve(t, newFake())
	value := rapid.OneOf(
		rapid.Just(any(nil)), rapid.Map(rapid.Float64(), func(x float64) any { return x }), rapid.Map(rapid.Int(), func(x int) any { return x }),
		rapid.Map(rapid.SampledFrom([]string{"", "m", "ready-gguf", "new-gguf", "n1", "\x00", "/", "auto", "true", strings.Repeat("x", 1500)}), func(s string) any { return s }),
		rapid.Just(any(true)), rapid.Just(any([]any{"n1", nil})), rapid.Just(any([]any{"studio"})), rapid.Just(any(map[string]any{})),
	)
	field := rapid.SampledFrom([]string{"model_id", "min_nodes", "preferred_sharding", "node_ids", "context_length", "slots", "dry_run", "replicas", "unload_model_id", "load_model_id", "drain_seconds", "node_id", "other"})
	name := rapid.OneOf(rapid.SampledFrom([]string{"m", "READY-gguf", "org/Ready-GGUF", "n1", "nope", "..", ".", "a//b", "/", "%", "status", "ä\xff"}), rapid.String())
	rapid.Check(t, func(t *rapid.T) {
		escaped := url.PathEscape(name.Draw(t, "name"))
		method := rapid.SampledFrom([]string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}).Draw(t, "method")
		path := rapid.SampledFrom([]string{
			"/v1/cluster", "/v1/cluster/health", "/v1/cluster/nodes", "/v1/cluster/nodes/" + escaped, "/v1/cluster/models", "/v1/cluster/models/" + escaped + "/status", "/v1/cluster/models/" + escaped,
			"/v1/cluster/models/load", "/v1/cluster/models/swap", "/v1/cluster/master", "/v1/cluster/nodes/" + escaped + "/drain", "/v1/cluster/nodes/" + escaped + "/resume", "/node_id",
		}).Draw(t, "path") + rapid.SampledFrom([]string{"", "/", "?drain_seconds=" + escaped, "?x=" + escaped}).Draw(t, "end")
		body, err := json.Marshal(rapid.MapOf(field, value).Draw(t, "body"))
		if err != nil {
			t.Skip("a number that JSON has not")
		}
		if rapid.Bool().Draw(t, "cut") {
			body = body[:rapid.IntRange(0, len(body)).Draw(t, "length")]
		}
		r := httptest.NewRequest(method, path, strings.NewReader(string(body)))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch {
		case w.Code >= 500:
			t.Fatalf("%s %s %s: %d %s", method, path, body, w.Code, w.Body)
		case w.Code >= 400:
			var e api.ErrorResponse
			d := json.NewDecoder(w.Body)
			d.DisallowUnknownFields()
			if err := d.Decode(&e); err != nil || e.Error.Message == "" || e.Error.ErrorCode() == "" {
				t.Fatalf("%s %s %s: %d %+v, %v", method, path, body, w.Code, e, err)
			}
		}
	})
}
