package slicestore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/gguftest"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/slicestore/piece"
)

// peer is a node with a Shelf, over HTTP/2. spoil, if it returns true, has
// answered instead.
type peer struct {
	name   string
	server *httptest.Server
	asked  atomic.Int64
	spoil  func(w http.ResponseWriter, r *http.Request, next http.Handler) bool
}

// file is a model in a file, as the cluster's state knows it.
func file(t *testing.T, change func([]byte)) (data []byte, m Stored, want Want) {
	t.Helper()
	path := gguftest.Tiny{Context: 512}.WriteFile(t, t.TempDir(), "tiny.gguf")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(data)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	part, err := gguf.Parse(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	m = Stored{Paths: []string{path}, Modified: []time.Time{info.ModTime()}, ID: ID{Parts: []Part{{Size: int64(len(data)), Header: part.DataOffset, Digest: hex.EncodeToString(sum[:])}}}}
	wanted := ID{Parts: []Part{{Size: m.ID.Parts[0].Size, Digest: m.ID.Parts[0].Digest}}}
	key, err := wanted.Key(nil)
	if err != nil {
		t.Fatal(err)
	}
	return data, m, Want{Name: key, ID: wanted, Pieces: piece.Everything, Whole: true, Model: "tiny"}
}

func shelve(t *testing.T, name string, m Stored) *peer {
	t.Helper()
	p := &peer{name: name}
	key, err := m.ID.Key(nil)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(ShelfPattern, &Shelf{Find: func(k string) (Stored, bool) { return m, k == key }})
	p.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked.Add(1)
		if r.ProtoMajor != 2 {
			t.Errorf("protocol %s", r.Proto)
		}
		if p.spoil == nil || !p.spoil(w, r, mux) {
			mux.ServeHTTP(w, r)
		}
	}))
	p.server.EnableHTTP2 = true
	p.server.StartTLS()
	t.Cleanup(p.server.Close)
	return p
}

func (p *peer) holder(w Want) Holder {
	return Holder{Name: p.name, URL: ShelfURL(p.server.URL, w.Name), Client: p.server.Client()}
}

func blockOf(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, path) }

// replay runs the real handler and lets change do something to its body; the
// hash stays the real one, or is made anew.
func replay(w http.ResponseWriter, r *http.Request, next http.Handler, rehash bool, change func([]byte) []byte) {
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	body := change(rec.Body.Bytes())
	sum := rec.Result().Trailer.Get(digestTrailer)
	if rehash {
		h := sha256.Sum256(body)
		sum = hex.EncodeToString(h[:])
	}
	w.Header().Set("Trailer", digestTrailer)
	_, _ = w.Write(body) // the client notices
	w.Header().Set(digestTrailer, sum)
}

