package httpapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi/access"
)

// echo is a dialect for tests: it gives back what it was sent.
type echo struct{}

func (echo) Register(mux Mux) {
	mux.HandleFunc("GET /v1/things", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "things") })
	mux.HandleFunc("GET /v1/things/{id...}", func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "thing "+r.PathValue("id")) })
	mux.HandleFunc("DELETE /v1/things/{id...}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("POST /v1/chat/echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := ReadBody(w, r)
		if err != nil {
			WriteError(w, err)
			return
		}
		_, _ = w.Write(body)
	})
	mux.HandleFunc("POST /v1/panic", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("late") {
			_, _ = io.WriteString(w, "some")
			_ = http.NewResponseController(w).Flush()
		}
		panic("boom")
	})
}

// keys are some that may do all.
func keys(secrets ...string) access.Options {
	var o access.Options
	for _, s := range secrets {
		o.Keys = append(o.Keys, access.Key{Role: cluster.RoleManage, Secret: s})
	}
	return o
}

func newTestServer(t *testing.T, o Options) *Server {
	t.Helper()
	if o.Address == "" {
		o.Address = "127.0.0.1:0"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Mount(echo{})
	return s
}

func start(t *testing.T, s *Server) string {
	t.Helper()
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		if err := s.Stop(now); err != nil {
			t.Error(err)
		}
	})
	return "http://" + s.Addr().String()
}

