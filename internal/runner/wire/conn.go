package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Type is the kind of a frame.
type Type uint8

// Frame types. Numbers are never reused.
const (
	TypeHello    Type = 1  // both: Hello, first frame
	TypeEngine   Type = 2  // node -> runner: EngineSpec; answered by EngineInfo or Failure
	TypeLoad     Type = 3  // node -> runner: LoadRequest; answered by Progress*, then ModelInfo or Failure
	TypeTokenize Type = 4  // node -> runner: binary, see TokenizeRequest; answered by Tokens or Failure
	TypeGenerate Type = 5  // node -> runner: GenerateRequest; answered by Step frames and Done
	TypeCancel   Type = 6  // node -> runner: ref is the generation's ID; Done follows
	TypeStats    Type = 7  // node -> runner: empty; answered by Stats
	TypeClose    Type = 8  // node -> runner: empty; the runner frees the model and exits
	TypeProgress Type = 9  // runner -> node: Progress
	TypeResult   Type = 10 // runner -> node: JSON answer to the request with this ref
	TypeFailure  Type = 11 // runner -> node: Failure, answer to the request with this ref
	TypeTokens   Type = 12 // runner -> node: binary token ids, answer to Tokenize
	TypeStep     Type = 13 // runner -> node: binary, tokens of one step (see AppendTokens)
	TypeDone     Type = 14 // runner -> node: Done
	TypeBeat     Type = 15 // runner -> node: Beat, sent while there is work, at least every second
	TypeText     Type = 16 // node -> runner: binary token ids; answered by TypeText with their text, or Failure
	TypeConnect  Type = 17 // node -> runner: ConnectRequest; answered by an empty Result or Failure
	TypeBroken   Type = 18 // runner -> node: Broken
	TypeEval     Type = 19 // node -> runner: EvalRequest; answered by Logits frames, then Result, or Failure
	TypeLogits   Type = 20 // runner -> node: one position's logits: token id (int32), then f32s, little endian

	TypeSnapshots Type = 21 // node -> runner: empty; answered by Snapshots or Failure
	TypeStateGet  Type = 22 // node -> runner: StateRequest; answered by State frames, then StateInfo, or by Failure
	TypeStatePut  Type = 23 // node -> runner: StateInfo, then State frames of the same ref; answered by an empty Result or Failure
	TypeState     Type = 24 // both: binary, the next bytes of a snapshot
	TypeAdopt     Type = 25 // node -> runner: AdoptRequest; answered by an empty Result or Failure

	TypePrompt Type = 26 // runner -> node: Prompt, of a generation that asked for its progress

	lastType = TypePrompt
)

// MaxFrame bounds one frame's body in bytes. A prompt of a million tokens
// fits; nothing legitimate is larger.
const MaxFrame = 64 << 20

// headerSize is the length of a frame's header: body length (uint32, little
// endian), type (uint8), three zero bytes, ref (uint64, little endian).
const headerSize = 16

// Frame is one message. Ref joins an answer to its request; for frames about
// a generation it is the generation's ID.
type Frame struct {
	Type Type
	Ref  uint64
	Body []byte
}

// Progress reports a load, Done in [0, 1].
type Progress struct {
	Done float64 `json:"done"`
}

// Beat tells that the runner's control thread lives, and how far its step
// loop is: a Steps that stands still while Busy is a hang.
type Beat struct {
	Steps uint64 `json:"steps"`
	Busy  bool   `json:"busy"`
}

// Conn frames messages over a byte stream. Reads must come from one goroutine;
// sends may come from any.
type Conn struct {
	r *bufio.Reader

	mu  sync.Mutex // guards w and buf
	w   io.Writer
	buf []byte
}

// NewConn frames r and w.
func NewConn(r io.Reader, w io.Writer) *Conn {
	return &Conn{r: bufio.NewReaderSize(r, 64<<10), w: w}
}

// ErrFrame marks bytes that are no frame of this protocol.
var ErrFrame = errors.New("not a frame of the runner protocol")

