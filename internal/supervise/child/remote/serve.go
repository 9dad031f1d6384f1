package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise/child"
)

// Server offers a machine.
type Server struct {
	Build string
	// Start starts a runner.
	Start func() (*child.Child, error)
	// Engine is this machine's.
	Engine wire.EngineSpec
	// Model gives the paths of the files that hold what a shard needs, here. It
	// may take long; progress wants values in [0, 1]. coordinator is the host
	// that the connection comes from.
	Model func(ctx context.Context, coordinator string, s Source, load wire.LoadRequest, progress func(float64)) ([]string, error)
	// Prepare changes a shard's place to this machine's: its Listen and TLS.
	// local is the near end of the connection.
	Prepare func(spec *wire.ShardSpec, local net.Addr) error
	// Link gives the address by which other machines reach a shard's links.
	Link   func(listening string) string
	Logger *slog.Logger
	Grace  time.Duration // for a program whose connection ended; 5 s
}

// Serve takes connections until ctx ends, and returns when every program that
// it started is gone.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() }) // Accept says so
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close() // nothing was said on it
			}
			return nil
		}
		if err != nil {
			cancel()
			return fmt.Errorf("accept connections: %w", err)
		}
		wg.Go(func() {
			from := conn.RemoteAddr().String()
			s.Logger.Info("shard connected", "from", from)
			if err := s.one(ctx, conn); err != nil && ctx.Err() == nil {
				s.Logger.Warn("shard ended", "from", from, "error", err)
			}
		})
	}
}

// one serves a connection to its end.
func (s *Server) one(ctx context.Context, conn net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	unblock := context.AfterFunc(ctx, func() { _ = conn.Close() }) // reads end with it
	defer unblock()
	defer conn.Close() // a second time does nothing
	st := newStream(conn)
	k, body, err := st.read()
	if errors.Is(err, io.EOF) {
		return nil // somebody looked whether this machine is there
	}
	if err != nil {
		return err
	}
	var open opening
	if k != kindOpen || json.Unmarshal(body, &open) != nil || open.Version != version {
		return fmt.Errorf("%w: it speaks version %d, this is %d; use one build of skein on all machines", errChunk, open.Version, version)
	}
	kid, err := s.Start()
	if err != nil {
		return errors.Join(fmt.Errorf("start a runner: %w", err), st.write(kindExit, []byte("the other machine cannot start a runner: "+err.Error())))
	}
	p := &session{server: s, stream: st, conn: conn, kid: kid, source: open.Source, toKid: wire.NewConn(nil, kid.Stdin), toNode: wire.NewConn(nil, writer{st, kindData}), loads: map[uint64]bool{}}
	return p.run(ctx)
}

// session is one program.
type session struct {
	server *Server
	stream *stream
	conn   net.Conn
	kid    *child.Child
	source Source
	toKid  *wire.Conn // writes only
	toNode *wire.Conn // likewise

	over atomic.Bool // the program is reaped: what its pipes say is no fault

	mu    sync.Mutex // guards loads
	loads map[uint64]bool
}

func (p *session) run(ctx context.Context) error {
	wanted, cancel := context.WithCancel(ctx)
	var fromNode, fromKid sync.WaitGroup
	inR, inW := io.Pipe()
	fromNode.Go(func() {
		err := p.receive(inW)
		_ = inW.CloseWithError(err) // nil is an end of the stream
		cancel()                    // a model that is being fetched is of no use any more
	})
	var inErr error
	fromNode.Go(func() {
		inErr = p.forward(wanted, inR)
		_ = inR.CloseWithError(io.ErrClosedPipe)
		_ = p.kid.Stdin.Close() // its end is the program's sign to leave
	})
	fromKid.Go(func() {
		if err := p.back(); err != nil && !p.over.Load() {
			_ = p.conn.Close() // the coordinator takes the program for dead, and so will we
		}
	})
	fromKid.Go(func() { _, _ = io.Copy(writer{p.stream, kindStderr}, p.kid.Stderr) }) // its end is the program's

	gone := make(chan string, 1)
	go func() { gone <- p.kid.Wait() }()
	left := make(chan struct{})
	go func() { fromNode.Wait(); close(left) }()
	var status string
	select {
	case status = <-gone:
	case <-left:
		status = p.end(gone)
	case <-ctx.Done():
		status = p.end(gone)
	}
	p.over.Store(true)
	cancel()
	// The last words; whoever inherited the pipes must not hold us up.
	force := time.AfterFunc(p.grace(), p.closeOutputs)
	fromKid.Wait()
	force.Stop()
	p.closeOutputs()
	_ = p.stream.write(kindExit, []byte(status)) // a broken connection says the same
	_ = p.conn.Close()
	<-left
	return inErr
}

