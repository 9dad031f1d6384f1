package table

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// A table keeps within its width, whatever is in it, shows every row, and
// colours move nothing.
func TestTableFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[a-zäö/模型ｗ🎉]{0,40}`)
		g := New("NAME", "N", "TEXT", "MORE").Right(1)
		for _, s := range rapid.SliceOfN(rapid.IntRange(0, 3), 0, 8).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				g.Cut(s, rapid.IntRange(0, 20).Draw(t, "least"))
			case 1:
				g.Shorten(s)
			default:
				if s > 0 {
					g.Drop(s)
				}
			}
		}
		rows := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) [4]string {
			return [4]string{word.Draw(t, "name"), fmt.Sprint(rapid.IntRange(0, 99999).Draw(t, "n")), word.Draw(t, "text"), word.Draw(t, "more")}
		}), 0, 8).Draw(t, "rows")
		for _, r := range rows {
			g.Add(Cell{Text: r[0], Style: Bold}, T(r[1]), Cell{Text: r[2], Style: Bad, Short: "s"}, T(r[3]))
		}
		width := rapid.IntRange(0, 120).Draw(t, "width")
		lines, styled := g.Lines(width, false), g.Lines(width, true)
		if len(lines) != len(rows)+1 || len(styled) != len(lines) {
			t.Fatalf("%d and %d lines of %d rows", len(lines), len(styled), len(rows))
		}
		for k, l := range lines {
			if n := places(l); width > 0 && n > width {
				t.Fatalf("%d places, width %d: %q", n, width, l)
			}
			if strings.HasSuffix(l, " ") {
				t.Fatalf("blanks at the end of %q", l)
			}
			if Width(styled[k]) != places(l) {
				t.Fatalf("colours move text:\n%q\n%q", styled[k], l)
			}
			if k == 0 || width > 0 {
				continue
			}
			for _, want := range rows[k-1] {
				if !strings.Contains(l, want) {
					t.Fatalf("%q is cut without need", l)
				}
			}
		}
	})
}

// places counts those that the characters of these tests take.
func places(text string) int {
	n := utf8.RuneCountInString(text)
	for _, r := range text {
		if strings.ContainsRune("模型ｗ🎉", r) {
			n++
		}
	}
	return n
}

// What stands behind wide characters, or those that take no place, stands in one
// column all the same.
func TestWideCharacters(t *testing.T) {
	g := New("NAME", "N").Right(1)
	for _, name := range []string{"plain", "模型🎉", "e\u0301tude", "한국어 모델", "ｗｉｄｅ", "👩\u200d💻"} {
		g.Add(T(name), T("7"))
	}
	for _, l := range g.Lines(0, false)[1:] {
		if before, ok := strings.CutSuffix(l, "7"); !ok || Width(before) != 13 {
			t.Errorf("%q has its number at %d", l, Width(before))
		}
	}
	for width, want := range map[int]string{1: "", 2: "…", 3: "模…", 4: "模…", 5: "模型…", 6: "模型🎉", 9: "模型🎉"} {
		if got := Clip("模型🎉", width); got != want {
			t.Errorf("clipped to %d: %q, want %q", width, got, want)
		}
	}
	if got := Visible("safe\u202egnp.exe"); got != "safe\uFFFDgnp.exe" {
		t.Errorf("%q turns the direction of text", got)
	}
}

// Steps are taken in their order, and no further than needed.
func TestSteps(t *testing.T) {
	g := New("NAME", "N", "WHERE").Right(1).Shorten(2).Cut(0, 6).Drop(2)
	g.Add(T("a-long-name"), T("12345"), Cell{Text: "here, there", Short: "2 places"})
	for width, want := range map[int]string{
		0: "a-long-name  12345  here, there", 31: "a-long-name  12345  here, there", 30: "a-long-name  12345  2 places",
		27: "a-long-na…  12345  2 places", 23: "a-lon…  12345  2 places", 22: "a-lon…  12345", 13: "a-lon…  12345", 12: "a-lon…", 3: "a-…", 1: "a",
	} {
		if got := g.Lines(width, false)[1]; got != want {
			t.Errorf("width %d is %q, want %q", width, got, want)
		}
	}
}

func TestTexts(t *testing.T) {
	if got := Bar(150, 4) + Bar(-5, 4) + Bar(50, 4); got != "[####][----][##--]" {
		t.Errorf("bars %s", got)
	}
	if got := Clip("a\x1b[31mb", 3); got != "a\uFFFD…" {
		t.Errorf("clipped %q", got)
	}
	if got := Paint("x", Bad, true) + Paint("x", Bad, false) + Paint("", Bad, true); got != "\x1b[31mx\x1b[0mx" {
		t.Errorf("painted %q", got)
	}
	for _, tt := range []struct {
		text          string
		width, indent int
		want          string
	}{
		{"one two three", 0, 2, "one two three"}, {"one two three", 13, 2, "one two three"}, {"one two three", 8, 2, "one two\n  three"},
		{"  one two three", 9, 2, "  one two\n    three"}, {"one incomprehensible word", 8, 0, "one\nincomprehensible\nword"},
		{"a \x1b[1mbold\x1b[0m b", 8, 0, "a \x1b[1mbold\x1b[0m b"}, {"", 8, 0, ""},
	} {
		if got := strings.Join(Wrap(tt.text, tt.width, tt.indent), "\n"); got != tt.want {
			t.Errorf("%q in %d is %q, want %q", tt.text, tt.width, got, tt.want)
		}
	}
	if err := Print(closed{}, "x"); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%v", err)
	}
}

type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// Lines stand where those before stood; more than there is room for are counted.
func TestLive(t *testing.T) {
	var out strings.Builder
	l := NewLive(&out)
	for _, lines := range [][]string{{"one", "two"}, Keep([]string{"a", "b", "c", "d"}, 3), Keep([]string{"end"}, 0)} {
		if err := l.Draw(lines); err != nil {
			t.Fatal(err)
		}
	}
	if want := "one\ntwo\n" + "\x1b[2A\x1b[Ja\nb\n… and 2 more\n" + "\x1b[3A\x1b[Jend\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	if err := NewLive(closed{}).Draw([]string{"x"}); err == nil {
		t.Error("a terminal that is gone is no error")
	}
}