// Read returns the next frame. Its Body is the caller's to keep. io.EOF means
// that the other side closed between frames.
func (c *Conn) Read() (Frame, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(c.r, h[:1]); err != nil {
		return Frame{}, err // a clean end is io.EOF
	}
	if _, err := io.ReadFull(c.r, h[1:]); err != nil {
		return Frame{}, fmt.Errorf("read frame header: %w", noEOF(err))
	}
	n := binary.LittleEndian.Uint32(h[:4])
	f := Frame{Type: Type(h[4]), Ref: binary.LittleEndian.Uint64(h[8:])}
	if h[5]|h[6]|h[7] != 0 || f.Type == 0 || f.Type > lastType {
		return Frame{}, fmt.Errorf("%w: header % x", ErrFrame, h)
	}
	if n > MaxFrame {
		return Frame{}, fmt.Errorf("%w: frame of %d bytes, at most %d are allowed", ErrFrame, n, MaxFrame)
	}
	body, err := readBody(c.r, int(n))
	if err != nil {
		return Frame{}, fmt.Errorf("read frame of %d bytes: %w", n, noEOF(err))
	}
	f.Body = body
	return f, nil
}

// readBody reads n bytes without trusting n with one large allocation: the
// buffer grows with what has really arrived.
func readBody(r io.Reader, n int) ([]byte, error) {
	const step = 1 << 20
	if n <= step {
		b := make([]byte, n)
		_, err := io.ReadFull(r, b)
		return b, err
	}
	b := make([]byte, 0, step)
	for len(b) < n {
		k := min(n-len(b), max(step, len(b)))
		b = append(b, make([]byte, k)...)
		if _, err := io.ReadFull(r, b[len(b)-k:]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Send writes one frame with one write call.
func (c *Conn) Send(t Type, ref uint64, body []byte) error {
	if len(body) > MaxFrame {
		return fmt.Errorf("send frame: %d bytes, at most %d are allowed", len(body), MaxFrame)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = append(c.buf[:0], 0, 0, 0, 0, byte(t), 0, 0, 0)
	c.buf = binary.LittleEndian.AppendUint64(c.buf, ref)
	c.buf = append(c.buf, body...)
	binary.LittleEndian.PutUint32(c.buf, uint32(len(body)))
	_, err := c.w.Write(c.buf)
	if cap(c.buf) > 1<<20 {
		c.buf = nil // one large prompt must not pin its size for ever
	}
	if err != nil {
		return fmt.Errorf("send frame: %w", err)
	}
	return nil
}

// SendJSON writes v as the body.
func (c *Conn) SendJSON(t Type, ref uint64, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame %d: %w", t, err)
	}
	return c.Send(t, ref, b)
}

// Decode reads a JSON body into v.
func (f Frame) Decode(v any) error {
	if err := json.Unmarshal(f.Body, v); err != nil {
		return fmt.Errorf("%w: body of frame type %d: %v", ErrFrame, f.Type, err)
	}
	return nil
}

// Handshake sends our Hello and checks the peer's. It must come before any
// other call on either side.
func (c *Conn) Handshake(build string) (Hello, error) {
	sent := make(chan error, 1)
	// Both sides speak first: over an unbuffered pipe that only works with
	// the write beside the read.
	go func() { sent <- c.SendJSON(TypeHello, 0, Hello{Version: Version, Build: build}) }()
	f, err := c.Read()
	if err != nil {
		return Hello{}, fmt.Errorf("handshake: %w", err)
	}
	if err := <-sent; err != nil {
		return Hello{}, fmt.Errorf("handshake: %w", err)
	}
	if f.Type != TypeHello {
		return Hello{}, fmt.Errorf("handshake: %w: type %d instead of hello", ErrFrame, f.Type)
	}
	var h Hello
	if err := f.Decode(&h); err != nil {
		return Hello{}, fmt.Errorf("handshake: %w", err)
	}
	if h.Version != Version {
		return h, fmt.Errorf("handshake: the other side speaks runner protocol %d (build %s), this one speaks %d (build %s); use one build of skein for both", h.Version, h.Build, Version, build)
	}
	return h, nil
}