func TestWholeFromTheFirstHolderThatIsRight(t *testing.T) {
	data, m, want := file(t, nil)
	_, other, _ := file(t, func(b []byte) { b[len(b)-1] ^= 1 })
	flip := func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-1] ^= 0x10; return b }
	for name, c := range map[string]struct {
		bad   Stored
		spoil func(w http.ResponseWriter, r *http.Request, next http.Handler) bool
		want  string // of the error if nobody else has it
	}{
		"wrong hash": {m, func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if blockOf(r) {
				replay(w, r, next, false, flip)
			}
			return blockOf(r)
		}, "changed on their way"},
		"lies": {m, func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if blockOf(r) && r.URL.Query().Get("offset") != "0" {
				replay(w, r, next, true, flip)
				return true
			}
			return false
		}, "is not the model's"},
		"lies about the header": {m, func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if blockOf(r) && r.URL.Query().Get("offset") == "0" {
				replay(w, r, next, true, func(b []byte) []byte { b = bytes.Clone(b); clear(b[:8]); return b })
				return true
			}
			return false
		}, "header"},
		"short body": {m, func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if blockOf(r) {
				replay(w, r, next, true, func(b []byte) []byte { return b[:len(b)-1] })
			}
			return blockOf(r)
		}, "bytes arrived of"},
		"long body": {m, func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if blockOf(r) {
				replay(w, r, next, true, func(b []byte) []byte { return append(b, 1) })
			}
			return blockOf(r)
		}, "more than was asked for"},
		"breaks off": {m, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if blockOf(r) {
				_, _ = w.Write([]byte("half"))
				panic(http.ErrAbortHandler)
			}
			return false
		}, "stream error"},
		"another file": {other, nil, "404"},
		"another list": {m, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			_, _ = io.WriteString(w, "[1]")
			return true
		}, "lists the model's files in another way"},
		"no such parts": {m, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			_, _ = io.WriteString(w, "{}")
			return true
		}, "a model of 0 files"},
		"refuses": {m, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			http.Error(w, "not today", http.StatusServiceUnavailable)
			return true
		}, "not today"},
	} {
		t.Run(name, func(t *testing.T) {
			bad, good := shelve(t, "bad", c.bad), shelve(t, "good", m)
			bad.spoil = c.spoil
			s := &Store{Dir: t.TempDir()}
			_, err := s.Fetch(t.Context(), want, bad.holder(want))
			if err == nil || !strings.Contains(err.Error(), "bad: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("alone: %v, want %q", err, c.want)
			}
			if copies, err := s.Copies(); err != nil || len(copies) != 0 {
				t.Errorf("copies %v, %v", copies, err)
			}
			// The same store: what the bad one left must not spoil it.
			paths, err := s.Fetch(t.Context(), want, bad.holder(want), good.holder(want))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(paths[0]); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes (%v), and they are wrong", len(got), err)
			}
			copies, err := s.Copies()
			if err != nil || len(copies) != 1 || copies[0].Model != "tiny" || copies[0].Name != want.Name || copies[0].Paths[0] != paths[0] {
				t.Errorf("copies %+v, %v", copies, err)
			}
			asked := good.asked.Load() + bad.asked.Load()
			if _, err := s.Fetch(t.Context(), want); err != nil || good.asked.Load()+bad.asked.Load() != asked {
				t.Errorf("again: %v", err)
			}
		})
	}
}

// A copy that was damaged on the disk is no copy, and is made good.
func TestDamagedCopy(t *testing.T) {
	data, m, want := file(t, nil)
	p := shelve(t, "there", m)
	s := &Store{Dir: t.TempDir()}
	paths, err := s.Fetch(t.Context(), want, p.holder(want))
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(data)
	bad[len(bad)-2] ^= 1
	later := time.Now().Add(time.Hour)
	if err := errors.Join(os.WriteFile(paths[0], bad, 0o600), os.Chtimes(paths[0], later, later)); err != nil {
		t.Fatal(err)
	}
	if copies, err := s.Copies(); err != nil || len(copies) != 0 {
		t.Errorf("copies %v, %v", copies, err)
	}
	if _, err := s.Fetch(t.Context(), want, p.holder(want)); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(paths[0]); err != nil || !bytes.Equal(got, data) {
		t.Errorf("it is not repaired (%v)", err)
	}
}

// A shard's slice comes from two holders, and is complete without any then.
func TestSliceFromTwoHolders(t *testing.T) {
	_, m, want := file(t, nil)
	spec := slice.Spec{First: 0, End: 1}
	var err error
	if want.Name, err = want.ID.Key(spec); err != nil {
		t.Fatal(err)
	}
	want.Whole = false
	want.Pieces = func(m *gguf.Model) ([]Block, error) { return piece.Needs(m, spec) }
	key, err := want.ID.Key(nil)
	if err != nil {
		t.Fatal(err)
	}
	first, second := shelve(t, "first", m), shelve(t, "second", m)
	var given atomic.Int64
	first.spoil = func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if blockOf(r) && given.Add(1) > 3 {
			http.Error(w, "going down", http.StatusServiceUnavailable)
			return true
		}
		return false
	}
	holders := []Holder{first.holder(want), second.holder(want)}
	for i, p := range []*peer{first, second} {
		holders[i].URL = ShelfURL(p.server.URL, key)
	}
	s := &Store{Dir: t.TempDir()}
	paths, err := s.Fetch(t.Context(), want, holders...)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	original, err := os.Open(m.Paths[0])
	if err != nil {
		t.Fatal(err)
	}
	defer original.Close()
	part, err := gguf.Parse(original, m.ID.Parts[0].Size)
	if err != nil {
		t.Fatal(err)
	}
	model, err := gguf.Join(part)
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := piece.Needs(model, spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		for i := range b.Count {
			got, want := make([]byte, b.Length), make([]byte, b.Length)
			_, err1 := f.ReadAt(got, b.Offset+i*b.Stride)
			_, err2 := original.ReadAt(want, b.Offset+i*b.Stride)
			if err1 != nil || err2 != nil || !bytes.Equal(got, want) {
				t.Fatalf("%+v differs (%v, %v)", b, err1, err2)
			}
		}
	}
	asked := second.asked.Load()
	if _, err := s.Fetch(t.Context(), want, holders...); err != nil || second.asked.Load() != asked {
		t.Errorf("again: %v, %d asked of %d", err, second.asked.Load(), asked)
	}
}

