package access

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cluster"
)

// from makes a request that came over a connection.
func from(remote, local string, headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/v1/models", nil)
	r.RemoteAddr = net.JoinHostPort(remote, "40000")
	ip, zone, _ := strings.Cut(local, "%")
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.ParseIP(ip), Zone: zone, Port: 52415}))
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

func newDoor(t *testing.T, o Options) *Door {
	t.Helper()
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestRules(t *testing.T) {
	for _, c := range []struct {
		method, path string
		need         Need
		said         bool
	}{
		{"GET", "/healthz", NeedNothing, true},
		{"HEAD", "/readyz", NeedNothing, true},
		{"POST", "/healthz", NeedManage, false},
		{"GET", "/v1/models", NeedKey, true},
		{"HEAD", "/v1/models/{id...}", NeedKey, true},
		{"DELETE", "/v1/models/{id...}", NeedManage, false},
		{"POST", "/v1/chat/completions", NeedChat, true},
		{"POST", "/v1/completions", NeedChat, true},
		{"GET", "/v1/completions", NeedRead, false},
		{"POST", "/v1/completionsx", NeedManage, false},
		{"GET", "/v1/cluster", NeedRead, true},
		{"GET", "/v1/cluster/nodes/{id}", NeedRead, true},
		{"POST", "/v1/cluster/nodes/{id}/drain", NeedManage, true},
		{"POST", "/v1/cluster/models/load", NeedManage, true},
		{"DELETE", "/v1/cluster/models/{name...}", NeedManage, true},
		{"PUT", "/v1/cluster/whatever", NeedManage, true},
		{"GET", "/v1/cluster/keys", NeedManage, true},
		{"HEAD", "/v1/cluster/keys", NeedManage, true},
		{"POST", "/v1/cluster/keys", NeedManage, true},
		{"DELETE", "/v1/cluster/keys/{name}", NeedManage, true},
		{"GET", "/v1/cluster/keys/{name}", NeedManage, true},
		{"GET", "/v1/cluster/keysmith", NeedRead, true},
		{"GET", "/not/thought/of", NeedRead, false},
		{"POST", "/not/thought/of", NeedManage, false},
		{"BREW", "/not/thought/of", NeedManage, false},
		{"", "", NeedManage, false},
	} {
		if need, said := Rule(c.method, c.path); need != c.need || said != c.said {
			t.Errorf("%s %s needs %s (said: %v), want %s (%v)", c.method, c.path, need, said, c.need, c.said)
		}
	}
}

func TestRoles(t *testing.T) {
	for need, want := range map[Need][]cluster.Role{
		NeedNothing: {cluster.RoleChat, cluster.RoleRead, cluster.RoleManage},
		NeedKey:     {cluster.RoleChat, cluster.RoleRead, cluster.RoleManage},
		NeedChat:    {cluster.RoleChat, cluster.RoleManage},
		NeedRead:    {cluster.RoleRead, cluster.RoleManage},
		NeedManage:  {cluster.RoleManage},
		"unheard":   {cluster.RoleManage},
	} {
		for _, role := range cluster.Roles() {
			if got := (Caller{Role: role}).May(need); got != slices.Contains(want, role) {
				t.Errorf("%s may do what needs %s: %v", role, need, got)
			}
		}
	}
	if (Caller{}).May(NeedChat) || (Caller{Role: "owner"}).May(NeedRead) {
		t.Error("a role that does not exist opens something")
	}
}

// What headers say of a request's origin counts for nothing.
func TestLoopback(t *testing.T) {
	for _, c := range []struct {
		remote, local  string
		loopback, here bool
	}{
		{"127.0.0.1", "127.0.0.1", true, true},
		{"127.8.8.8", "127.0.0.1", true, true},
		{"::1", "::1", true, true},
		{"::ffff:127.0.0.1", "::ffff:127.0.0.1", true, true},
		{"192.168.1.2", "192.168.1.3", false, false},
		{"192.168.1.3", "192.168.1.3", false, true},
		{"192.168.1.2", "127.0.0.1", false, false},
		{"127.0.0.1", "192.168.1.3", false, false},
		{"fe80::1%eth0", "fe80::2%eth0", false, false},
		{"localhost", "127.0.0.1", false, false},
		{"", "127.0.0.1", false, false},
		{"0.0.0.0", "0.0.0.0", false, true},
	} {
		for _, spoof := range [][]string{nil, {"X-Forwarded-For", "127.0.0.1"}, {"Forwarded", "for=127.0.0.1"}, {"X-Real-Ip", "::1"}, {"X-Forwarded-For", "8.8.8.8"}} {
			r := from(c.remote, c.local, spoof...)
			if Loopback(r) != c.loopback || Here(r) != c.here {
				t.Errorf("%s to %s with %q: loopback %v, here %v", c.remote, c.local, spoof, Loopback(r), Here(r))
			}
		}
	}
	unix := httptest.NewRequest(http.MethodGet, "/", nil)
	unix = unix.WithContext(context.WithValue(unix.Context(), http.LocalAddrContextKey, &net.UnixAddr{Name: "s"}))
	if unix.RemoteAddr = "@"; Loopback(unix) || Here(unix) {
		t.Error("a socket that is none of IP counts as loopback")
	}
	if !Loopback(httptest.NewRequest(http.MethodGet, "/", nil)) {
		t.Error("a call within the process does not")
	}
}

func TestAdmit(t *testing.T) {
	keyed := newDoor(t, Options{Keys: []Key{{Role: cluster.RoleManage, Secret: "one"}, {Name: "ci", Role: cluster.RoleChat, Secret: "two"}}, Local: "token"})
	open := newDoor(t, Options{Local: "token"})
	anyone := newDoor(t, Options{Anyone: true})
	const bearer, own, away = "Authorization", "127.0.0.1", "192.168.1.2"
	for _, c := range []struct {
		name    string
		door    *Door
		remote  string
		headers []string
		want    string
		verdict Verdict
	}{
		{"first", keyed, own, []string{bearer, "Bearer one"}, "config:api-key-1 manage", Welcome},
		{"named", keyed, away, []string{"X-Api-Key", "two"}, "config:ci chat", Welcome},
		{"one of two", keyed, away, []string{bearer, "Bearer wrong", "X-Api-Key", "two"}, "config:ci chat", Welcome},
		{"wrong", keyed, own, []string{bearer, "Bearer three"}, " ", Unknown},
		{"other scheme", keyed, own, []string{bearer, "Basic one"}, " ", Unknown},
		{"none", keyed, own, nil, " ", NoKey},
		{"none, says it is near", keyed, away, []string{"X-Forwarded-For", "127.0.0.1"}, " ", NoKey},
		{"token here", keyed, own, []string{bearer, "Bearer token"}, "local manage", Welcome},
		{"token away", keyed, away, []string{bearer, "Bearer token"}, " ", Unknown},
		{"token away, says it is near", keyed, away, []string{bearer, "Bearer token", "X-Forwarded-For", "127.0.0.1"}, " ", Unknown},
		{"open", open, own, nil, "open manage", Welcome},
		{"open, any key will do", open, own, []string{bearer, "Bearer none"}, "open manage", Welcome},
		{"open to this machine alone", open, away, nil, " ", Stranger},
		{"open, says it is near", open, away, []string{"X-Forwarded-For", "127.0.0.1"}, " ", Stranger},
		{"open to anyone", anyone, away, nil, "open manage", Welcome},
	} {
		local := own
		if c.remote == away {
			local = "192.168.1.3"
		}
		caller, verdict := c.door.Admit(from(c.remote, local, c.headers...))
		if got := caller.Name + " " + string(caller.Role); got != c.want || verdict != c.verdict {
			t.Errorf("%s: %q, verdict %d", c.name, got, verdict)
		}
	}
}

// Keys of the cluster open like those of the configuration, from the moment
// that the state has them to the moment that it has not, or that they expire.
func TestKeysOfTheCluster(t *testing.T) {
	var keys map[string]cluster.Key
	now := time.Unix(1000, 0)
	d := newDoor(t, Options{Local: "token", Cluster: func() map[string]cluster.Key { return keys }, Now: func() time.Time { return now }})
	check := func(when, secret, remote, want string, verdict Verdict) {
		t.Helper()
		caller, got := d.Admit(from(remote, map[bool]string{true: "127.0.0.1", false: "192.168.1.3"}[remote == "127.0.0.1"], "X-Api-Key", secret))
		if caller.Name != want || got != verdict {
			t.Errorf("%s, key %q from %s: %q, verdict %d", when, secret, remote, caller.Name, got)
		}
	}
	check("no key yet", "ops", "127.0.0.1", NameOpen, Welcome)
	check("no key yet", "ops", "192.168.1.2", "", Stranger)
	keys = map[string]cluster.Key{
		"ops": {Name: "ops", Role: cluster.RoleManage, Hash: sha256.Sum256([]byte("ops"))},
		"ci":  {Name: "ci", Role: cluster.RoleChat, Hash: sha256.Sum256([]byte("ci")), Expires: now.Add(time.Minute)},
	}
	check("with keys", "ops", "192.168.1.2", "ops", Welcome)
	check("with keys", "ci", "127.0.0.1", "ci", Welcome)
	check("with keys", "", "127.0.0.1", "", NoKey)
	check("with keys", "token", "127.0.0.1", NameLocal, Welcome)
	now = now.Add(time.Minute)
	check("expired", "ci", "192.168.1.2", "", Expired)
	keys = map[string]cluster.Key{"ci": keys["ci"]}
	check("revoked", "ops", "127.0.0.1", "", Unknown)
	check("only an expired one is left", "", "127.0.0.1", "", NoKey)
	keys = nil
	check("all revoked", "", "127.0.0.1", NameOpen, Welcome)
	check("all revoked", "ops", "192.168.1.2", "", Stranger)
}

func TestLimits(t *testing.T) {
	now := time.Unix(1000, 0)
	d := newDoor(t, Options{Now: func() time.Time { return now }})
	enter := func(c Caller) (func(), *Limited) {
		leave, err := d.Enter(c)
		var l *Limited
		if err != nil && !errors.As(err, &l) {
			t.Fatal(err)
		}
		return leave, l
	}
	slow := Caller{Name: "slow", id: "1", perMinute: 30}
	for n := range 30 {
		if _, l := enter(slow); l != nil {
			t.Fatalf("request %d: %v", n, l)
		}
	}
	if _, l := enter(slow); l == nil || l.Limit != "requests_per_minute" || l.RetryAfter != 2 || !strings.Contains(l.Message, "30 requests a minute") {
		t.Errorf("one too many: %+v", l)
	}
	now = now.Add(2 * time.Second)
	if _, l := enter(slow); l != nil {
		t.Errorf("after the wait that was told: %v", l)
	}
	if _, l := enter(slow); l == nil {
		t.Error("two for the price of one")
	}
	now = now.Add(-time.Hour) // the clock is set back
	if _, l := enter(slow); l == nil {
		t.Error("time that goes back pays")
	}
	now = now.Add(time.Second + time.Second)
	if _, l := enter(slow); l != nil {
		t.Errorf("after the clock was set back: %v", l)
	}
	now = now.Add(24 * time.Hour)
	for n := range 31 {
		if _, l := enter(slow); (l != nil) != (n == 30) {
			t.Errorf("request %d after a day: %v", n, l)
		}
	}
	if _, l := enter(Caller{Name: "slow", id: "2", perMinute: 30}); l != nil {
		t.Errorf("a new key of an old name: %v", l)
	}

	few := Caller{Name: "few", id: "1", concurrent: 2}
	first, _ := enter(few)
	_, _ = enter(few)
	if _, l := enter(few); l == nil || l.Limit != "concurrent" || l.RetryAfter != 1 {
		t.Errorf("a third one: %+v", l)
	}
	first()
	first() // once is enough
	if _, l := enter(few); l != nil {
		t.Errorf("after one has left: %v", l)
	}
	if _, l := enter(few); l == nil {
		t.Error("leaving twice made room for two")
	}
	for n := range 3 * maxUsed { // names without end
		if _, l := enter(Caller{Name: fmt.Sprint(n), id: "1", perMinute: 1}); l != nil {
			t.Fatal(l)
		}
	}
	if len(d.limits.used) > maxUsed {
		t.Errorf("%d names are remembered", len(d.limits.used))
	}
	if _, l := enter(Caller{Name: "free"}); l != nil {
		t.Error(l)
	}
}

func TestBadKeys(t *testing.T) {
	for name, k := range map[string]Key{"empty": {Role: cluster.RoleChat}, "role": {Role: "owner", Secret: "s"}} {
		if _, err := New(Options{Keys: []Key{k}}); err == nil || strings.Contains(err.Error(), `"s"`) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSecrets(t *testing.T) {
	a, b := NewSecret(), NewSecret()
	if a == b || !strings.HasPrefix(a, "sk-skein-") || len(a) != len("sk-skein-")+43 {
		t.Errorf("%s and %s", a, b)
	}
}

// FuzzGiven: whatever a header holds, nothing but the key itself opens.
func FuzzGiven(f *testing.F) {
	for _, s := range []string{"", "Bearer", "Bearer ", "Bearer one", "bearer\tone", "Basic b25l", "Bearer one two", "one", "\x00", "Bearer " + strings.Repeat("x", 1000)} {
		f.Add(s, s)
	}
	d, err := New(Options{Keys: []Key{{Role: cluster.RoleManage, Secret: "one"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, authorization, key string) {
		r := from("192.168.1.2", "192.168.1.3")
		r.Header["Authorization"], r.Header["X-Api-Key"] = []string{authorization}, []string{key}
		given := Given(r.Header)
		caller, verdict := d.Admit(r)
		if (verdict == Welcome) != slices.Contains(given, "one") {
			t.Errorf("%q and %q: verdict %d", authorization, key, verdict)
		}
		if verdict != Welcome && caller != (Caller{}) {
			t.Errorf("%q and %q: turned away as %+v", authorization, key, caller)
		}
		for _, g := range given {
			if g == "" || !strings.Contains(authorization, g) && g != key {
				t.Errorf("%q is no part of %q or %q", g, authorization, key)
			}
		}
	})
}

// Whose a request is: a key of the cluster is itself by its id, one of a
// configuration by its secret, and nothing of that tells the secret.
func TestOwner(t *testing.T) {
	hash := func(s string) [sha256.Size]byte { return sha256.Sum256([]byte(s)) }
	owner := func(keys []Key, cluster map[string]cluster.Key, secret string) string {
		d, err := New(Options{Keys: keys, Cluster: func() map[string]clusterKey { return cluster }})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("POST", "/", nil)
		r.Header.Set("X-Api-Key", secret)
		c, v := d.Admit(r)
		if v != Welcome {
			t.Fatalf("verdict %d of %q", v, secret)
		}
		return c.Owner()
	}
	ci := func(id string) map[string]clusterKey {
		return map[string]clusterKey{"ci": {Name: "ci", ID: id, Role: cluster.RoleChat, Hash: hash("s")}}
	}
	if a, b := owner(nil, ci("1"), "s"), owner(nil, ci("2"), "s"); a == b || a == "" {
		t.Errorf("a key and a later one of its name are %q and %q", a, b)
	}
	chat := func(name, secret string) []Key { return []Key{{Name: name, Role: cluster.RoleChat, Secret: secret}} }
	one, same, other := owner(chat("a", "x"), nil, "x"), owner(chat("b", "x"), nil, "x"), owner(chat("a", "y"), nil, "y")
	if one != same || one == other || one == "" {
		t.Errorf("one secret by two names: %q, %q; another by one of them: %q", one, same, other)
	}
	sum := hash("x")
	if strings.Contains(one, hex.EncodeToString(sum[:8])) {
		t.Errorf("%s has the secret's hash", one)
	}
	if (Caller{}).Owner() != "" {
		t.Error("nobody owns something")
	}
}

type clusterKey = cluster.Key
