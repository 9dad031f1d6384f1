// Package remote runs a runner on another machine as if it were a child here:
// Launcher makes a launch function that connects to a Server and gives the
// program's pipes and its end, and Server starts one child for each connection
// and kills it when the connection ends.
//
// One connection carries everything of one program: its frames both ways, its
// stderr, and how it ended. The Server passes the frames on as they are, but for
// those about the machine itself: it names its own engine, brings the model's
// bytes, and says where the shard can be reached. It knows the runner's words
// (runner/wire) and package child; who may connect, which engine it is and how
// bytes come are given to it.
//
// Both sides may be used from any goroutine. Each connection's goroutines are
// joined before the launched Child's Wait returns, or Serve.
package remote

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// version of the protocol between Launcher and Server.
const version = 1

// Source is where a Server finds a model's bytes if it lacks the files.
type Source struct {
	Model json.RawMessage `json:"model"` // what names it; for the two ends to agree on
	Port  int             `json:"port"`  // on the host that the connection comes from
	Token string          `json:"token"`
	TLS   bool            `json:"tls"`
}

// opening is the first message of a connection.
type opening struct {
	Version int    `json:"version"`
	Build   string `json:"build"`
	Source  Source `json:"source"`
}

// kind of a chunk.
type kind uint8

const (
	kindOpen   kind = 1 // launcher: opening
	kindData   kind = 2 // both: the program's stdin and stdout
	kindStderr kind = 3 // server
	kindExit   kind = 4 // server: the exit status in words; the last one
)

// maxChunk bounds one chunk's body.
const maxChunk = 1 << 20

// stream cuts what goes over a connection into chunks. Reads come from one
// goroutine, writes from any.
type stream struct {
	r *bufio.Reader

	mu sync.Mutex // guards w
	w  io.Writer
}

func newStream(c io.ReadWriter) *stream {
	return &stream{r: bufio.NewReaderSize(c, 64<<10), w: c}
}

var errChunk = errors.New("not the protocol of skein shard serve")

func (s *stream) read() (kind, []byte, error) {
	var h [5]byte
	if _, err := io.ReadFull(s.r, h[:]); err != nil {
		return 0, nil, err
	}
	n := binary.LittleEndian.Uint32(h[1:])
	if k := kind(h[0]); k < kindOpen || k > kindExit || n > maxChunk {
		return 0, nil, fmt.Errorf("%w: chunk of kind %d with %d bytes", errChunk, h[0], n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(s.r, body); err != nil {
		return 0, nil, fmt.Errorf("read chunk: %w", err)
	}
	return kind(h[0]), body, nil
}

func (s *stream) write(k kind, body []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		part := body[:min(len(body), maxChunk)]
		b := make([]byte, 0, 5+len(part))
		b = append(b, byte(k))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(part)))
		if _, err := s.w.Write(append(b, part...)); err != nil {
			return err
		}
		if body = body[len(part):]; len(body) == 0 {
			return nil
		}
	}
}

// writer makes writes chunks of one kind.
type writer struct {
	s *stream
	k kind
}

func (w writer) Write(p []byte) (int, error) {
	if err := w.s.write(w.k, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (s *stream) open(o opening) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return s.write(kindOpen, b)
}
