package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/ids"
)

func openAt(t testing.TB, path string) *Log {
	t.Helper()
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func shut(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func entries(from, to uint64) []Entry {
	var out []Entry
	for i := from; i <= to; i++ {
		out = append(out, Entry{Index: i, Session: ids.Session{Master: "m", Clock: i / 10}, Data: fmt.Appendf(nil, "event %d", i)})
	}
	return out
}

func all(t testing.TB, l *Log, from uint64) []Entry {
	t.Helper()
	got, ok, err := l.Entries(from, 1<<20)
	if err != nil || !ok {
		t.Fatalf("entries from %d: ok %v, %v", from, ok, err)
	}
	return got
}

func TestKeepsWhatWasAppended(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x", "state.db")
	l := openAt(t, path)
	if i, s, err := l.Last(); i != 0 || !s.Zero() || err != nil {
		t.Fatalf("new log: last %d %v %v", i, s, err)
	}
	if err := l.Append(entries(1, 25)...); err != nil {
		t.Fatal(err)
	}
	if err := l.Put("clock", []byte("7")); err != nil {
		t.Fatal(err)
	}
	shut(t, l)
	l = openAt(t, path)
	defer shut(t, l)
	if d := cmp.Diff(entries(1, 25), all(t, l, 1)); d != "" {
		t.Error(d)
	}
	if got, ok, err := l.Entries(24, 1); err != nil || !ok || len(got) != 1 || got[0].Index != 24 {
		t.Errorf("limit: %v %v %v", got, ok, err)
	}
	if v, err := l.Get("clock"); err != nil || string(v) != "7" {
		t.Errorf("clock %q %v", v, err)
	}
	if v, err := l.Get("nothing"); err != nil || v != nil {
		t.Errorf("nothing: %q %v", v, err)
	}
	if l.Damage() != "" {
		t.Error(l.Damage())
	}
}

func TestGapsAreRefusedWhole(t *testing.T) {
	l := openAt(t, filepath.Join(t.TempDir(), "state.db"))
	defer shut(t, l)
	e := entries(1, 3)
	e[2].Index = 9
	if err := l.Append(e...); err == nil || !strings.Contains(err.Error(), "entry 9 does not follow entry 2") {
		t.Fatal(err)
	}
	if got := all(t, l, 1); len(got) != 0 {
		t.Errorf("half an append stayed: %v", got)
	}
}

func TestSnapshots(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	l := openAt(t, path)
	if err := l.Append(entries(1, 30)...); err != nil {
		t.Fatal(err)
	}
	snap := Snapshot{Index: 20, Session: ids.Session{Master: "m", Clock: 2}, Data: []byte("state at 20")}
	if err := l.Compact(snap); err != nil {
		t.Fatal(err)
	}
	if err := l.Truncate(19); err == nil {
		t.Error("went behind the snapshot")
	}
	if err := l.Truncate(28); err != nil {
		t.Fatal(err)
	}
	shut(t, l)
	l = openAt(t, path)
	defer func() { shut(t, l) }()
	if got, err := l.Snapshot(); err != nil || cmp.Diff(snap, got) != "" {
		t.Errorf("%+v %v", got, err)
	}
	if _, ok, err := l.Entries(20, 1); ok || err != nil {
		t.Errorf("an entry in the snapshot: %v %v", ok, err)
	}
	if d := cmp.Diff(entries(21, 28), all(t, l, 21)); d != "" {
		t.Error(d)
	}
	snap.Index = 99
	if err := l.Install(snap); err != nil {
		t.Fatal(err)
	}
	if i, _, err := l.Last(); i != 99 || err != nil {
		t.Errorf("last %d %v after a peer's snapshot", i, err)
	}
	if err := l.Append(entries(100, 101)...); err != nil {
		t.Error(err)
	}
}

// TestDamage cuts and changes the file in every way that a disk might: what
// comes back is a prefix of what was written, and the file is kept.
func TestDamage(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "whole.db")
	l := openAt(t, whole)
	want := entries(1, 400)
	for i := 0; i < len(want); i += 40 {
		if err := l.Append(want[i : i+40]...); err != nil {
			t.Fatal(err)
		}
	}
	shut(t, l)
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		path := filepath.Join(dir, "state.db")
		b := bytes.Clone(data)
		switch rapid.IntRange(0, 2).Draw(rt, "damage") {
		case 0:
			b = b[:rapid.IntRange(1, len(b)-1).Draw(rt, "cut")]
		case 1:
			for i := range rapid.IntRange(1, 4).Draw(rt, "flips") {
				b[rapid.IntRange(0, len(b)-1).Draw(rt, fmt.Sprint("at ", i))] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
			}
		case 2:
			at := rapid.IntRange(0, len(b)/4096-1).Draw(rt, "page") * 4096
			clear(b[at : at+4096])
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			rt.Fatal(err)
		}
		l, err := Open(path)
		if errors.Is(err, errFormat) {
			return // the format's own byte was hit
		}
		if err != nil {
			rt.Fatal(err)
		}
		defer shut(t, l)
		got, ok, err := l.Entries(1, 1<<20)
		if err != nil || !ok || len(got) > len(want) {
			rt.Fatalf("%d entries, ok %v, %v", len(got), ok, err)
		}
		if d := cmp.Diff(want[:len(got)], got, cmp.Comparer(bytes.Equal)); d != "" && len(got) > 0 {
			rt.Fatalf("not what was written: %s", d)
		}
		if len(got) < len(want) && l.Damage() == "" {
			rt.Fatalf("%d of %d entries are left and nothing is said", len(got), len(want))
		}
		if l.Damage() != "" {
			if _, err := os.Stat(path + ".damaged"); err != nil {
				rt.Fatal(err)
			}
		}
		if err := l.Append(entries(uint64(len(got))+1, 401)...); err != nil {
			rt.Fatal(err)
		}
	})
}

func TestOneProcessAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	l := openAt(t, path)
	defer shut(t, l)
	if _, err := Open(path); !errors.Is(err, ErrOpen) || !strings.Contains(err.Error(), "SKEIN_HOME") {
		t.Fatal(err)
	}
}

func TestNewerFormatIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	l := openAt(t, path)
	if err := l.Append(entries(1, 2)...); err != nil {
		t.Fatal(err)
	}
	if err := l.Put("x", nil); err != nil {
		t.Fatal(err)
	}
	putFormat(t, l, Format+1)
	shut(t, l)
	if _, err := Open(path); !errors.Is(err, errFormat) {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error("the newer file was moved")
	}
}

func TestReservedNames(t *testing.T) {
	l := openAt(t, filepath.Join(t.TempDir(), "state.db"))
	defer shut(t, l)
	if err := l.Put("snapshot", nil); err == nil {
		t.Error("a value took the snapshot's place")
	}
}

func FuzzDecode(f *testing.F) {
	for _, e := range entries(1, 3) {
		f.Add(encode(e))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decode(b)
		if err == nil && !bytes.Equal(encode(e), b) {
			// A uvarint has more than one spelling; what counts is what is read.
			if again, err := decode(encode(e)); err != nil || cmp.Diff(e, again) != "" {
				t.Fatalf("%+v becomes %+v, %v", e, again, err)
			}
		}
	})
}

// TestProbe leaves nothing behind, in the log or in its file beyond the first one.
func TestProbe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	l := openAt(t, path)
	want := entries(1, 5)
	if err := l.Append(want...); err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		s, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return s.Size()
	}
	var first int64
	for range 20 {
		if err := l.Probe(); err != nil {
			t.Fatal(err)
		}
		if v, err := l.Get(keyProbe); err != nil || v != nil {
			t.Fatalf("%d bytes are left, %v", len(v), err)
		}
		if first == 0 {
			first = size()
		}
	}
	if now := size(); now > 2*first {
		t.Errorf("the file grew from %d to %d bytes", first, now)
	}
	shut(t, l)
	l = openAt(t, path)
	if got := all(t, l, 1); len(got) != len(want) {
		t.Errorf("%d entries of %d", len(got), len(want))
	}
	shut(t, l)
	if err := l.Probe(); err == nil {
		t.Error("a file that is closed can be written")
	}
}
