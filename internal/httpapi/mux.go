package httpapi

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// Mux is where a dialect registers its routes, with net/http's patterns
// ("POST /v1/chat/completions", "GET /v1/models/{id...}").
type Mux interface {
	Handle(pattern string, handler http.Handler)
	HandleFunc(pattern string, handler func(http.ResponseWriter, *http.Request))
	ServeHTTP(w http.ResponseWriter, r *http.Request)
}

// routes is a ServeMux that forgives a trailing or doubled slash, answers
// OPTIONS, and says in the API's error shape which endpoints there are.
// Written while mounting only, then read from any goroutine.
type routes struct {
	mux      *http.ServeMux
	patterns []string // "METHOD /path", as registered
	takers   map[string]Taker
	refused  Refused
}

// Taker is a handler whose pattern matches more paths than it serves, such as
// one that takes the rest of a path and wants a certain end. What it does not
// take counts as if there were no such route.
type Taker interface {
	http.Handler
	// Takes tells whether it serves a path, and if not, which it would: "" if
	// there is none like it.
	Takes(path string) (ok bool, instead string)
}

func newRoutes(refused Refused) *routes {
	return &routes{mux: http.NewServeMux(), takers: map[string]Taker{}, refused: refused}
}

// Handle registers a route. The handler is reached by callers alone who have
// what the table of package access asks for this very pattern.
func (m *routes) Handle(pattern string, handler http.Handler) {
	_, path, ok := strings.Cut(pattern, " ")
	if !ok {
		path = pattern
	}
	m.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		watched, done := m.watch(w, r, path)
		defer done()
		if permit(watched, r, path) {
			handler.ServeHTTP(watched, r)
		}
	})
	m.patterns = append(m.patterns, pattern)
	if t, ok := handler.(Taker); ok {
		m.takers[pattern] = t
	}
}

func (m *routes) HandleFunc(pattern string, handler func(http.ResponseWriter, *http.Request)) {
	m.Handle(pattern, http.HandlerFunc(handler))
}

func (m *routes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.URL.Path, "//") {
		r = withPath(r, path.Clean(r.URL.Path)) // a base URL that ends in a slash
	}
	ok, instead := m.matches(r)
	if ok {
		m.mux.ServeHTTP(w, r)
		return
	}
	hint := ""
	if instead != "" {
		hint = "; did you mean " + clip(instead, 300) + "?"
	}
	if p := strings.TrimRight(r.URL.Path, "/"); p != "" && p != r.URL.Path {
		trimmed := withPath(r, p)
		if ok, _ := m.matches(trimmed); ok {
			m.mux.ServeHTTP(w, trimmed)
			return
		}
	}
	if allowed := m.methods(r); len(allowed) > 0 {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		WriteError(w, &Error{
			Status: http.StatusMethodNotAllowed, Type: TypeInvalidRequest, Code: "method_not_allowed",
			Message: fmt.Sprintf("%s does not take %s: use %s%s", clip(r.URL.Path, 200), r.Method, strings.Join(allowed, " or "), hint),
		})
		return
	}
	if what := unserved(r.URL.Path); what != "" && !m.prefixed(r.URL.Path) {
		WriteError(w, &Error{
			Status: http.StatusNotFound, Type: TypeInvalidRequest, Code: "unknown_url",
			Message: fmt.Sprintf("there is no %s %s here: %s", r.Method, clip(r.URL.Path, 200), what),
		})
		return
	}
	WriteError(w, &Error{
		Status: http.StatusNotFound, Type: TypeInvalidRequest, Code: "unknown_url",
		Message: fmt.Sprintf("there is no %s %s here; the nearest endpoints are %s%s",
			r.Method, clip(r.URL.Path, 200), strings.Join(m.nearest(r.URL.Path, 3), ", "), hint),
	})
}

// matches tells whether a route serves r, and if one nearly does, at which path
// it would.
func (m *routes) matches(r *http.Request) (ok bool, instead string) {
	_, pattern := m.mux.Handler(r)
	if pattern == "" {
		return false, ""
	}
	// The mux would send a path without the slash to the one with it, which is
	// served as the one without.
	_, path, _ := strings.Cut(pattern, " ")
	if rest := strings.Index(path, "{"); rest >= 0 && path[:rest] == r.URL.Path+"/" {
		return false, ""
	}
	if t, ok := m.takers[pattern]; ok {
		return t.Takes(r.URL.Path)
	}
	return true, ""
}

// methods lists what the path of r takes, whatever r's own method.
func (m *routes) methods(r *http.Request) []string {
	probe := withPath(r, cmp.Or(strings.TrimRight(r.URL.Path, "/"), "/"))
	var allowed []string
	for _, method := range []string{
		http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
	} {
		probe.Method = method
		if ok, _ := m.matches(probe); ok {
			allowed = append(allowed, method)
		}
	}
	return allowed
}

// prefixed tells whether a path is one of a route with something before it.
func (m *routes) prefixed(p string) bool {
	p = strings.TrimRight(p, "/")
	return slices.ContainsFunc(m.patterns, func(pattern string) bool {
		_, route, _ := strings.Cut(pattern, " ")
		return route != "" && strings.HasSuffix(p, route)
	})
}

// nearest gives the registered endpoints most like the path, best first.
func (m *routes) nearest(p string, n int) []string {
	p = clip(strings.ToLower(p), 200)
	type candidate struct {
		pattern string
		score   int
	}
	var all []candidate
	for _, pattern := range m.patterns {
		_, route, ok := strings.Cut(pattern, " ")
		if !ok {
			route = pattern
		}
		score := levenshtein.ComputeDistance(p, strings.ToLower(route))
		// "/chat/completions" and "/api/v1/models" miss or add a prefix only.
		if strings.HasSuffix(route, p) || strings.HasSuffix(p, route) {
			score = 0
		}
		all = append(all, candidate{pattern, score})
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return a.score - b.score })
	var best []string
	for _, c := range all[:min(n, len(all))] {
		best = append(best, c.pattern)
	}
	return best
}

// withPath is r with another path; escapes in the old one are kept where they
// can be, so that a model id with an escaped slash stays one.
func withPath(r *http.Request, p string) *http.Request {
	u := new(url.URL)
	*u = *r.URL
	u.Path = p
	if u.RawPath = strings.TrimRight(r.URL.RawPath, "/"); strings.Contains(u.RawPath, "//") {
		u.RawPath = path.Clean(u.RawPath)
	}
	changed := new(http.Request)
	*changed = *r
	changed.URL = u
	return changed
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}
