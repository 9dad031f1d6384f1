package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestFramesRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var stream bytes.Buffer
		c := NewConn(&stream, &stream)
		type sent struct {
			Type Type
			Ref  uint64
			Body []byte
		}
		var want []sent
		for range rapid.IntRange(1, 5).Draw(rt, "frames") {
			s := sent{Type(rapid.IntRange(1, int(lastType)).Draw(rt, "type")), rapid.Uint64().Draw(rt, "ref"), rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(rt, "body")}
			if err := c.Send(s.Type, s.Ref, s.Body); err != nil {
				rt.Fatal(err)
			}
			want = append(want, s)
		}
		for _, w := range want {
			f, err := c.Read()
			if err != nil {
				rt.Fatal(err)
			}
			if f.Type != w.Type || f.Ref != w.Ref || !bytes.Equal(f.Body, w.Body) {
				rt.Fatalf("got %+v, want %+v", f, w)
			}
		}
		if _, err := c.Read(); !errors.Is(err, io.EOF) {
			rt.Fatalf("at the end: %v, want io.EOF", err)
		}
	})
}

func TestLargeFrame(t *testing.T) {
	var stream bytes.Buffer
	c := NewConn(&stream, &stream)
	body := bytes.Repeat([]byte("skein"), 1<<20)
	if err := c.Send(TypeResult, 1, body); err != nil {
		t.Fatal(err)
	}
	f, err := c.Read()
	if err != nil || !bytes.Equal(f.Body, body) {
		t.Fatalf("%d bytes back, %v", len(f.Body), err)
	}
	if err := c.Send(TypeResult, 1, make([]byte, MaxFrame+1)); err == nil {
		t.Error("a frame over the limit was sent")
	}
}

func TestTokensRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		piece := rapid.SliceOfN(rapid.Byte(), 1, 8)
		var want []Token
		var body []byte
		for range rapid.IntRange(0, 4).Draw(rt, "tokens") {
			tok := Token{ID: rapid.Uint64().Draw(rt, "id"), Token: rapid.Int32().Draw(rt, "token"), Piece: piece.Draw(rt, "piece")}
			if rapid.Bool().Draw(rt, "logprob") {
				tok.HasLogprob, tok.Logprob = true, rapid.Float32().Draw(rt, "lp")
				for range rapid.IntRange(0, 3).Draw(rt, "top") {
					tok.Top = append(tok.Top, TokenLogprob{rapid.Int32().Draw(rt, "t"), piece.Draw(rt, "p"), rapid.Float32().Draw(rt, "l")})
				}
			}
			want = append(want, tok)
			body = AppendToken(body, &tok)
		}
		var got []Token
		if err := DecodeTokens(body, func(t Token) { got = append(got, t) }); err != nil {
			rt.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			rt.Fatal(d)
		}
	})
}

func TestSmallBodiesRoundTrip(t *testing.T) {
	for _, r := range []TokenizeRequest{{}, {Text: "a\x00b", AddSpecial: true}, {Text: "<|im_start|>", ParseSpecial: true}, {Text: "x", AddSpecial: true, ParseSpecial: true}} {
		got, err := DecodeTokenize(AppendTokenize(nil, r))
		if err != nil || got != r {
			t.Errorf("%+v came back as %+v, %v", r, got, err)
		}
	}
	ids := []int32{0, -1, math.MaxInt32, math.MinInt32}
	got, err := DecodeIDs(AppendIDs(nil, ids))
	if err != nil || cmp.Diff(ids, got) != "" {
		t.Errorf("%v came back as %v, %v", ids, got, err)
	}
	for name, f := range map[string]func() error{
		"ids of 3 bytes":     func() error { _, err := DecodeIDs([]byte{1, 2, 3}); return err },
		"empty tokenize":     func() error { _, err := DecodeTokenize(nil); return err },
		"unknown flags":      func() error { _, err := DecodeTokenize([]byte{4}); return err },
		"unknown token flag": func() error { return DecodeTokens([]byte{1, 1, 0, 2}, func(Token) {}) },
		"too many rivals": func() error {
			b := append([]byte{1, 1, 0, 1}, 0, 0, 0, 0)
			return DecodeTokens(binary.AppendUvarint(b, 1<<60), func(Token) {})
		},
	} {
		if err := f(); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v, want ErrFrame", name, err)
		}
	}
}

