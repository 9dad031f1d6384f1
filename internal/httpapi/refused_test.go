package httpapi

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/httpapi/access"
)

// two are routes that refuse what they are asked.
type two struct{}

func (two) Register(m Mux) {
	refuse := func(w http.ResponseWriter, r *http.Request) {
		WriteError(w, Invalid("x", "invalid_value", "x is %s", r.PathValue("name")))
	}
	m.HandleFunc("POST /v1/cluster/nodes/{name}/drain", refuse)
	m.HandleFunc("GET /v1/cluster/nodes/{name}", refuse)
	m.HandleFunc("POST /v1/chat/completions", refuse)
	m.HandleFunc("POST /v1/cluster/models/load", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	m.HandleFunc("POST /v1/cluster/models/swap", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "in plain words", http.StatusBadGateway) })
}

// Commands that are refused are told with the key's name and their route,
// whatever path was written; what only asks, and requests for text, are not,
// unless the key may not ask at all.
func TestRefusedAreTold(t *testing.T) {
	var told []string
	s, err := New(Options{
		Address: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler),
		Access: access.Options{Keys: []access.Key{{Name: "ops", Role: cluster.RoleManage, Secret: "m"}, {Name: "see", Role: cluster.RoleRead, Secret: "r"}}},
		Refused: func(c Caller, what string, status int, code, reason string) {
			told = append(told, fmt.Sprintf("%s|%s|%d|%s|%.20s", c.Name, what, status, code, reason))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Mount(two{})
	for _, c := range []struct{ key, method, path, want string }{
		{"m", "POST", "/v1/cluster/nodes/a/drain", "config:ops|POST /v1/cluster/nodes/{name}/drain|400|invalid_value|x is a"},
		{"m", "POST", "//v1//cluster/nodes/b%2Fc/drain/", "config:ops|POST /v1/cluster/nodes/{name}/drain|400|invalid_value|x is b/c"},
		{"r", "POST", "/v1/cluster/nodes/a/drain", "config:see|POST /v1/cluster/nodes/{name}/drain|403|insufficient_role|POST /v1/cluster/nod"},
		{"r", "POST", "/v1/chat/completions", "config:see|POST /v1/chat/completions|403|insufficient_role|POST /v1/chat/comple"},
		{"m", "POST", "/v1/cluster/models/swap", "config:ops|POST /v1/cluster/models/swap|502||Bad Gateway"},
		{"m", "POST", "/v1/chat/completions", ""},
		{"m", "GET", "/v1/cluster/nodes/a", ""},
		{"m", "POST", "/v1/cluster/models/load", ""},
		{"", "POST", "/v1/cluster/models/load", ""},
		{"unknown", "POST", "/v1/cluster/nodes/a/drain", ""},
		{"m", "POST", "/no/such/route", ""},
	} {
		told = nil
		r := httptest.NewRequest(c.method, c.path, nil)
		if c.key != "" {
			r.Header.Set("X-Api-Key", c.key)
		}
		s.Handler().ServeHTTP(httptest.NewRecorder(), r)
		if d := cmp.Diff(c.want, strings.Join(told, "\n")); d != "" {
			t.Errorf("%s %s with %q (-want +got):\n%s", c.method, c.path, c.key, d)
		}
	}
}
