package access

import (
	"net/http"
	"strings"

	"github.com/skein-run/skein/internal/cluster"
)

// Need is what a route asks of who calls it.
type Need string

// Needs, each with the roles that have it.
const (
	NeedNothing Need = "nothing" // not even a key
	NeedKey     Need = "key"     // a key of any role
	NeedChat    Need = "chat"    // chat or manage
	NeedRead    Need = "read"    // read or manage
	NeedManage  Need = "manage"
)

// rule says what a path needs by method. A path that ends in a slash covers
// what is below. The method "" stands for those that are not named.
type rule struct {
	path  string
	needs map[string]Need
}

const get, post, other = http.MethodGet, http.MethodPost, ""

// table is who may call what: one row for each route or group of routes. A
// route without a row needs read for GET and manage for the rest; a test of
// package node asks for a row all the same, so that somebody has thought of it.
var table = []rule{
	{"/healthz", map[string]Need{get: NeedNothing}},
	{"/readyz", map[string]Need{get: NeedNothing}},

	{"/{$}", map[string]Need{get: NeedKey}}, // the address itself

	{"/v1/models", map[string]Need{get: NeedKey}},
	{"/v1/models/", map[string]Need{get: NeedKey}},
	{"/v1/chat/completions", map[string]Need{post: NeedChat}},
	{"/v1/completions", map[string]Need{post: NeedChat}},

	{"/v1/cluster", map[string]Need{get: NeedRead}},
	{"/v1/cluster/", map[string]Need{get: NeedRead, other: NeedManage}},
	{"/v1/cluster/keys", map[string]Need{other: NeedManage}},
	{"/v1/cluster/keys/", map[string]Need{other: NeedManage}},
	{"/node_id", map[string]Need{get: NeedRead}},
	{"/openapi.json", map[string]Need{get: NeedRead}},
	{"/openapi-3.0.json", map[string]Need{get: NeedRead}},
	{"/docs", map[string]Need{get: NeedRead}},
	{"/metrics", map[string]Need{get: NeedRead}},

	// Where exo's clients look.
	{"/models", map[string]Need{get: NeedKey}},
	{"/models/", map[string]Need{get: NeedKey, other: NeedManage}},
	{"/models/custom", map[string]Need{get: NeedRead}},
	{"/state", map[string]Need{get: NeedRead}},
	{"/state/", map[string]Need{get: NeedRead}},
	{"/events", map[string]Need{get: NeedRead}},
	{"/place_instance", map[string]Need{post: NeedManage}},
	{"/instance", map[string]Need{post: NeedManage}},
	{"/instance/", map[string]Need{get: NeedRead, other: NeedManage}},
	{"/download/", map[string]Need{get: NeedRead, other: NeedManage}},
	// Who has chat ends its own requests, who may manage any: the handler sees
	// to that.
	{"/v1/cancel/", map[string]Need{post: NeedChat}},
	{"/bench/chat/completions", map[string]Need{post: NeedChat}},
	{"/onboarding", map[string]Need{get: NeedRead, post: NeedManage}},
	{"/images", map[string]Need{get: NeedRead}},
	{"/v1/feature-flags", map[string]Need{get: NeedRead}},
	{"/v1/instance-links", map[string]Need{get: NeedRead, other: NeedManage}},
	{"/v1/instance-links/", map[string]Need{get: NeedRead, other: NeedManage}},
	{"/v1/traces", map[string]Need{get: NeedRead}},
	{"/v1/traces/", map[string]Need{get: NeedRead, other: NeedManage}},
	// Each call of a tool is a request to a route above, with the same key.
	{"/mcp", map[string]Need{other: NeedKey}},
}

// Rule is what a method on a path needs, and whether a row says so. path is the
// pattern that a route was registered with, without its method: what is
// dispatched decides, so that no spelling of a path gets around it.
func Rule(method, path string) (need Need, said bool) {
	if method == http.MethodHead {
		method = get
	}
	best := -1
	for i, r := range table {
		covers := r.path == path || strings.HasSuffix(r.path, "/") && strings.HasPrefix(path, r.path)
		if covers && (best < 0 || len(r.path) > len(table[best].path)) {
			best = i
		}
	}
	if best >= 0 {
		if n, ok := table[best].needs[method]; ok {
			return n, true
		}
		if n, ok := table[best].needs[other]; ok {
			return n, true
		}
	}
	if method == get {
		return NeedRead, false
	}
	return NeedManage, false
}

// Command tells whether a method on a pattern changes something that is not the
// caller's own request, so that its refusal is worth telling.
func Command(method, path string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return false
	}
	need, _ := Rule(method, path)
	return need == NeedManage || strings.HasPrefix(path, "/v1/cancel/")
}

// has tells whether a role has what is needed.
func (n Need) has(r cluster.Role) bool {
	switch n {
	case NeedNothing, NeedKey:
		return true
	case NeedChat:
		return r == cluster.RoleChat || r == cluster.RoleManage
	case NeedRead:
		return r == cluster.RoleRead || r == cluster.RoleManage
	}
	return r == cluster.RoleManage
}

// Role names the least role that has what is needed, for messages.
func (n Need) Role() string {
	if n == NeedKey {
		return "chat or read"
	}
	return string(n)
}