// A holder that says nothing is left after Stall, whether it has begun or not.
func TestStalls(t *testing.T) {
	_, m, want := file(t, nil)
	for name, begin := range map[string]bool{"before the answer": false, "in the middle": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mux := http.NewServeMux()
				mux.Handle(ShelfPattern, &Shelf{Find: func(string) (Stored, bool) { return m, true }})
				good := memory(t, mux)
				stuck := memory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if !blockOf(r) {
						mux.ServeHTTP(w, r)
						return
					}
					if begin {
						_, _ = w.Write([]byte("some"))
						w.(http.Flusher).Flush()
					}
					<-r.Context().Done()
				}))
				began := time.Now()
				s := &Store{Dir: t.TempDir(), Stall: 7 * time.Second}
				url := ShelfURL("http://peer", want.Name)
				_, err := s.Fetch(t.Context(), want, Holder{Name: "stuck", URL: url, Client: stuck})
				if err == nil || !strings.Contains(err.Error(), "stuck: it sent nothing for 7s") {
					t.Errorf("error %v", err)
				}
				if _, err := s.Fetch(t.Context(), want, Holder{Name: "stuck", URL: url, Client: stuck}, Holder{Name: "good", URL: url, Client: good}); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took != 14*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// memory is a client of a handler, over pipes and HTTP/2.
func memory(t *testing.T, h http.Handler) *http.Client {
	t.Helper()
	conns := make(chan net.Conn)
	closed := make(chan struct{})
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: h, Protocols: &protocols}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(pipes{conns, closed}) // ends with Close
	}()
	transport := &http.Transport{Protocols: &protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		near, far := net.Pipe()
		select {
		case conns <- far:
			return near, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = server.Close() // so does its listener
		<-done
	})
	return &http.Client{Transport: transport}
}

