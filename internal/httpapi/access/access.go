// Package access decides who may do what at the API: which keys there are,
// whose key a request carries, which role a route needs, and how much a key may
// ask for. It knows no routes beyond its table, opens nothing and answers
// nothing: package httpapi asks it and writes the answers.
//
// Keys are those of the node's own configuration, the one of this node's own
// commands, and those of the cluster's state, which are looked at anew with
// every request. A Door may be used from any goroutine.
package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/cluster"
)

// Names of callers that no key of the cluster can have.
const (
	NameLocal  = "local"  // a command on the node's own machine, with the token of its address file
	NameOpen   = "open"   // no key was asked for
	prefixFile = "config" // "config:NAME" is a key of the node's configuration
)

// Caller is who sent a request.
type Caller struct {
	Name string // of the key
	Role cluster.Role

	id                    string // of the key
	perMinute, concurrent int    // 0: as many as it likes
	owner                 string // as Owner gives it
}

// Owner names who opened a request, so that it can be told later that somebody
// else is not the same, on any node. It tells the key and nothing of its
// secret, and is another one if a key is revoked and one of its name is made.
// "": nobody, who owns nothing.
func (c Caller) Owner() string { return c.owner }

// ownerOf makes the owner of a key of a node's configuration. Nodes may give
// one name to different secrets, and different names to one: the secret it is.
func ownerOf(hash [sha256.Size]byte) string {
	sum := sha256.Sum256(append([]byte("skein: who opened a request\x00"), hash[:]...))
	return "config/" + hex.EncodeToString(sum[:16])
}

// May tells whether the caller has what is needed.
func (c Caller) May(n Need) bool { return n.has(c.Role) }

type callerKey struct{}