func (p *session) closeOutputs() {
	_ = p.kid.Stdout.Close() // only read from: nothing can be lost
	_ = p.kid.Stderr.Close()
}

func (p *session) grace() time.Duration {
	if p.server.Grace > 0 {
		return p.server.Grace
	}
	return 5 * time.Second
}

// end waits for a program whose stdin has ended, and kills it when that takes
// too long. Without a coordinator there is nobody it could work for.
func (p *session) end(gone <-chan string) string {
	_ = p.kid.Stdin.Close()
	t := time.NewTimer(p.grace())
	defer t.Stop()
	select {
	case status := <-gone:
		return status
	case <-t.C:
	}
	if err := p.kid.Kill(); err != nil {
		p.server.Logger.Error("a runner cannot be killed", "pid", p.kid.PID, "error", err)
	}
	return <-gone
}

// receive takes chunks off the connection; nil: it ended between two.
func (p *session) receive(w io.Writer) error {
	for {
		k, body, err := p.stream.read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if k != kindData {
			return fmt.Errorf("%w: chunk of kind %d", errChunk, k)
		}
		if _, err := w.Write(body); err != nil {
			return err
		}
	}
}

// forward passes frames to the program.
func (p *session) forward(ctx context.Context, r io.Reader) error {
	in := wire.NewConn(r, nil)
	for {
		f, err := in.Read()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		switch f.Type {
		case wire.TypeEngine:
			err = p.toKid.SendJSON(f.Type, f.Ref, p.server.Engine)
		case wire.TypeLoad:
			err = p.load(ctx, f)
		default:
			err = p.toKid.Send(f.Type, f.Ref, f.Body)
		}
		if err != nil {
			return err
		}
	}
}

// load makes a request one of this machine.
func (p *session) load(ctx context.Context, f wire.Frame) error {
	var req wire.LoadRequest
	if err := f.Decode(&req); err != nil {
		return err
	}
	refuse := func(code string, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return p.toNode.SendJSON(wire.TypeFailure, f.Ref, wire.Failure{Code: code, Message: err.Error()})
	}
	if req.Shard == nil {
		return refuse(wire.CodeInvalid, errors.New("this machine is offered for shards; it loads no whole model"))
	}
	if err := p.server.Prepare(req.Shard, p.conn.LocalAddr()); err != nil {
		return refuse(wire.CodeInvalid, err)
	}
	host, _, err := net.SplitHostPort(p.conn.RemoteAddr().String())
	if err != nil {
		return refuse(wire.CodeInternal, err)
	}
	req.Paths, err = p.server.Model(ctx, host, p.source, req, func(done float64) {
		// The rest is loading. A broken connection is noticed elsewhere.
		_ = p.toNode.SendJSON(wire.TypeProgress, f.Ref, wire.Progress{Done: done / 2})
	})
	if err != nil {
		return refuse(wire.CodeInternal, err)
	}
	p.mu.Lock()
	p.loads[f.Ref] = true
	p.mu.Unlock()
	return p.toKid.SendJSON(f.Type, f.Ref, req)
}

// back passes the program's frames to the coordinator.
func (p *session) back() error {
	out := wire.NewConn(p.kid.Stdout, nil)
	for {
		f, err := out.Read()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if f.Type == wire.TypeResult && p.loaded(f.Ref) {
			if f.Body, err = p.reachable(f); err != nil {
				return err
			}
		}
		if err := p.toNode.Send(f.Type, f.Ref, f.Body); err != nil {
			return err
		}
	}
}

func (p *session) loaded(ref uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.loads[ref]
}

// reachable puts the address for others into the answer to a load.
func (p *session) reachable(f wire.Frame) ([]byte, error) {
	var info wire.ModelInfo
	if err := f.Decode(&info); err != nil {
		return nil, err
	}
	if info.Link != "" {
		info.Link = p.server.Link(info.Link)
	}
	return json.Marshal(info)
}