func TestBadFrames(t *testing.T) {
	header := func(n uint32, typ, pad byte) []byte {
		b := binary.LittleEndian.AppendUint32(nil, n)
		b = append(b, typ, pad, 0, 0)
		return binary.LittleEndian.AppendUint64(b, 7)
	}
	for name, c := range map[string]struct {
		in   []byte
		want error
	}{
		"too long":    {header(MaxFrame+1, 1, 0), ErrFrame},
		"type 0":      {header(0, 0, 0), ErrFrame},
		"type 200":    {header(0, 200, 0), ErrFrame},
		"padding":     {header(0, 1, 1), ErrFrame},
		"cut header":  {header(0, 1, 0)[:9], io.ErrUnexpectedEOF},
		"cut body":    {append(header(10, 1, 0), 1, 2, 3), io.ErrUnexpectedEOF},
		"cut in 60MB": {append(header(60<<20, 1, 0), 1, 2, 3), io.ErrUnexpectedEOF},
	} {
		_, err := NewConn(bytes.NewReader(c.in), io.Discard).Read()
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestHandshake(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	got := make(chan Hello, 1)
	go func() {
		h, err := NewConn(b, b).Handshake("child")
		if err != nil {
			t.Error(err)
		}
		got <- h
	}()
	h, err := NewConn(a, a).Handshake("node")
	if err != nil || h.Build != "child" || (<-got).Build != "node" {
		t.Fatalf("%+v, %v", h, err)
	}
	var other bytes.Buffer
	if err := NewConn(nil, &other).SendJSON(TypeHello, 0, Hello{Version: Version + 1, Build: "x"}); err != nil {
		t.Fatal(err)
	}
	if _, err := NewConn(&other, io.Discard).Handshake("node"); err == nil || !strings.Contains(err.Error(), "build x") {
		t.Errorf("another version: %v", err)
	}
	other.Reset()
	if err := NewConn(nil, &other).Send(TypeBeat, 0, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := NewConn(&other, io.Discard).Handshake("node"); !errors.Is(err, ErrFrame) {
		t.Errorf("no hello first: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	var ok bytes.Buffer
	c := NewConn(&ok, &ok)
	if err := errors.Join(c.SendJSON(TypeHello, 0, Hello{Version: 1}), c.Send(TypeStep, 3, []byte{1, 2, 3})); err != nil {
		f.Fatal(err)
	}
	f.Add(ok.Bytes())
	f.Add([]byte{255, 255, 255, 255, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		c := NewConn(bytes.NewReader(data), io.Discard)
		read := 0
		for {
			fr, err := c.Read()
			if err != nil {
				break
			}
			read += headerSize + len(fr.Body)
		}
		if read > len(data) {
			t.Fatalf("%d bytes of frames out of %d", read, len(data))
		}
	})
}

func FuzzDecodeTokens(f *testing.F) {
	f.Add(AppendToken(nil, &Token{ID: 1, Token: 5, Piece: []byte("a"), HasLogprob: true, Top: []TokenLogprob{{1, []byte("b"), -1}}}))
	f.Add([]byte{1, 1, 0, 1, 0, 0, 0, 0, 255, 255, 255})
	f.Fuzz(func(t *testing.T, data []byte) {
		var again []byte
		if err := DecodeTokens(data, func(tok Token) { again = AppendToken(again, &tok) }); err != nil {
			return
		}
		// Varints may be written longer than needed, so compare by meaning.
		var a, b []Token
		if err := errors.Join(
			DecodeTokens(data, func(t Token) { a = append(a, t) }),
			DecodeTokens(again, func(t Token) { b = append(b, t) }),
		); err != nil {
			t.Fatal(err)
		}
		if len(a) != len(b) {
			t.Fatalf("%d tokens came back as %d", len(a), len(b))
		}
	})
}

// TestLogits: a row arrives as it was sent, to the bit; half a value is refused.
func TestLogits(t *testing.T) {
	row := []float32{0, -1.5, float32(math.Inf(-1)), math.MaxFloat32}
	b := AppendLogits(nil, 7, row)
	token, got, err := DecodeLogits(b)
	if err != nil || token != 7 || !slices.Equal(got, row) {
		t.Errorf("%d, %v, %v arrived of 7, %v", token, got, err, row)
	}
	for _, cut := range []int{0, 3, len(b) - 1} {
		if _, _, err := DecodeLogits(b[:cut]); !errors.Is(err, ErrFrame) {
			t.Errorf("%d bytes: %v", cut, err)
		}
	}
}
