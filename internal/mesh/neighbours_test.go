package mesh

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/ids"
)

// forged is a certificate for id of the authority of a secret, which ended at a
// time.
func forged(t *testing.T, secret string, id ids.Node, until time.Time) tls.Certificate {
	t.Helper()
	seed, err := derive(secret, "test", "authority", ed25519.SeedSize)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := newIdentity(secret, "test", "x")
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(ca.authority)
	if err != nil {
		t.Fatal(err)
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: string(id)}, NotBefore: validFrom, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, root, public, ed25519.NewKeyFromSeed(seed))
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestCertificates: one that has expired, one of another authority, and none
// get no answer, and neither does a peer that shows such a one get a call.
func TestCertificates(t *testing.T) {
	a := start(t, "a", nil)
	yesterday, never := time.Now().Add(-24*time.Hour), time.Now().Add(24*time.Hour)
	for name, shown := range map[string][]tls.Certificate{
		"expired": {forged(t, "s3cret", "b", yesterday)},
		"foreign": {forged(t, "another", "b", never)},
		"none":    nil,
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := tls.Dial("tcp", a.ln.Addr().String(), &tls.Config{MinVersion: tls.VersionTLS13, Certificates: shown, InsecureSkipVerify: true, NextProtos: []string{"h2"}})
			if err == nil { // in TLS 1.3 the refusal comes with the first byte
				defer conn.Close()
				_, err = conn.Read(make([]byte, 1))
			}
			if err == nil || !strings.Contains(err.Error(), "tls:") {
				t.Errorf("%v, want an alert", err)
			}
			if shown == nil {
				return
			}
			l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, Certificates: shown, NextProtos: []string{"h2"}})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				_, _ = io.Copy(io.Discard, conn) // until it is refused
			}()
			port := l.Addr().(*net.TCPAddr).Port
			a.mu.Lock()
			a.peers["b"] = &peer{member: Member{ID: "b", Host: "127.0.0.1", Peer: port}}
			a.mu.Unlock()
			if resp, err := a.Client().Get("https://b/hello"); err == nil {
				resp.Body.Close()
				t.Error("it was called")
			} else if !strings.Contains(err.Error(), "another secret or namespace") {
				t.Errorf("%v", err)
			}
			a.mu.Lock()
			delete(a.peers, "b")
			a.mu.Unlock()
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			<-done
		})
	}
	a.log.expect(t, "peer call failed: TLS handshake error")
	a.log.expect(t, "expired")
	a.log.expect(t, "unknown authority")
	// A friend is served as before.
	b := start(t, "b", joins(a))
	b.expect(t, "a", true)
	if got := get(t, b, "a"); got != "a called by b" {
		t.Error(got)
	}
}

// TestWrongClocks: certificates hold on a clock that is a day off, or years.
func TestWrongClocks(t *testing.T) {
	i, err := newIdentity("s3cret", "test", "a")
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(i.certificate.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []time.Duration{-24 * time.Hour, 24 * time.Hour, -20 * 365 * 24 * time.Hour, 20 * 365 * 24 * time.Hour} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: i.roots, CurrentTime: time.Now().Add(off)}); err != nil {
			t.Errorf("a clock that is %v off: %v", off, err)
		}
	}
}

// TestIDUsedTwice: of two nodes with one id the first stays, and the log of the
// others says where the second is and what to do.
func TestIDUsedTwice(t *testing.T) {
	a := start(t, "a", nil)
	b := start(t, "b", joins(a))
	a.expect(t, "b", true)
	b.expect(t, "a", true)
	twin := start(t, "b", joins(a))
	a.log.expect(t, "node id b is used at "+b.addr()+" already; two homes were copied from one: delete node_id in one of them")
	if m, ok := a.Member("b"); !ok || m.Boot != b.Boot() || m.Boot == twin.Boot() {
		t.Errorf("a takes %+v for b", m)
	}
	if got := get(t, a, "b"); got != "b called by a" {
		t.Error(got)
	}
}

// TestFlood: whoever sends rubbish, huge lengths, or opens connections and is
// silent, to either port, disturbs no call and makes nobody look dead.
func TestFlood(t *testing.T) {
	a := start(t, "a", nil)
	b := start(t, "b", joins(a))
	a.expect(t, "b", true)
	b.expect(t, "a", true)
	gossip, peers := a.addr(), net.JoinHostPort("127.0.0.1", strconv.Itoa(a.Port()))
	rubbish := make([]byte, 1400)
	if _, err := rand.Read(rubbish); err != nil {
		t.Fatal(err)
	}
	udp, err := net.Dial("udp", gossip)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for i := range 200 {
		for range 20 {
			_, _ = udp.Write(rubbish[:1+i*7]) // the kernel may drop them, as may a
		}
		for _, at := range []string{gossip, peers} {
			c, err := net.Dial("tcp", at)
			if err != nil {
				t.Fatalf("connection %d to %s: %v", i, at, err)
			}
			open = append(open, c)
			switch i % 4 {
			case 0: // silent
			case 1:
				_, _ = c.Write(rubbish) // it may be closed by now
			case 2: // a frame of 4 GB of each protocol: a TLS record, or a message of the gossip
				_, _ = c.Write([]byte{10, 0xff, 0xff, 0xff, 0xff, 0x16, 3, 3, 0xff, 0xff})
			case 3:
				_, _ = c.Write([]byte{0x16, 3, 1, 0xff, 0xff, 1, 0xff, 0xff, 0xff})
			}
		}
		if i%20 == 0 {
			if got := get(t, b, "a"); got != "a called by b" {
				t.Error(got)
			}
		}
	}
	if got := a.Members(); len(got) != 1 || got[0].ID != "b" {
		t.Errorf("a sees %v", got)
	}
	select {
	case e := <-a.events:
		t.Errorf("a was told of %+v", e)
	default:
	}
	a.log.expect(t, "peer call failed: TLS handshake error")
	a.log.expect(t, `level=WARN msg="gossip: `)
}
