package httpapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// guard decides who may talk to the server. Immutable.
type guard struct {
	keys       [][sha256.Size]byte // hashes, so that comparing takes the same time for every length
	anyOrigin  bool
	origins    []string // lower case, no trailing slash
	knownHosts []string // lower case, no port
}

func newGuard(keys, origins, hosts []string) *guard {
	g := &guard{}
	for _, key := range keys {
		g.keys = append(g.keys, sha256.Sum256([]byte(key)))
	}
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

// check passes r on, or answers it and returns false.
func (g *guard) check(w http.ResponseWriter, r *http.Request) bool {
	if !g.hostAllowed(r) {
		WriteError(w, &Error{
			Status: http.StatusForbidden, Type: TypePermission, Code: "host_not_allowed",
			Message: "the Host header " + quoteClip(r.Host) + " is not a name of this machine's loopback: use http://localhost or http://127.0.0.1",
		})
		return false
	}
	origin := r.Header.Get("Origin")
	if origin != "" && !g.cors(w, r, origin) {
		return false
	}
	if len(g.keys) == 0 || r.URL.Path == "/healthz" || r.URL.Path == "/readyz" || g.authorized(r) {
		return true
	}
	w.Header().Set("WWW-Authenticate", `Bearer realm="skein"`)
	message := "no API key was given: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
	if r.Header.Get("Authorization") != "" || r.Header.Get("X-Api-Key") != "" {
		message = "the API key is not one of this node's: use a key that the node was started with (--api-key)"
	}
	WriteError(w, &Error{
		Status: http.StatusUnauthorized, Type: TypeAuthentication, Code: "invalid_api_key", Message: message,
	})
	return false
}

// hostAllowed refuses names on loopback that are not loopback's: a web page
// whose name was made to resolve to 127.0.0.1 could otherwise read the API as
// its own origin (DNS rebinding). With API keys such a page has no key.
func (g *guard) hostAllowed(r *http.Request) bool {
	if len(g.keys) > 0 {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return true // not from a network: a handler called directly
	}
	if tcp, ok := local.(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() {
		return true
	}
	host := strings.ToLower(hostname(r.Host))
	if host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return true // an address cannot be rebound
	}
	return slices.Contains(g.knownHosts, host)
}

// cors sets the CORS headers an allowed origin gets and answers preflights.
// A foreign origin gets no such header, so its pages cannot read answers, and
// nothing that changes or costs anything is done for it.
func (g *guard) cors(w http.ResponseWriter, r *http.Request, origin string) bool {
	h := w.Header()
	h.Add("Vary", "Origin")
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

func (g *guard) authorized(r *http.Request) bool {
	var given []string
	if scheme, key, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		given = append(given, strings.TrimSpace(key))
	}
	if key := r.Header.Get("X-Api-Key"); key != "" {
		given = append(given, key)
	}
	match := 0
	for _, key := range given {
		hash := sha256.Sum256([]byte(key))
		for i := range g.keys {
			match |= subtle.ConstantTimeCompare(hash[:], g.keys[i][:])
		}
	}
	return match == 1
}

// hostname is host without port and brackets.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.Trim(host, "[]")
}

func quoteClip(s string) string { return "'" + clip(s, 100) + "'" }
