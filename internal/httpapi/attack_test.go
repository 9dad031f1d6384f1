package httpapi

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/httpapi/access"
)

// safe is a buffer that a server may still write to.
type safe struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (s *safe) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *safe) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// secrets are routes that somebody without the role wants to get at. count is
// how often each was reached.
type secrets struct {
	mu    sync.Mutex // guards count
	count map[string]int
	hold  chan struct{} // /v1/cluster/hold answers once it is closed
	open  atomic.Int64
	most  atomic.Int64
}

func (s *secrets) Register(m Mux) {
	for _, pattern := range []string{
		"GET /v1/models/{id...}", "GET /v1/cluster", "GET /v1/cluster/keys", "POST /v1/cluster/keys", "DELETE /v1/cluster/models/{name...}", "GET /v1/cluster/models/{name}/status", "POST /v1/chat/completions",
	} {
		m.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			s.mu.Lock()
			s.count[pattern]++
			s.mu.Unlock()
			_, _ = io.WriteString(w, "reached "+pattern)
		})
	}
	m.HandleFunc("GET /v1/cluster/hold", func(w http.ResponseWriter, _ *http.Request) {
		n := s.open.Add(1)
		for {
			most := s.most.Load()
			if n <= most || s.most.CompareAndSwap(most, n) {
				break
			}
		}
		<-s.hold
		s.open.Add(-1)
		w.WriteHeader(http.StatusOK)
	})
}

// attack sends a request as it is written, and gives the status and the rest.
func attack(t *testing.T, address, request string) (status int, rest string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%.80q: %v", request, err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%.80q: %v", request, err)
	}
	var head strings.Builder
	if err := resp.Header.Write(&head); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, head.String() + string(b)
}

