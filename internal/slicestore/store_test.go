package slicestore

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/gguftest"
	"github.com/skein-run/skein/internal/slicestore/piece"
)

// original is a model file and its server; broken changes answers.
type original struct {
	data   []byte
	id     ID
	server *httptest.Server
	asked  atomic.Int64 // blocks
	broken atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
}

func serve(t *testing.T) *original {
	t.Helper()
	path := gguftest.Tiny{Context: 512}.WriteFile(t, t.TempDir(), "tiny.gguf")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	o := &original{data: data}
	part, err := gguf.Parse(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if o.id, err = piece.Identify([]*gguf.File{part}, []io.ReaderAt{bytes.NewReader(data)}); err != nil {
		t.Fatal(err)
	}
	source := NewSource(o.id, []io.ReaderAt{bytes.NewReader(data)}, "secret")
	o.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.asked.Add(1)
		if f := o.broken.Load(); f != nil && (*f)(w, r) {
			return
		}
		source.ServeHTTP(w, r)
	}))
	t.Cleanup(o.server.Close)
	return o
}

func (o *original) holder() Holder {
	return Holder{Name: "there", URL: o.server.URL, Token: "secret", Client: o.server.Client()}
}

// fetch brings some pieces.
func (o *original) fetch(t *testing.T, s *Store) ([]string, error) {
	t.Helper()
	return s.Fetch(t.Context(), Want{Name: "a", ID: o.id, Pieces: some}, o.holder())
}

// some takes a run and a strided piece of the data.
func some(m *gguf.Model) ([]Block, error) {
	at := m.Parts()[0].DataOffset
	return []Block{{Offset: at + 10, Length: 100, Count: 1}, {Offset: at + 200, Length: 3, Stride: 16, Count: 20}}, nil
}

// wantFilled compares what was fetched, and wants nothing else to be there.
func (o *original) wantFilled(t *testing.T, path string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, len(o.data))
	header := o.id.Parts[0].Header
	copy(want, o.data[:header])
	keep := func(from, n int64) { copy(want[from:from+n], o.data[from:from+n]) }
	keep(header+10, 100)
	for i := range int64(20) {
		keep(header+200+16*i, 3)
	}
	if !bytes.Equal(got, want) {
		t.Error("the file holds other bytes than were asked for")
	}
}

func TestFetch(t *testing.T) {
	o, s := serve(t), &Store{Dir: t.TempDir()}
	var done, total int64
	paths, err := s.Fetch(t.Context(), Want{Name: "a", ID: o.id, Pieces: some, Progress: func(d, all int64, from string) {
		if done, total = d, all; from != "there" {
			t.Errorf("from %q", from)
		}
	}}, o.holder())
	if err != nil || len(paths) != 1 || done != 160 || total != 160 {
		t.Fatalf("%v, %v, progress %d of %d", paths, err, done, total)
	}
	o.wantFilled(t, paths[0])
	asked := o.asked.Load()
	o.server.Close() // what is here needs nobody
	if _, err := o.fetch(t, s); err != nil {
		t.Fatalf("again: %v", err)
	}
	if got := o.asked.Load(); got != asked {
		t.Errorf("%d blocks were fetched twice", got-asked)
	}
}

