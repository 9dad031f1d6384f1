package httpapi

import (
	"bytes"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/httpapi/access"
)

// Who is turned away leaves a line with the address and never the key, and who
// tries a thousand keys leaves no thousand lines.
func TestTurnedAwayIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s, err := New(Options{
			Address: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(&log, nil)),
			Access: access.Options{Keys: []access.Key{{Name: "ops", Role: cluster.RoleManage, Secret: "right"}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Mount(two{})
		ask := func(path, key string) int {
			w := httptest.NewRecorder()
			r := httptest.NewRequest("POST", path, nil)
			r.RemoteAddr = "192.0.2.7:5555"
			if key != "" {
				r.Header.Set("Authorization", "Bearer "+key)
			}
			s.Handler().ServeHTTP(w, r)
			return w.Code
		}
		for range 1000 {
			if code := ask("/v1/cluster/models/load", "guessed-secret"); code != 401 {
				t.Fatalf("%d", code)
			}
		}
		if ask("/v1/cluster/models/load", "right") != 200 {
			t.Error("the right key is refused")
		}
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 1 || !strings.Contains(lines[0], "from=192.0.2.7 ") || !strings.Contains(lines[0], "path=/v1/cluster/models/load") || !strings.Contains(lines[0], "level=WARN") {
			t.Errorf("%q", lines)
		}
		time.Sleep(turnedAwayEvery)
		ask("/%1b[31m"+strings.Repeat("x", 500), "")
		lines = strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[1], "more_since_the_last_line=999") || !strings.Contains(lines[1], "no API key was given") || strings.Contains(lines[1], "\x1b") || len(lines[1]) > 600 {
			t.Errorf("%q", lines)
		}
		if strings.Contains(log.String(), "guessed-secret") {
			t.Error("the log has a key that was sent")
		}
	})
}
