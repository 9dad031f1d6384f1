package httpapi

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// A client that writes all of a body far too large before it reads sees why it
// was refused, and not a reset. One that waits for leave is answered at once.
func TestFarTooLargeBody(t *testing.T) {
	s := newTestServer(t, Options{MaxBody: 1000})
	address := strings.TrimPrefix(start(t, s), "http://")
	for _, c := range []struct {
		header string
		size   int64
	}{{"", 64 << 20}, {"Expect: 100-continue\r\n", 0}} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST /v1/chat/echo HTTP/1.1\r\nHost: %s\r\n%sContent-Length: %d\r\n\r\n", address, c.header, 64<<20)
		if n, err := io.CopyN(conn, zeros{}, c.size); err != nil {
			t.Errorf("%q: %d bytes could be sent: %v", c.header, n, err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%q: %v", c.header, err)
		}
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusRequestEntityTooLarge || err != nil || !strings.Contains(string(body), "request_too_large") {
			t.Errorf("%q: status %d, %q, %v", c.header, resp.StatusCode, body, err)
		}
		resp.Body.Close()
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
