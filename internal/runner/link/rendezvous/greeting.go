package rendezvous

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/runner/link/frame"
)

// Both sides begin with a preamble: six letters and the version (uint16,
// little endian). It never changes, so that any two versions can say why they
// do not go together. A hello frame follows, and its answer.
const (
	magic        = "SKLINK"
	preambleSize = len(magic) + 2
	// A greeting is small, and comes from a stranger.
	maxGreeting = 4 << 10
)

// hello is what the caller says of itself; JSON.
type hello struct {
	Group  string `json:"group"`
	Epoch  uint64 `json:"epoch"`
	From   int    `json:"from"`
	To     int    `json:"to"`
	Shards int    `json:"shards"`
	Bulk   bool   `json:"bulk"`
	Half   bool   `json:"half"`
}

// refusal is the answer to a stranger; JSON.
type refusal struct {
	Cause string `json:"cause"`
	// Early: the one who refuses is not yet where the caller is.
	Early bool `json:"early"`
}

func (r refusal) Error() string { return r.Cause }

func appendGreeting(b []byte, kind frame.Kind, body []byte) []byte {
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint16(b, frame.Version)
	at := len(b)
	b = append(b, make([]byte, frame.HeaderSize)...)
	b = append(b, body...)
	var count uint32
	frame.Seal(b[at:], frame.Header{Kind: kind}, &count, true)
	return b
}

// readGreeting reads a preamble and a frame.
func readGreeting(r io.Reader) (frame.Frame, error) {
	var b [preambleSize]byte
	n, err := io.ReadFull(r, b[:])
	// A TLS handshake, or a short alert against what this side has said.
	if n >= 2 && (b[0] == 0x15 || b[0] == 0x16) && b[1] == 3 {
		return frame.Frame{}, errors.New("the other side speaks TLS, this one has no certificate; give all shards of a group theirs")
	}
	if err != nil {
		return frame.Frame{}, fmt.Errorf("no greeting: %w", err)
	}
	switch version := binary.LittleEndian.Uint16(b[len(magic):]); {
	case string(b[:len(magic)]) != magic:
		return frame.Frame{}, fmt.Errorf("the other side is no shard: it began with %q", b)
	case version != frame.Version:
		return frame.Frame{}, fmt.Errorf("the other side speaks version %d of the link protocol, this one %d; use one release of skein on all machines", version, frame.Version)
	}
	f, err := frame.Read(r, maxGreeting, 0, true)
	if err != nil {
		return frame.Frame{}, fmt.Errorf("greeting: %w", err)
	}
	return f, nil
}

// bounded ends a connection's reads and writes with ctx, and gives a function
// that lifts the bound.
func bounded(ctx context.Context, c net.Conn) (lift func() error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	return func() error {
		if !stop() {
			return context.Cause(ctx)
		}
		return c.SetDeadline(time.Time{})
	}
}

// secure adds TLS.
func secure(ctx context.Context, c net.Conn, config *tls.Config, client bool) (net.Conn, error) {
	if config == nil {
		return c, nil
	}
	t := tls.Server(c, config)
	if client {
		t = tls.Client(c, config)
	}
	if err := t.HandshakeContext(ctx); err != nil {
		var record tls.RecordHeaderError
		if errors.As(err, &record) {
			if record.Conn != nil { // a caller without TLS can be told; the cause is reported here either way
				_, _ = c.Write(appendGreeting(nil, frame.Refusal, marshal(refusal{Cause: "it speaks TLS only, the caller has no certificate; give all shards of a group theirs"})))
			}
			return nil, fmt.Errorf("TLS: the other side speaks none; give all shards of a group certificates: %w", err)
		}
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return t, nil
}

// greet is the caller's side of the handshake.
func greet(ctx context.Context, c net.Conn, o Party, to int, bulk bool) (net.Conn, error) {
	c, err := secure(ctx, c, o.TLS, true)
	if err != nil {
		return nil, err
	}
	body := marshal(hello{Group: o.Group, Epoch: o.Epoch, From: o.Self, To: to, Shards: len(o.Addresses), Bulk: bulk, Half: o.HalfPrecision})
	if _, err := c.Write(appendGreeting(nil, frame.Hello, body)); err != nil {
		return nil, fmt.Errorf("greet: %w", err)
	}
	f, err := readGreeting(c)
	if err != nil {
		return nil, err
	}
	switch f.Kind {
	case frame.Welcome:
		return c, nil
	case frame.Refusal:
		var r refusal
		if err := json.Unmarshal(f.Payload, &r); err != nil {
			return nil, fmt.Errorf("%w: refusal that can't be read", frame.ErrDamaged)
		}
		r.Cause = "it refuses: " + strings.ToValidUTF8(r.Cause, "?")
		return nil, r
	}
	return nil, fmt.Errorf("%w: %v instead of a welcome", frame.ErrDamaged, f.Kind)
}

// judge says why a caller is not welcome; nil: it is.
func (h hello) judge(o Party) error {
	switch {
	case h.Group != o.Group:
		return refusal{Cause: fmt.Sprintf("this is a shard of group %q, not of %q", o.Group, clip(h.Group))}
	case h.Epoch < o.Epoch:
		return refusal{Cause: fmt.Sprintf("epoch %d of the group is over, this is %d", h.Epoch, o.Epoch)}
	case h.Epoch > o.Epoch:
		return refusal{Cause: fmt.Sprintf("this shard is still in epoch %d, not in %d", o.Epoch, h.Epoch), Early: true}
	case h.To != o.Self:
		return refusal{Cause: fmt.Sprintf("this is shard %d, not %d; addresses are mixed up", o.Self, h.To)}
	case h.Shards != len(o.Addresses):
		return refusal{Cause: fmt.Sprintf("this group has %d shards, not %d", len(o.Addresses), h.Shards)}
	case h.From < 0 || h.From >= o.Self:
		return refusal{Cause: fmt.Sprintf("shard %d does not call shard %d", h.From, o.Self)}
	case h.Half != o.HalfPrecision:
		return refusal{Cause: "one side sends f16, the other f32; give all shards the same precision"}
	}
	return nil
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

// answer is the called side's part: it gives the connection and who calls.
func answer(ctx context.Context, c net.Conn, o Party) (net.Conn, hello, error) {
	c, err := secure(ctx, c, o.TLS, false)
	if err != nil {
		return nil, hello{}, err
	}
	var h hello
	f, err := readGreeting(c)
	switch {
	case err != nil:
	case f.Kind != frame.Hello:
		err = fmt.Errorf("%w: %v instead of a hello", frame.ErrDamaged, f.Kind)
	default:
		if err = json.Unmarshal(f.Payload, &h); err == nil {
			err = h.judge(o)
		}
	}
	if err != nil {
		r := refusal{Cause: err.Error()}
		_ = errors.As(err, &r)
		// Who is refused may be gone; the cause is reported here either way.
		_, _ = c.Write(appendGreeting(nil, frame.Refusal, marshal(r)))
		return nil, h, err
	}
	if _, err := c.Write(appendGreeting(nil, frame.Welcome, nil)); err != nil {
		return nil, h, fmt.Errorf("welcome: %w", err)
	}
	return c, h, nil
}

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of plain structs
	}
	return b
}