// With gives a context of a request by c.
func With(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// Of is who a request's context is of; false: it came past no Door.
func Of(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}

// Key is a key of the node's configuration.
type Key struct {
	Name   string // "": it has none
	Role   cluster.Role
	Secret string
}

// Options make a Door.
type Options struct {
	Keys []Key
	// Local is the secret of this node's own commands, accepted from this
	// machine alone; "": there is none.
	Local string
	// Anyone lets others than this machine in while there is no key at all.
	Anyone bool
	// Cluster gives the keys of the cluster as this node knows them now; nil:
	// there are none. What it gives is not changed any more.
	Cluster func() map[string]cluster.Key
	// Now is the clock by which keys expire; nil: time.Now.
	Now func() time.Time
}

// Door tells callers apart.
type Door struct {
	known    []known
	local    [sha256.Size]byte
	hasLocal bool
	anyone   bool
	cluster  func() map[string]cluster.Key
	now      func() time.Time
	limits   limits
}

// known is a key by the hash of its secret: so comparing takes the same time
// whatever was sent, and no secret stays in memory.
type known struct {
	caller Caller
	hash   [sha256.Size]byte
}

// New makes a Door.
func New(o Options) (*Door, error) {
	d := &Door{anyone: o.Anyone, cluster: o.Cluster, now: o.Now}
	if d.cluster == nil {
		d.cluster = func() map[string]cluster.Key { return nil }
	}
	if d.now == nil {
		d.now = time.Now
	}
	for i, k := range o.Keys {
		name := k.Name
		switch {
		case k.Secret == "":
			return nil, errors.New("an API key is empty: leave --api-key out or give it a value")
		case !k.Role.Known():
			return nil, fmt.Errorf("an API key has the role %q: give it one of %v", k.Role, cluster.Roles())
		}
		if name == "" {
			name = fmt.Sprintf("api-key-%d", i+1)
		}
		hash := sha256.Sum256([]byte(k.Secret))
		d.known = append(d.known, known{Caller{Name: prefixFile + ":" + name, Role: k.Role, owner: ownerOf(hash)}, hash})
	}
	if o.Local != "" {
		d.local, d.hasLocal = sha256.Sum256([]byte(o.Local)), true
	}
	return d, nil
}

// Asks tells whether callers need a key: there is one, be it expired, so that
// time opens nothing.
func (d *Door) Asks() bool { return len(d.known)+len(d.cluster()) > 0 }

// Verdict is what a Door says of a request.
type Verdict int

// Verdicts.
const (
	Welcome  Verdict = iota
	NoKey            // none was sent, and one is needed
	Unknown          // none of those sent is known: mistyped or revoked
	Expired          // what was sent is worth nothing any more
	Stranger         // no key exists, and the request is of another machine
)

// Admit finds out who sent a request. All keys are compared with all that was
// sent, each in constant time, so that the time tells nothing of them.
func (d *Door) Admit(r *http.Request) (Caller, Verdict) {
	given := Given(r.Header)
	here := Here(r)
	keys := d.cluster()
	var found, late *Caller
	match := func(hash, of [sha256.Size]byte, c Caller, into **Caller) {
		if subtle.ConstantTimeCompare(hash[:], of[:]) == 1 {
			*into = &c
		}
	}
	now := d.now()
	for _, secret := range given {
		hash := sha256.Sum256([]byte(secret))
		for _, k := range keys {
			into := &found
			if k.Expired(now) {
				into = &late
			}
			match(hash, k.Hash, Caller{Name: k.Name, Role: k.Role, id: k.ID, perMinute: k.PerMinute, concurrent: k.Concurrent, owner: "key/" + k.ID}, into)
		}
		for _, k := range d.known {
			match(hash, k.hash, k.caller, &found)
		}
		if d.hasLocal && here {
			match(hash, d.local, Caller{Name: NameLocal, Role: cluster.RoleManage}, &found)
		}
	}
	switch {
	case found != nil:
		return *found, Welcome
	case len(d.known)+len(keys) == 0:
		if d.anyone || Loopback(r) {
			return Caller{Name: NameOpen, Role: cluster.RoleManage}, Welcome
		}
		return Caller{}, Stranger
	case late != nil:
		return Caller{}, Expired
	case len(given) > 0 || r.Header.Get("Authorization") != "":
		return Caller{}, Unknown
	}
	return Caller{}, NoKey
}

// Given lists the keys that a request carries: `Authorization: Bearer KEY` and
// `x-api-key: KEY`. One of a moderate length that is known is enough.
func Given(h http.Header) []string {
	var out []string
	if scheme, key, ok := strings.Cut(h.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		if key = strings.TrimSpace(key); key != "" {
			out = append(out, key)
		}
	}
	if key := h.Get("X-Api-Key"); key != "" {
		out = append(out, key)
	}
	return out
}

// Loopback tells whether a request came over a loopback connection: both ends
// of its socket are 127.0.0.0/8 or ::1. What headers say (X-Forwarded-For,
// Forwarded, Host) counts for nothing, since anybody can write them. A handler
// that is called without a connection is called by this process.
func Loopback(r *http.Request) bool {
	local, remote, called := ends(r)
	return called || local != nil && remote != nil && local.IsLoopback() && remote.IsLoopback()
}

// Here tells whether a request came from the machine that it came to: over
// loopback, or from the very address that it was sent to.
func Here(r *http.Request) bool {
	local, remote, called := ends(r)
	return called || local != nil && remote != nil && (local.IsLoopback() && remote.IsLoopback() || local.Equal(remote))
}

// ends are the addresses of a request's connection, nil where it is none of IP.
func ends(r *http.Request) (local, remote net.IP, called bool) {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return nil, nil, true
	}
	if tcp, ok := addr.(*net.TCPAddr); ok {
		local = tcp.IP
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		host, _, _ = strings.Cut(host, "%") // a zone
		remote = net.ParseIP(host)
	}
	return local, remote, false
}

// secretPrefix begins every key that skein makes, so that people and scanners
// of repositories know one when they see it.
const secretPrefix = "sk-skein-"

// NewSecret makes a key: 256 bits of randomness.
func NewSecret() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails, says its documentation
	return secretPrefix + base64.RawURLEncoding.EncodeToString(b[:])
}
