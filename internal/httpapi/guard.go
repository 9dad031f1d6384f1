package httpapi

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/httpapi/access"
)

// guard decides who may talk to the server. Immutable but for what it counts.
type guard struct {
	door       *access.Door
	anyOrigin  bool
	origins    []string // lower case, no trailing slash
	knownHosts []string // lower case, no port
	strangers  *strangers
}

func newGuard(door *access.Door, origins, hosts []string, log *slog.Logger) *guard {
	g := &guard{door: door, strangers: &strangers{log: log, now: time.Now}}
	for _, origin := range origins {
		if origin == "*" {
			g.anyOrigin = true
			continue
		}
		origin = strings.ToLower(strings.TrimSuffix(origin, "/"))
		g.origins = append(g.origins, origin)
		if u, err := url.Parse(origin); err == nil {
			g.knownHosts = append(g.knownHosts, u.Hostname())
		}
	}
	for _, host := range hosts {
		g.knownHosts = append(g.knownHosts, strings.ToLower(host))
	}
	return g
}

// check gives r with its caller, or answers it and gives nil. leave is called
// when r is done.
func (g *guard) check(w http.ResponseWriter, r *http.Request) (_ *http.Request, leave func()) {
	if !g.hostAllowed(r) {
		WriteError(w, &Error{
			Status: http.StatusForbidden, Type: TypePermission, Code: "host_not_allowed",
			Message: "the Host header " + quoteClip(r.Host) + " may be a web page's, whose name was made to mean this machine: use http://localhost, an IP address, or a name of the local network, or start the node with --allow-host " + clip(hostname(r.Host), 100),
		})
		return nil, nil
	}
	// No browser sends two; who does is held to the worst of them.
	for _, origin := range r.Header.Values("Origin") {
		if origin != "" && !g.cors(w, r, origin) {
			return nil, nil
		}
	}
	if need, _ := access.Rule(r.Method, r.URL.Path); need == access.NeedNothing {
		return r, func() {} // its route asks for nobody
	}
	caller, verdict := g.door.Admit(r)
	if verdict != access.Welcome {
		g.strangers.note(r, turnedAway(verdict))
		w.Header().Set("WWW-Authenticate", `Bearer realm="skein"`)
		WriteError(w, &Error{
			Status: http.StatusUnauthorized, Type: TypeAuthentication, Code: "invalid_api_key", Message: turnedAway(verdict),
		})
		return nil, nil
	}
	if _, inside := access.Of(r.Context()); inside {
		return r.WithContext(access.With(r.Context(), caller)), func() {} // part of a request that was counted
	}
	leave, err := g.door.Enter(caller)
	if err != nil {
		WriteError(w, err)
		return nil, nil
	}
	return r.WithContext(access.With(r.Context(), caller)), leave
}

// turnedAway says why a caller is, and what helps.
func turnedAway(v access.Verdict) string {
	switch v {
	case access.Unknown:
		return "the API key is not one of this node's or the cluster's, or it was revoked: use one that 'skein keys add' made or that the node was started with (--api-key)"
	case access.Expired:
		return "the API key has expired: make another with 'skein keys add'"
	case access.Stranger:
		return "this node has no API key yet, so it serves its own machine alone: make one there with 'skein keys add', or start it with --api-key"
	}
	return "no API key was given: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
}

const codeInsufficientRole = "insufficient_role"

// permit lets a request to its route if its caller has what the route needs,
// or answers it.
func permit(w http.ResponseWriter, r *http.Request, path string) bool {
	need, _ := access.Rule(r.Method, path)
	caller, ok := access.Of(r.Context())
	if need == access.NeedNothing || ok && caller.May(need) {
		return true
	}
	WriteError(w, &Error{
		Status: http.StatusForbidden, Type: TypePermission, Code: codeInsufficientRole,
		Message: fmt.Sprintf("%s %s needs a key with the role %s, and the key %s has the role %s", r.Method, clip(r.URL.Path, 200), need.Role(), caller.Name, caller.Role),
	})
	return false
}

// hostAllowed refuses names that somebody elsewhere may have made to mean this
// machine: a web page of such a name could otherwise use the API as its own
// origin (DNS rebinding), from the browser of anybody who may reach it. Where
// keys are asked for such a page has none.
func (g *guard) hostAllowed(r *http.Request) bool {
	if g.door.Asks() {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return true // not from a network: a handler called directly
	}
	tcp, ok := local.(*net.TCPAddr)
	if !ok {
		return true
	}
	host := strings.ToLower(hostname(r.Host))
	if host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return true // an address cannot be rebound
	}
	return slices.Contains(g.knownHosts, host) || !tcp.IP.IsLoopback() && localName(host)
}

// localName tells a name that means something in its own network only: nobody
// can register it for the world, and so not for a page.
func localName(host string) bool {
	host = strings.TrimSuffix(host, ".")
	if !strings.Contains(host, ".") {
		return true
	}
	for _, domain := range []string{".local", ".lan", ".internal", ".home.arpa", ".localdomain"} {
		if strings.HasSuffix(host, domain) {
			return true
		}
	}
	return false
}

// cors sets the CORS headers an allowed origin gets and answers preflights.
// A foreign origin gets no such header, so its pages cannot read answers, and
// nothing that changes or costs anything is done for it.
func (g *guard) cors(w http.ResponseWriter, r *http.Request, origin string) bool {
	h := w.Header()
	h.Set("Vary", "Origin")
	preflight := r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
	if !g.originAllowed(r, origin) {
		if !preflight && (r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions) {
			return true
		}
		WriteError(w, &Error{
			Status: http.StatusForbidden, Type: TypePermission, Code: "origin_not_allowed",
			Message: "pages of " + quoteClip(origin) + " may not use this node: allow them with --allow-origin " + clip(origin, 100),
		})
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", "X-Request-Id, Retry-After")
	if !preflight {
		return true
	}
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
	if wanted := r.Header.Get("Access-Control-Request-Headers"); wanted != "" {
		h.Set("Access-Control-Allow-Headers", wanted)
	}
	if r.Header.Get("Access-Control-Request-Private-Network") == "true" {
		h.Set("Access-Control-Allow-Private-Network", "true")
	}
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return false
}

func (g *guard) originAllowed(r *http.Request, origin string) bool {
	origin = strings.ToLower(origin)
	if g.anyOrigin || slices.Contains(g.origins, origin) {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && u.Host == strings.ToLower(r.Host)
}

// Caller is who sent a request, as package access knows it.
type Caller = access.Caller

// What a Caller may be asked for.
const (
	NeedChat   = access.NeedChat
	NeedRead   = access.NeedRead
	NeedManage = access.NeedManage
)

// RoleOf names the least role that a route asks for, by its method and pattern;
// "": any. key is false if it does not even ask for a key.
func RoleOf(method, pattern string) (role string, key bool) {
	need, _ := access.Rule(method, pattern)
	switch need {
	case access.NeedNothing:
		return "", false
	case access.NeedKey:
		return "", true
	}
	return need.Role(), true
}

// CallerOf is who sent the request that a context is of; false: it came past no
// guard.
func CallerOf(ctx context.Context) (Caller, bool) { return access.Of(ctx) }

// NewSecret makes the secret of a key.
func NewSecret() string { return access.NewSecret() }

// hostname is host without port and brackets.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.Trim(host, "[]")
}

func quoteClip(s string) string { return "'" + clip(s, 100) + "'" }