// call sends a request given as "METHOD /path" and headers as pairs.
func call(h http.Handler, request, body string, headers ...string) *httptest.ResponseRecorder {
	method, path, _ := strings.Cut(request, " ")
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		} else {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// code is the error code of an answer; every error has the shape.
func code(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var e struct {
		Error struct {
			Message, Type, Code string
			Param               *string
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Error.Message == "" || e.Error.Type == "" {
		t.Fatalf("status %d, not an error of the API: %v: %s", w.Code, err, w.Body)
	}
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("error with Content-Type %q", got)
	}
	return e.Error.Code
}

func TestOptions(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, o := range map[string]Options{
		"no logger":       {Address: ":0"},
		"no address":      {Log: log},
		"no port":         {Log: log, Address: "localhost"},
		"negative limit":  {Log: log, Address: ":0", MaxBody: -1},
		"bad origin":      {Log: log, Address: ":0", AllowedOrigins: []string{"localhost:3000"}},
		"origin and path": {Log: log, Address: ":0", AllowedOrigins: []string{"http://a/b"}},
		"empty key":       {Log: log, Address: ":0", Access: keys("")},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestProbes(t *testing.T) {
	s := newTestServer(t, Options{Access: keys("secret")})
	check := func(path string, status int, part string) {
		t.Helper()
		if w := call(s.Handler(), "GET "+path, ""); w.Code != status || !strings.Contains(w.Body.String(), part) {
			t.Errorf("%s: status %d, body %s", path, w.Code, w.Body)
		}
	}
	check("/healthz", 200, "alive")
	check("/readyz", 503, "starting")
	s.Ready()
	check("/readyz", 200, "ready")
	s.NotReady("the engine is gone")
	check("/readyz", 503, `"reason":"the engine is gone"`)
	s.Ready()
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("/healthz", 200, "alive")
	check("/readyz", 503, "stopping")
	if w := call(s.Handler(), "HEAD /healthz", ""); w.Code != 200 {
		t.Errorf("HEAD /healthz: status %d", w.Code)
	}
}

func TestRouting(t *testing.T) {
	h := newTestServer(t, Options{}).Handler()
	for request, want := range map[string]string{
		"GET /v1/things":        "200 things",
		"GET /v1/things/":       "200 thing ",
		"GET //v1//things":      "200 things",
		"GET /v1/things/a/b":    "200 thing a/b",
		"GET /v1/things/a%2Fb":  "200 thing a/b",
		"POST /v1/chat/echo":    "200 hi",
		"POST /v1/chat/echo/":   "200 hi",
		"POST //v1/chat/echo":   "200 hi",
		"DELETE /v1/things/a/b": "204 ",
	} {
		w := call(h, request, "hi")
		if got := fmt.Sprint(w.Code, " ", w.Body); got != want {
			t.Errorf("%s: %s, want %s", request, got, want)
		}
	}
	for request, want := range map[string]string{
		"GET /v1/chat/echo":                 "405 method_not_allowed /v1/chat/echo does not take GET: use POST",
		"GET /v1/chat/echo/":                "405 method_not_allowed does not take GET: use POST",
		"PUT /v1/things":                    "405 method_not_allowed /v1/things does not take PUT: use GET or HEAD",
		"DELETE /v1/things":                 "405 method_not_allowed /v1/things does not take DELETE: use GET or HEAD\"", // not sent back and forth between this and /v1/things/
		"POST /chat/echo":                   "404 unknown_url there is no POST /chat/echo here; the nearest endpoints are POST /v1/chat/echo",
		"POST /api/v1/chat/echo":            "404 unknown_url the nearest endpoints are POST /v1/chat/echo",
		"GET /v1/thing":                     "404 unknown_url the nearest endpoints are GET /v1/things",
		"POST /v1/embeddings":               "404 unknown_url there is no POST /v1/embeddings here: embeddings are not made",
		"POST /v1/messages/count_tokens":    "404 unknown_url Anthropic's API is not served yet; use POST /v1/chat/completions",
		"GET //api/tags/":                   "404 unknown_url Ollama's API is not served yet",
		"POST /v1/audio/speech":             "404 unknown_url speech",
		"GET /health":                       "404 unknown_url GET /healthz",
		"GET /healthy":                      "404 unknown_url nearest endpoints",
		"GET /":                             "404 unknown_url nearest endpoints",
		"GET /" + strings.Repeat("x", 5000): "404 unknown_url nearest endpoints",
	} {
		w := call(h, request, "")
		parts := strings.SplitN(want, " ", 3)
		if fmt.Sprint(w.Code) != parts[0] || code(t, w) != parts[1] || !strings.Contains(w.Body.String(), parts[2]) {
			t.Errorf("%.80s: status %d, body %s; want %s", request, w.Code, w.Body, want)
		}
		if w.Body.Len() > 1000 {
			t.Errorf("%.80s: an answer of %d bytes", request, w.Body.Len())
		}
	}
	if w := call(h, "OPTIONS /v1/things/a", ""); w.Code != 204 || w.Header().Get("Allow") != "GET, HEAD, DELETE" {
		t.Errorf("OPTIONS: status %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
	if w := call(h, "GET /v1/chat/echo", ""); w.Header().Get("Allow") != "POST" {
		t.Errorf("405: Allow %q", w.Header().Get("Allow"))
	}
}

func TestAPIKeys(t *testing.T) {
	h := newTestServer(t, Options{Access: keys("one", "two")}).Handler()
	for _, test := range []struct {
		headers []string
		ok      bool
		says    string
	}{
		{nil, false, "no API key was given"},
		{[]string{"Authorization", "Bearer one"}, true, ""},
		{[]string{"Authorization", "bearer two"}, true, ""},
		{[]string{"X-Api-Key", "two"}, true, ""},
		{[]string{"Authorization", "Bearer wrong", "X-Api-Key", "one"}, true, ""},
		{[]string{"Authorization", "Bearer onee"}, false, "not one of this node's"},
		{[]string{"Authorization", "Bearer "}, false, "not one of this node's"},
		{[]string{"Authorization", "Basic one"}, false, "not one of this node's"},
		{[]string{"Authorization", "one"}, false, "not one of this node's"},
		{[]string{"X-Api-Key", "ONE"}, false, "not one of this node's"},
	} {
		w := call(h, "GET /v1/things", "", test.headers...)
		if test.ok != (w.Code == 200) {
			t.Errorf("%q: status %d", test.headers, w.Code)
		}
		if !test.ok {
			if w.Code != 401 || code(t, w) != "invalid_api_key" || !strings.Contains(w.Body.String(), test.says) || w.Header().Get("WWW-Authenticate") == "" {
				t.Errorf("%q: status %d, body %s", test.headers, w.Code, w.Body)
			}
		}
	}
	// Unknown paths are not told to strangers either.
	if w := call(h, "GET /nope", ""); w.Code != 401 {
		t.Errorf("unknown path without a key: status %d", w.Code)
	}
}

// Each route asks for the role of the table, under every spelling of its path,
// and before its handler sees anything.
func TestRolesOfRoutes(t *testing.T) {
	s, err := New(Options{Address: ":0", Log: slog.New(slog.DiscardHandler), Access: access.Options{Keys: []access.Key{
		{Name: "c", Role: cluster.RoleChat, Secret: "chat"}, {Name: "r", Role: cluster.RoleRead, Secret: "read"}, {Name: "m", Role: cluster.RoleManage, Secret: "manage"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	s.Mount(everything{})
	for request, may := range map[string]string{
		"POST /v1/chat/completions":                "chat manage",
		"POST //v1//chat/completions/":             "chat manage",
		"POST /v1/completions":                     "chat manage",
		"GET /v1/models":                           "chat read manage",
		"HEAD /v1/models":                          "chat read manage",
		"GET /v1/models/org/x":                     "chat read manage",
		"DELETE /v1/models/org/x":                  "manage",
		"GET /v1/cluster":                          "read manage",
		"GET /v1/cluster/":                         "read manage",
		"HEAD /v1/cluster":                         "read manage",
		"GET /v1/cluster/keys":                     "manage",
		"GET /v1/cluster/keys/":                    "manage",
		"GET //v1//cluster//keys":                  "manage",
		"HEAD /v1/cluster/keys":                    "manage",
		"POST /v1/cluster/keys":                    "manage",
		"DELETE /v1/cluster/keys/x":                "manage",
		"POST /v1/cluster/models/load":             "manage",
		"DELETE /v1/cluster/models/org/x":          "manage",
		"DELETE /v1/cluster/models/..%2f..%2fkeys": "manage",
		"GET /unheard-of":                          "read manage",
		"POST /unheard-of":                         "manage",
		"PUT /any/method":                          "manage",
		"GET /any/method":                          "read manage",
		"GET /healthz":                             "chat read manage none wrong",
		"GET /readyz":                              "chat read manage none wrong",
	} {
		for _, key := range []string{"chat", "read", "manage", "none", "wrong"} {
			w := call(s.Handler(), request, "{}", map[bool][]string{true: nil, false: {"Authorization", "Bearer " + key}}[key == "none"]...)
			let := w.Code == http.StatusTeapot || w.Code == 200 || w.Code == 503 // a handler's
			if want := slices.Contains(strings.Fields(may), key); let != want {
				t.Errorf("%s with key %s: status %d, allowed %v: %s", request, key, w.Code, want, w.Body)
			}
			if !let && !strings.HasPrefix(request, "HEAD") {
				if want := map[bool]string{true: "401 invalid_api_key", false: "403 insufficient_role"}[key == "none" || key == "wrong"]; fmt.Sprint(w.Code, " ", code(t, w)) != want {
					t.Errorf("%s with key %s: %d %s, want %s", request, key, w.Code, w.Body, want)
				}
			}
		}
	}
	w := call(s.Handler(), "POST /v1/cluster/keys", "{}", "X-Api-Key", "read")
	if !strings.Contains(w.Body.String(), "needs a key with the role manage, and the key config:r has the role read") {
		t.Errorf("a wrong role: %s", w.Body)
	}
	// Whoever has a key is told what there is.
	if w := call(s.Handler(), "PATCH /v1/cluster", "", "X-Api-Key", "chat"); w.Code != 405 {
		t.Errorf("a method that there is not: %d", w.Code)
	}
}

// everything is a dialect of many routes.
type everything struct{}

func (everything) Register(mux Mux) {
	for _, p := range []string{"POST /v1/chat/completions", "POST /v1/completions", "GET /v1/models", "GET /v1/models/{id...}", "DELETE /v1/models/{id...}", "GET /v1/cluster",
		"GET /v1/cluster/keys", "POST /v1/cluster/keys", "DELETE /v1/cluster/keys/{name}", "POST /v1/cluster/models/load", "DELETE /v1/cluster/models/{name...}",
		"GET /unheard-of", "POST /unheard-of", "/any/method"} {
		mux.HandleFunc(p, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	}
}

// A key that asks for too much is told which limit it met and when to come
// again; probes are free.
func TestLimitsOfKeys(t *testing.T) {
	keys := map[string]cluster.Key{"ci": {Name: "ci", ID: "1", Role: cluster.RoleRead, Hash: sha256.Sum256([]byte("s")), PerMinute: 1}}
	at := time.Unix(1000, 0)
	h := newTestServer(t, Options{Access: access.Options{Cluster: func() map[string]cluster.Key { return keys }, Now: func() time.Time { return at }}}).Handler()
	if w := call(h, "GET /v1/things", "", "X-Api-Key", "s"); w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	w := call(h, "GET /v1/things", "", "X-Api-Key", "s")
	if w.Code != 429 || code(t, w) != "rate_limit_exceeded" || w.Header().Get("Retry-After") != "60" || !strings.Contains(w.Body.String(), `"param":"requests_per_minute"`) {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	if w := call(h, "GET /healthz", "", "X-Api-Key", "s"); w.Code != 200 {
		t.Errorf("a probe: %d", w.Code)
	}
}

// A node without keys serves its own machine alone, whatever headers say.
func TestOpenToThisMachine(t *testing.T) {
	h := newTestServer(t, Options{}).Handler()
	for _, c := range []struct {
		remote, local string
		status        int
	}{{"127.0.0.1:9", "127.0.0.1", 200}, {"[::1]:9", "::1", 200}, {"192.168.1.2:9", "192.168.1.3", 401}, {"192.168.1.2:9", "127.0.0.1", 401}} {
		r := httptest.NewRequest("GET", "/v1/things", nil)
		r.RemoteAddr, r.Host = c.remote, "localhost"
		r.Header.Set("X-Forwarded-For", "127.0.0.1")
		r.Header.Set("Forwarded", "for=127.0.0.1;host=localhost")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.ParseIP(c.local), Port: 1})))
		if w.Code != c.status || c.status == 401 && !strings.Contains(w.Body.String(), "skein keys add") {
			t.Errorf("%s to %s: %d %s", c.remote, c.local, w.Code, w.Body)
		}
	}
}

func TestOrigins(t *testing.T) {
	own := newTestServer(t, Options{}).Handler()
	listed := newTestServer(t, Options{AllowedOrigins: []string{"https://App.example/", "http://localhost:3000"}}).Handler()
	all := newTestServer(t, Options{AllowedOrigins: []string{"*"}, Access: keys("k")}).Handler()
	const preflight = "Access-Control-Request-Method"
	for _, test := range []struct {
		name    string
		h       http.Handler
		request string
		headers []string
		status  int
		allowed string // Access-Control-Allow-Origin
	}{
		{"no origin", own, "POST /v1/chat/echo", nil, 200, ""},
		{"own origin", own, "POST /v1/chat/echo", []string{"Origin", "http://example.com"}, 200, "http://example.com"},
		{"foreign POST", own, "POST /v1/chat/echo", []string{"Origin", "http://evil.test"}, 403, ""},
		{"foreign DELETE", own, "DELETE /v1/things/a", []string{"Origin", "http://evil.test"}, 403, ""},
		{"foreign GET", own, "GET /v1/things", []string{"Origin", "http://evil.test"}, 200, ""},
		{"foreign preflight", own, "OPTIONS /v1/chat/echo", []string{"Origin", "http://evil.test", preflight, "POST"}, 403, ""},
		{"null origin", own, "POST /v1/chat/echo", []string{"Origin", "null"}, 403, ""},
		{"own name, other port", own, "POST /v1/chat/echo", []string{"Origin", "http://example.com:81"}, 403, ""},
		{"listed POST", listed, "POST /v1/chat/echo", []string{"Origin", "https://app.example"}, 200, "https://app.example"},
		{"listed preflight", listed, "OPTIONS /v1/chat/echo", []string{"Origin", "http://localhost:3000", preflight, "POST"}, 204, "http://localhost:3000"},
		{"not listed", listed, "POST /v1/chat/echo", []string{"Origin", "https://app.example.evil.test"}, 403, ""},
		{"other scheme", listed, "POST /v1/chat/echo", []string{"Origin", "http://app.example"}, 403, ""},
		{"any, preflight needs no key", all, "OPTIONS /v1/chat/echo", []string{"Origin", "http://x.test", preflight, "POST"}, 204, "http://x.test"},
		{"any, readable 401", all, "POST /v1/chat/echo", []string{"Origin", "http://x.test"}, 401, "http://x.test"},
		{"any, with key", all, "POST /v1/chat/echo", []string{"Origin", "http://x.test", "X-Api-Key", "k"}, 200, "http://x.test"},
	} {
		w := call(test.h, test.request, "hi", test.headers...)
		if w.Code != test.status || w.Header().Get("Access-Control-Allow-Origin") != test.allowed {
			t.Errorf("%s: status %d, allowed origin %q: %s", test.name, w.Code, w.Header().Get("Access-Control-Allow-Origin"), w.Body)
		}
		if w.Code == 403 && (code(t, w) != "origin_not_allowed" || !strings.Contains(w.Body.String(), "--allow-origin")) {
			t.Errorf("%s: %s", test.name, w.Body)
		}
		if len(test.headers) > 0 && w.Header().Get("Vary") != "Origin" {
			t.Errorf("%s: Vary %q", test.name, w.Header().Get("Vary"))
		}
	}
	w := call(listed, "OPTIONS /v1/chat/echo", "", "Origin", "http://localhost:3000", preflight, "POST", "Access-Control-Request-Headers", "authorization,content-type")
	if got := w.Header().Get("Access-Control-Allow-Headers"); got != "authorization,content-type" {
		t.Errorf("allowed headers %q", got)
	}
	if got := w.Header().Get("Access-Control-Allow-Methods"); !strings.Contains(got, "POST") {
		t.Errorf("allowed methods %q", got)
	}
}

// A page whose name resolves to 127.0.0.1 must not get in as a local program.
func TestHostHeader(t *testing.T) {
	url := start(t, newTestServer(t, Options{AllowedHosts: []string{"skein.lan"}}))
	keyed := start(t, newTestServer(t, Options{Access: keys("k")}))
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(url, "http://"))
	for _, test := range []struct {
		url, host string
		status    int
	}{
		{url, "127.0.0.1:" + port, 200}, {url, "localhost", 200}, {url, "LocalHost:" + port, 200}, {url, "[::1]:1", 200},
		{url, "app.localhost", 200}, {url, "192.168.1.5", 200}, {url, "skein.lan:80", 200},
		{url, "evil.test", 403}, {url, "evil.test:" + port, 403}, {url, "localhost.evil.test", 403}, {url, "127.0.0.1.evil.test", 403},
		{keyed, "evil.test", 401},
	} {
		r, err := http.NewRequest(http.MethodGet, test.url+"/v1/things", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = test.host
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != test.status {
			t.Errorf("Host %s: status %d, want %d", test.host, resp.StatusCode, test.status)
		}
	}
}

// Open to a network without keys: pages of names that anybody can register are
// kept off all the same.
func TestHostHeaderOnANetwork(t *testing.T) {
	h := newTestServer(t, Options{Access: access.Options{Anyone: true}, AllowedHosts: []string{"skein.example"}}).Handler()
	for host, want := range map[string]int{
		"192.168.1.5:52415": 200, "[fe80::1]": 200, "mybox": 200, "MyBox.local:52415": 200, "a.b.lan": 200, "box.home.arpa.": 200, "skein.example": 200, "localhost": 200,
		"evil.example": 403, "local": 200, "mybox.local.evil.example": 403, "xlan.example": 403, "evil.example.": 403, "192.168.1.5.nip.io": 403, "0x7f.1": 403,
	} {
		for _, origin := range []string{"", "http://" + strings.ToLower(host)} {
			r := httptest.NewRequest("POST", "/v1/chat/echo", strings.NewReader("hi"))
			r.Host = host
			if origin != "" {
				r.Header.Set("Origin", origin)
			}
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: net.IPv4(192, 168, 1, 5)})))
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != want || want == 403 && code(t, w) != "host_not_allowed" {
				t.Errorf("Host %s, origin %q: status %d, want %d: %s", host, origin, w.Code, want, w.Body)
			}
		}
	}
}

func TestRequestID(t *testing.T) {
	h := newTestServer(t, Options{}).Handler()
	for given, kept := range map[string]bool{"abc-123": true, "": false, "a b": false, "é": false, strings.Repeat("a", 129): false} {
		got := call(h, "GET /v1/things", "", "X-Request-Id", given).Header().Get("X-Request-Id")
		if kept != (got == given) || got == "" {
			t.Errorf("id %q became %q", given, got)
		}
	}
}

func TestBodyLimit(t *testing.T) {
	const limit = 1000
	s := newTestServer(t, Options{MaxBody: limit})
	url := start(t, s)
	for _, chunked := range []bool{false, true} {
		for _, size := range []int{limit, limit + 1, 50 * limit} {
			var body io.Reader = bytes.NewReader(make([]byte, size))
			if chunked {
				body = io.MultiReader(body) // hides the length
			}
			resp, err := http.Post(url+"/v1/chat/echo", "application/json", body)
			if err != nil {
				t.Fatalf("chunked %t, %d bytes: %v", chunked, size, err)
			}
			answer, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			want := http.StatusOK
			if size > limit {
				want = http.StatusRequestEntityTooLarge
			}
			if resp.StatusCode != want {
				t.Errorf("chunked %t, %d bytes: status %d", chunked, size, resp.StatusCode)
			}
			if size > limit && !strings.Contains(string(answer), "1000 bytes") {
				t.Errorf("the answer does not name the limit: %s", answer)
			}
		}
	}
}

func TestBodyCutOff(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/v1/chat/echo", io.MultiReader(strings.NewReader("{"), brokenReader{}))
	w := httptest.NewRecorder()
	newTestServer(t, Options{}).Handler().ServeHTTP(w, r)
	if w.Code != 400 || code(t, w) != "invalid_body" {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestPanic(t *testing.T) {
	var log bytes.Buffer
	s := newTestServer(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	w := call(s.Handler(), "POST /v1/panic", "", "X-Request-Id", "the-id")
	if w.Code != 500 || code(t, w) != "internal_error" || !strings.Contains(w.Body.String(), "the-id") || strings.Contains(w.Body.String(), "boom") {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
	if !strings.Contains(log.String(), "boom") || !strings.Contains(log.String(), "the-id") || !strings.Contains(log.String(), "server_test.go") {
		t.Errorf("the log lacks the panic, the id or the stack: %s", &log)
	}
	// Once something was sent the client must see that the rest is missing.
	url := start(t, newTestServer(t, Options{}))
	resp, err := http.Post(url+"/v1/panic?late", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the answer %q looks whole", body)
	}
}

func TestAccessLog(t *testing.T) {
	var log bytes.Buffer
	s := newTestServer(t, Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	call(s.Handler(), "GET /v1/things", "", "X-Request-Id", "r1", "Authorization", "Bearer hush")
	for _, part := range []string{"level=DEBUG", "id=r1", "path=/v1/things", "status=200", "bytes=6"} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("the log lacks %s: %s", part, &log)
		}
	}
	if strings.Contains(log.String(), "hush") {
		t.Errorf("the log has the key: %s", &log)
	}
}

func TestPortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	err = newTestServer(t, Options{Address: taken.Addr().String()}).Start(t.Context())
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range []string{"in use", "--api-port", taken.Addr().String()} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q lacks %q", err, part)
		}
	}
	// Elsewhere the owner is named only where the system tells.
	if own := fmt.Sprintf("(process %d)", os.Getpid()); runtime.GOOS == "linux" && !strings.Contains(err.Error(), own) {
		t.Errorf("%q lacks %q", err, own)
	}
}

func TestAddressNotOurs(t *testing.T) {
	err := newTestServer(t, Options{Address: "192.0.2.1:0"}).Start(t.Context()) // TEST-NET-1
	if err == nil || !strings.Contains(err.Error(), "--api-host") {
		t.Errorf("error %v", err)
	}
}

// Stop does not wait for connections that never asked anything, and the server
// serves a listener that it is given.
func TestStop(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newTestServer(t, Options{Listener: listener})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.Addr().String() != listener.Addr().String() {
		t.Errorf("address %v", s.Addr())
	}
	// The second is asked first, so that the server has taken both.
	for range 2 {
		idle, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer idle.Close()
	}
	if resp, err := http.Get("http://" + listener.Addr().String() + "/healthz"); err != nil {
		t.Fatal(err)
	} else {
		_ = resp.Body.Close()
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	<-s.Done()
	if s.Err() != nil {
		t.Error(s.Err())
	}
	if _, err := net.Dial("tcp", listener.Addr().String()); err == nil {
		t.Error("the port is still open")
	}
}

// What ends the server by itself is reported, not swallowed.
func TestServeFails(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newTestServer(t, Options{Listener: listener})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	<-s.Done()
	if s.Err() == nil {
		t.Error("no error")
	}
}

func TestErrorOf(t *testing.T) {
	direct := Invalid("p", "c", "x")
	if got := ErrorOf(fmt.Errorf("wrapped: %w", direct)); got != direct {
		t.Errorf("got %v", got)
	}
	for err, status := range map[error]int{
		ErrStopping:                        503,
		context.DeadlineExceeded:           504,
		&http.MaxBytesError{Limit: 5}:      413,
		errors.New("x"):                    500,
		&generation.Error{Kind: "unheard"}: 500,
	} {
		if got := ErrorOf(err); got.Status != status {
			t.Errorf("%v: status %d, want %d", err, got.Status, status)
		}
	}
}