// TestAttacks: nobody gets at a route but with a key that may, however the
// request is written; and no key is in the log.
func TestAttacks(t *testing.T) {
	s := &secrets{count: map[string]int{}}
	var log safe
	server, err := New(Options{
		Address: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Access: access.Options{Keys: []access.Key{
			{Name: "ci", Role: cluster.RoleChat, Secret: "chat-secret"}, {Name: "see", Role: cluster.RoleRead, Secret: "read-secret"}, {Name: "ops", Role: cluster.RoleManage, Secret: "manage-secret"},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	server.Mount(s)
	address := strings.TrimPrefix(start(t, server), "http://")
	const chat, read, manage = "X-Api-Key: chat-secret", "authorization: bEARER read-secret", "X-API-KEY: manage-secret"
	for _, c := range []struct {
		line    string // of the request
		headers string
		status  int
		without string // must not be in the answer
	}{
		{"GET /v1/cluster", read, 200, ""},
		{"POST /v1/cluster/keys", manage, 200, ""},
		{"GET /v1/cluster", "", 401, ""},
		// Keys where none belong, and headers that nobody trusts.
		{"GET /v1/cluster?api_key=manage-secret&key=manage-secret&token=manage-secret", "", 401, ""},
		{"GET /v1/cluster", "Cookie: api_key=manage-secret; x-api-key=manage-secret", 401, ""},
		{"GET /v1/cluster", "Authorization: Basic bWFuYWdlLXNlY3JldDo=", 401, ""},
		{"GET /v1/cluster", "Authorization: manage-secret", 401, ""},
		{"GET /v1/cluster", "Proxy-Authorization: Bearer manage-secret", 401, ""},
		{"GET /v1/cluster", "X-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\nX-Forwarded-Host: localhost", 401, ""},
		{"GET /v1/cluster", "X-Api-Key: MANAGE-SECRET", 401, ""},
		{"GET /v1/cluster", "X-Api-Key: manage-secre", 401, ""},
		{"GET /v1/cluster", "X-Api-Key: manage-secret,manage-secret", 401, ""},
		{"GET /v1/cluster", "X-Api-Key: " + strings.Repeat("a", 60_000), 401, "aaaa"},
		{"GET /v1/cluster", "X-Api-Key: " + strings.Repeat("a", 80_000), 431, "aaaa"},
		{"GET /v1/cluster", strings.Repeat("X-Api-Key: no\r\n", 1000) + manage, 401, ""}, // the first counts
		// Paths that look like others'.
		{"GET //v1/cluster", chat, 403, "reached"},
		{"GET /v1//cluster//keys/", read, 403, "reached"},
		{"GET /healthz/../v1/cluster", "", 401, ""},
		{"GET /healthz/%2e%2e/v1/cluster", "", 401, ""},
		{"GET /healthz%2f..%2fv1/cluster", "", 401, ""},
		{"GET /v1/models/../cluster", chat, 307, "reached GET /v1/cluster"},
		{"GET /v1/models/%2e%2e/cluster", chat, 200, "reached GET /v1/cluster"},
		{"GET /v1/models/..%2fcluster%2fkeys", chat, 200, "reached GET /v1/cluster"},
		{"GET /v1/models/..;/cluster", chat, 200, "reached GET /v1/cluster"},
		{"GET /v1/cluster%00", chat, 404, "reached"},
		{"GET /V1/Cluster", chat, 404, "reached"},
		{"GET /v1/cluster/.", chat, 307, "reached"},
		{"GET http://localhost/v1/cluster", chat, 403, "reached"},
		{"GET http://evil.example/healthz/../v1/cluster", "", 401, ""},
		{"GET //evil.example/%2e%2e/v1/models/", chat, 404, "Location: //evil"},
		// Methods.
		{"HEAD /v1/cluster", chat, 403, "reached"},
		{"POST /v1/cluster", "X-HTTP-Method-Override: GET\r\n" + chat, 405, "reached"},
		{"GET /v1/cluster/models/x?_method=DELETE", "X-HTTP-Method-Override: DELETE\r\nX-Method-Override: DELETE\r\n" + read, 405, "reached"},
		{"DELETE /v1/cluster/models/x", read, 403, "reached"},
		{"DELETE /v1/cluster/models/x/status", read, 403, "reached"},
		{"FOO /v1/cluster", read, 405, "reached"},
		{"TRACE /v1/cluster", manage, 405, "manage-secret"},
		{"OPTIONS /v1/cluster/keys", "", 401, ""},
		// Pages.
		{"POST /v1/cluster/keys", "Origin: null\r\n" + manage, 403, "reached"},
		{"POST /v1/cluster/keys", "Origin: http://localhost.evil.example\r\n" + manage, 403, "Access-Control-Allow"},
		{"POST /v1/cluster/keys", "Origin: http://localhost@evil.example\r\n" + manage, 403, "reached"},
		{"POST /v1/cluster/keys", "Origin: http://localhost\r\nOrigin: http://evil.example\r\n" + manage, 403, "reached"},
		{"OPTIONS /v1/cluster/keys", "Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-api-key", 403, "Access-Control-Allow"},
		{"GET /v1/cluster", "Origin: http://evil.example\r\n" + read, 200, "Access-Control-Allow-Origin"},
		// Other protocols.
		{"GET /v1/cluster", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n" + chat, 403, "Upgrade"},
		{"GET /v1/cluster", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n" + read, 200, "Upgrade:"},
		{"GET /v1/cluster", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n" + read, 200, "h2c"},
		{"POST /v1/cluster/keys", "Transfer-Encoding: chunked\r\n" + read, 403, "reached"},
	} {
		headers := c.headers
		if headers != "" {
			headers += "\r\n"
		}
		body := "Content-Length: 0\r\n\r\n"
		if strings.Contains(c.headers, "chunked") {
			body = "\r\n0\r\n\r\n"
		}
		status, rest := attack(t, address, c.line+" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"+headers+body)
		if status != c.status || c.without != "" && strings.Contains(rest, c.without) {
			t.Errorf("%s with %.100q: status %d, want %d without %q: %.400s", c.line, c.headers, status, c.status, c.without, rest)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count["GET /v1/cluster/keys"] > 0 || s.count["DELETE /v1/cluster/models/{name...}"] > 0 || s.count["POST /v1/cluster/keys"] != 1 {
		t.Errorf("reached: %v", s.count)
	}
	for _, secret := range []string{"manage-secret", "read-secret", "chat-secret"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log has %s", secret)
		}
	}
}

// TestAThousandConnections: a key with a limit has as many requests open as it
// may and no more, however many come at once, and others are served meanwhile.
func TestAThousandConnections(t *testing.T) {
	const limit, connections = 4, 1000
	s := &secrets{count: map[string]int{}, hold: make(chan struct{})}
	key := cluster.Key{Name: "ci", ID: "1", Role: cluster.RoleManage, Hash: sha256.Sum256([]byte("limited")), Concurrent: limit}
	server := newTestServer(t, Options{Access: access.Options{
		Keys: []access.Key{{Name: "ops", Role: cluster.RoleManage, Secret: "free"}}, Cluster: func() map[string]cluster.Key { return map[string]cluster.Key{"ci": key} },
	}})
	server.Mount(s)
	address := strings.TrimPrefix(start(t, server), "http://")
	get := func(path, key string) string {
		return fmt.Sprintf("GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Api-Key: %s\r\n\r\n", path, key)
	}
	statuses := make(chan int, connections)
	for range connections {
		go func() {
			status, _ := attack(t, address, get("/v1/cluster/hold", "limited"))
			statuses <- status
		}()
	}
	refused := 0
	for range connections - limit {
		if status := <-statuses; status == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused != connections-limit || s.most.Load() != limit {
		t.Errorf("%d were refused, %d open at once", refused, s.most.Load())
	}
	if status, _ := attack(t, address, get("/v1/cluster", "free")); status != http.StatusOK {
		t.Errorf("another key meanwhile: status %d", status)
	}
	close(s.hold)
	for range limit {
		if status := <-statuses; status != http.StatusOK {
			t.Errorf("one that was let in: status %d", status)
		}
	}
	if status, _ := attack(t, address, get("/v1/cluster", "limited")); status != http.StatusOK {
		t.Errorf("afterwards: status %d", status)
	}
}