// What was interrupted goes on; what rotted on the disk is fetched again.
func TestResumeAndRepair(t *testing.T) {
	o, dir := serve(t), t.TempDir()
	s := &Store{Dir: dir}
	fail := func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("stride") == "16" {
			http.Error(w, "no more today", http.StatusServiceUnavailable)
			return true
		}
		return false
	}
	o.broken.Store(&fail)
	if _, err := o.fetch(t, s); err == nil || !strings.Contains(err.Error(), "no more today") {
		t.Fatalf("error %v", err)
	}
	o.broken.Store(nil)
	journal := filepath.Join(dir, "a", "journal")
	b, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(journal, append(b, `{"block":{"part":0,"off`...), 0o600); err != nil { // a crash while it was written
		t.Fatal(err)
	}
	before := o.asked.Load()
	paths, err := o.fetch(t, s)
	if err != nil {
		t.Fatal(err)
	}
	o.wantFilled(t, paths[0])
	if got := o.asked.Load() - before; got > 2 {
		t.Errorf("%d blocks were fetched to go on, want those that were missing", got)
	}
	f, err := os.OpenFile(paths[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	at := o.id.Parts[0].Header + 12
	if _, err := f.WriteAt([]byte{o.data[at] ^ 1}, at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := o.fetch(t, s); err != nil {
		t.Fatal(err)
	}
	o.wantFilled(t, paths[0])
}

// Bytes that were changed on their way are an error, and never kept.
func TestChangedOnTheWay(t *testing.T) {
	o, s := serve(t), &Store{Dir: t.TempDir()}
	change := func(w http.ResponseWriter, r *http.Request) bool {
		rec := httptest.NewRecorder()
		NewSource(o.id, []io.ReaderAt{bytes.NewReader(o.data)}, "secret").ServeHTTP(rec, r)
		body := rec.Body.Bytes()
		body[len(body)/2] ^= 0x10
		w.Header().Set("Trailer", digestTrailer)
		_, _ = w.Write(body) // the client notices
		w.Header().Set(digestTrailer, rec.Result().Trailer.Get(digestTrailer))
		return true
	}
	o.broken.Store(&change)
	_, err := o.fetch(t, s)
	if err == nil || !strings.Contains(err.Error(), "changed on their way") {
		t.Fatalf("error %v", err)
	}
	o.broken.Store(nil)
	paths, err := o.fetch(t, s)
	if err != nil {
		t.Fatal(err)
	}
	o.wantFilled(t, paths[0])
}

func TestSourceRefuses(t *testing.T) {
	o := serve(t)
	size := o.id.Parts[0].Size
	for name, c := range map[string]struct {
		block  Block
		token  string
		path   string
		status int
	}{
		"other token":  {Block{Length: 1, Count: 1}, "guess", path, http.StatusUnauthorized},
		"no token":     {Block{Length: 1, Count: 1}, "", path, http.StatusUnauthorized},
		"other path":   {Block{Length: 1, Count: 1}, "secret", "/etc/passwd", http.StatusNotFound},
		"other part":   {Block{Part: 1, Length: 1, Count: 1}, "secret", path, http.StatusBadRequest},
		"beyond":       {Block{Offset: size, Length: 1, Count: 1}, "secret", path, http.StatusBadRequest},
		"negative":     {Block{Offset: -1, Length: 1, Count: 1}, "secret", path, http.StatusBadRequest},
		"overflow":     {Block{Length: 8, Stride: 1 << 62, Count: 4}, "secret", path, http.StatusBadRequest},
		"overlapping":  {Block{Length: 8, Stride: 4, Count: 2}, "secret", path, http.StatusBadRequest},
		"nothing":      {Block{Count: 1}, "secret", path, http.StatusBadRequest},
		"strides past": {Block{Length: 8, Stride: size, Count: 2}, "secret", path, http.StatusBadRequest},
		"fine":         {Block{Length: 8, Count: 1}, "secret", path, http.StatusOK},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, o.server.URL+c.path+"?"+c.block.Query(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.token != "" {
			req.Header.Set("Authorization", "Bearer "+c.token)
		}
		res, err := o.server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != c.status {
			t.Errorf("%s: status %d, want %d", name, res.StatusCode, c.status)
		}
	}
}

func TestBadIDs(t *testing.T) {
	for name, id := range map[string]ID{
		"empty":        {},
		"header first": {Parts: []Part{{Size: 100, Header: 200}}},
		"huge":         {Parts: []Part{{Size: 1 << 60, Header: 100}}},
		"negative":     {Parts: []Part{{Size: -1, Header: -1}}},
	} {
		dir := t.TempDir()
		if _, err := (&Store{Dir: dir}).Fetch(t.Context(), Want{Name: "a", ID: id, Pieces: some}); err == nil {
			t.Errorf("%s: no error", name)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
	}
}

// A model whose data differ has another name, though its header is the same.
func TestIdentify(t *testing.T) {
	o := serve(t)
	changed := bytes.Clone(o.data)
	changed[len(changed)-1] ^= 1
	part, err := gguf.Parse(bytes.NewReader(changed), int64(len(changed)))
	if err != nil {
		t.Fatal(err)
	}
	id, err := piece.Identify([]*gguf.File{part}, []io.ReaderAt{bytes.NewReader(changed)})
	if err != nil {
		t.Fatal(err)
	}
	if id.Parts[0].Digest == o.id.Parts[0].Digest {
		t.Error("other weights have the same name")
	}
	one, err1 := o.id.Key("a")
	two, err2 := o.id.Key("b")
	if err1 != nil || err2 != nil || one == two {
		t.Errorf("keys %q and %q", one, two)
	}
}