type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p pipes) Close() error   { close(p.closed); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// On a full disk the reason is told and nothing of the slice stays.
func TestFullDisk(t *testing.T) {
	_, m, want := file(t, nil)
	p := shelve(t, "there", m)
	for name, s := range map[string]*Store{
		"while writing": {writeAt: func(f *os.File, b []byte, at int64) (int, error) {
			if at > 0 {
				return 0, &os.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC}
			}
			return f.WriteAt(b, at)
		}},
		"before": {Free: func(string) (int64, error) { return 10, nil }},
	} {
		t.Run(name, func(t *testing.T) {
			s.Dir = t.TempDir()
			_, err := s.Fetch(t.Context(), want, p.holder(want), p.holder(want))
			var space *NoSpaceError
			if !errors.As(err, &space) || !strings.Contains(err.Error(), "free some space") || strings.Contains(err.Error(), "there:") {
				t.Errorf("error %v", err)
			}
			if left, err := os.ReadDir(s.Dir); err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
}

// Old slices go when room is needed, the longest unused first, and only those
// that nobody needs.
func TestRoom(t *testing.T) {
	_, m, want := file(t, nil)
	p := shelve(t, "there", m)
	dir := t.TempDir()
	for i, name := range []string{"oldest", "needed", "newer", "newest"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(int64(1e9+i), 0)
		lock := filepath.Join(dir, name, "lock")
		if err := errors.Join(os.WriteFile(lock, nil, 0o600), os.Chtimes(lock, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := &Store{Dir: dir, Keep: func(name string) bool { return name == "needed" }, Free: func(string) (int64, error) {
		left, err := os.ReadDir(dir)
		if len(left) <= 4 {
			return 1 << 40, err
		}
		return 0, err
	}}
	if _, err := s.Fetch(t.Context(), want, p.holder(want)); err != nil {
		t.Fatal(err)
	}
	left := map[string]bool{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		left[e.Name()] = true
	}
	if diff := cmp.Diff(map[string]bool{want.Name: true, "file": true, "needed": true, "newest": true}, left); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

// A file that was changed since it was hashed is not served any more.
func TestShelfRefuses(t *testing.T) {
	_, m, want := file(t, nil)
	s := &Shelf{Find: func(k string) (Stored, bool) { return m, k == want.Name }, Allow: func(r *http.Request) bool { return r.Header.Get("Member") != "" }}
	mux := http.NewServeMux()
	mux.Handle(ShelfPattern, s)
	ask := func(member bool, path string) int {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		if member {
			r.Header.Set("Member", "1")
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		return w.Code
	}
	for _, c := range []struct {
		member bool
		path   string
		status int
	}{
		{true, ShelfURL("", want.Name) + "/parts", 200},
		{false, ShelfURL("", want.Name) + "/parts", 403},
		{false, ShelfURL("", want.Name) + "/block?part=0&offset=0&length=8&stride=0&count=1", 403},
		{true, ShelfURL("", want.Name) + "/block?part=0&offset=0&length=8&stride=0&count=1", 200},
		{true, ShelfURL("", want.Name) + "/block?part=0&offset=0&length=99999999&stride=0&count=1", 400},
		{true, ShelfURL("", want.Name) + "/else", 404},
		{true, ShelfURL("", "other") + "/parts", 404},
	} {
		if got := ask(c.member, c.path); got != c.status {
			t.Errorf("%s (member %v): %d, want %d", c.path, c.member, got, c.status)
		}
	}
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(m.Paths[0], later, later); err != nil {
		t.Fatal(err)
	}
	if got := ask(true, ShelfURL("", want.Name)+"/parts"); got != http.StatusGone {
		t.Errorf("after a change: %d", got)
	}
}

// TestWitness: a slice that one holder gives, with a hash that fits, is compared
// with another holder: one that lies is found out, whichever it is.
func TestWitness(t *testing.T) {
	_, m, want := file(t, nil)
	spec := slice.Spec{First: 0, End: 1}
	key, err := want.ID.Key(nil)
	if err != nil {
		t.Fatal(err)
	}
	if want.Name, err = want.ID.Key(spec); err != nil {
		t.Fatal(err)
	}
	want.Whole = false
	want.Pieces = func(m *gguf.Model) ([]Block, error) { return piece.Needs(m, spec) }
	lie := func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		if blockOf(r) && r.URL.Query().Get("offset") != "0" { // its header is right
			replay(w, r, next, true, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
			return true
		}
		return false
	}
	away := func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		http.Error(w, "not today", http.StatusServiceUnavailable)
		return true
	}
	wrong := func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		if strings.HasSuffix(r.URL.Path, "/digest") {
			_, _ = w.Write([]byte(strings.Repeat("0", 64)))
			return true
		}
		return false
	}
	for _, c := range []struct {
		name   string
		spoils [3]func(http.ResponseWriter, *http.Request, http.Handler) bool
		differ bool
	}{
		{"all agree", [3]func(http.ResponseWriter, *http.Request, http.Handler) bool{}, false},
		{"the giver lies", [3]func(http.ResponseWriter, *http.Request, http.Handler) bool{lie}, true},
		{"the witness lies", [3]func(http.ResponseWriter, *http.Request, http.Handler) bool{nil, wrong}, true},
		{"the first witness is away", [3]func(http.ResponseWriter, *http.Request, http.Handler) bool{lie, away}, true},
		{"no witness", [3]func(http.ResponseWriter, *http.Request, http.Handler) bool{nil, away, away}, false},
	} {
		var holders []Holder
		var peers []*peer
		for i, spoil := range c.spoils {
			p := shelve(t, fmt.Sprint("holder", i), m)
			p.spoil = spoil
			h := p.holder(want)
			h.URL = ShelfURL(p.server.URL, key)
			peers, holders = append(peers, p), append(holders, h)
		}
		s := &Store{Dir: t.TempDir()}
		_, err := s.Fetch(t.Context(), want, holders...)
		var differ *DisagreedError
		if errors.As(err, &differ) != c.differ || !c.differ && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.name != "all agree" {
			continue
		}
		// It was compared, so it is not compared again.
		asked := peers[1].asked.Load()
		if asked == 0 {
			t.Error("nobody was asked whether it is right")
		}
		if _, err := s.Fetch(t.Context(), want, holders...); err != nil || peers[1].asked.Load() != asked {
			t.Errorf("again: %v, asked %d times more", err, peers[1].asked.Load()-asked)
		}
	}
}
