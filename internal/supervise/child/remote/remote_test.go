package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise/child"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// program is a runner in memory: it echoes what it is told.
type program struct {
	die    chan struct{}
	once   sync.Once
	status string
	stuck  bool // lives on after the end of its stdin
	got    chan wire.Frame
}

func (p *program) exit(status string) {
	p.once.Do(func() { p.status = status; close(p.die) })
}

func (p *program) child() *child.Child {
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	errR, errW := io.Pipe()
	looped, gone := make(chan struct{}), make(chan struct{})
	conn := wire.NewConn(inR, outW)
	go func() {
		defer close(looped)
		for {
			f, err := conn.Read()
			if err != nil {
				break
			}
			if f.Type == wire.TypeClose {
				_, _ = errW.Write([]byte("bye\n"))
				p.exit("exit status 0")
				return
			}
			p.got <- f
			answer := any(struct{}{})
			if f.Type == wire.TypeLoad {
				answer = wire.ModelInfo{Link: "127.0.0.1:4321"}
			}
			if conn.SendJSON(wire.TypeResult, f.Ref, answer) != nil {
				break
			}
		}
		if !p.stuck {
			p.exit("exit status 0")
		}
	}()
	go func() {
		<-p.die
		inR.Close()
		outW.Close()
		errW.Close()
		<-looped
		close(gone)
	}()
	return &child.Child{
		Stdin: inW, Stdout: outR, Stderr: errR, PID: 7,
		Wait: func() string { <-gone; return p.status },
		Kill: func() error { p.exit("signal: killed"); return nil },
	}
}

// machine is a Server with one program for each connection.
type machine struct {
	server   *Server
	address  string
	programs chan *program
	model    func(ctx context.Context) ([]string, error)
}

func serve(t *testing.T, stuck bool) *machine {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{address: l.Addr().String(), programs: make(chan *program, 4)}
	m.server = &Server{
		Build: "test", Engine: wire.EngineSpec{Dir: "/theirs"}, Logger: slog.New(slog.DiscardHandler),
		Start: func() (*child.Child, error) {
			p := &program{die: make(chan struct{}), got: make(chan wire.Frame, 16), stuck: stuck}
			m.programs <- p
			return p.child(), nil
		},
		Model: func(ctx context.Context, coordinator string, s Source, load wire.LoadRequest, progress func(float64)) ([]string, error) {
			progress(1)
			if m.model != nil {
				return m.model(ctx)
			}
			return []string{"/slices/" + coordinator + string(s.Model)}, nil
		},
		Prepare: func(s *wire.ShardSpec, local net.Addr) error {
			s.Listen, s.TLS, s.CPUs = local.String(), nil, nil
			return nil
		},
		Link: func(string) string { return "192.0.2.1:4321" },
	}
	if stuck {
		m.server.Grace = 1 // it is used up in any case
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return m
}

func (m *machine) launcher() *Launcher {
	return &Launcher{
		Address: m.address, Build: "test",
		Dial: func(ctx context.Context, a string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", a)
		},
		Source: func(net.Addr) (Source, error) { return Source{Model: json.RawMessage(`"m"`), Port: 1}, nil },
	}
}

func (m *machine) launch(t *testing.T) (*child.Child, *program) {
	t.Helper()
	kid, err := m.launcher().Launch(t.Context(), child.Command{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		kid.Stdin.Close()
		kid.Stdout.Close()
		kid.Stderr.Close()
	})
	return kid, <-m.programs
}

func load(t *testing.T, c *wire.Conn) {
	t.Helper()
	err := c.SendJSON(wire.TypeLoad, 2, wire.LoadRequest{Paths: []string{"/mine"}, Shard: &wire.ShardSpec{
		Shards: []slice.Spec{{End: 1}}, Listen: "127.0.0.1:0", TLS: &wire.LinkTLS{Key: "secret of the coordinator"}, CPUs: []int{1},
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// Frames pass both ways; those about the machine name the machine's own.
func TestFrames(t *testing.T) {
	m := serve(t, false)
	kid, p := m.launch(t)
	c := wire.NewConn(kid.Stdout, kid.Stdin)
	if err := c.SendJSON(wire.TypeEngine, 1, wire.EngineSpec{Dir: "/mine"}); err != nil {
		t.Fatal(err)
	}
	var engine wire.EngineSpec
	if err := (<-p.got).Decode(&engine); err != nil || engine.Dir != "/theirs" {
		t.Errorf("engine %+v, %v", engine, err)
	}
	if f, err := c.Read(); err != nil || f.Ref != 1 {
		t.Fatalf("%+v, %v", f, err)
	}
	load(t, c)
	var req wire.LoadRequest
	told := <-p.got
	if err := told.Decode(&req); err != nil || len(req.Paths) != 1 || req.Paths[0] != `/slices/127.0.0.1"m"` || req.Shard.Listen != m.address {
		t.Errorf("load %+v, %v", req, err)
	}
	if bytes.Contains(told.Body, []byte("secret")) {
		t.Error("the coordinator's key was used elsewhere")
	}
	if f, err := c.Read(); err != nil || f.Type != wire.TypeProgress {
		t.Fatalf("%+v, %v, want the progress", f, err)
	}
	f, err := c.Read()
	var info wire.ModelInfo
	if err == nil {
		err = f.Decode(&info)
	}
	if err != nil || info.Link != "192.0.2.1:4321" {
		t.Errorf("answer %+v, %v", info, err)
	}
	// A body larger than a chunk comes through in one piece.
	large := bytes.Repeat([]byte("x"), 3*maxChunk)
	if err := c.Send(wire.TypeTokenize, 3, large); err != nil {
		t.Fatal(err)
	}
	if f := <-p.got; !bytes.Equal(f.Body, large) {
		t.Errorf("%d bytes arrived of %d", len(f.Body), len(large))
	}
	if _, err := c.Read(); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(wire.TypeClose, 0, nil); err != nil {
		t.Fatal(err)
	}
	words, err := io.ReadAll(kid.Stderr)
	if err != nil || string(words) != "bye\n" {
		t.Errorf("stderr %q, %v", words, err)
	}
	if status := kid.Wait(); status != "exit status 0" {
		t.Errorf("status %q", status)
	}
}

// A program that dies there is seen here with its status.
func TestProgramDies(t *testing.T) {
	kid, p := serve(t, false).launch(t)
	p.exit("signal: aborted")
	if _, err := io.ReadAll(kid.Stdout); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(kid.Stderr); err != nil {
		t.Error(err)
	}
	if status := kid.Wait(); status != "signal: aborted" {
		t.Errorf("status %q", status)
	}
}

// Without its coordinator no program lives on, however stubborn.
func TestCoordinatorGoes(t *testing.T) {
	for name, stuck := range map[string]bool{"obedient": false, "stubborn": true} {
		t.Run(name, func(t *testing.T) {
			kid, p := serve(t, stuck).launch(t)
			if err := kid.Kill(); err != nil {
				t.Fatal(err)
			}
			<-p.die
			if status := kid.Wait(); !strings.Contains(status, "connection to") {
				t.Errorf("status %q", status)
			}
		})
	}
}

// A fetch ends with the connection that wanted it.
func TestCoordinatorGoesDuringFetch(t *testing.T) {
	m := serve(t, false)
	began, ended := make(chan struct{}), make(chan struct{})
	m.model = func(ctx context.Context) ([]string, error) {
		close(began)
		<-ctx.Done()
		close(ended)
		return nil, context.Cause(ctx)
	}
	kid, p := m.launch(t)
	load(t, wire.NewConn(kid.Stdout, kid.Stdin))
	<-began
	if err := kid.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	<-p.die
	kid.Wait()
}

// What cannot be brought is an answer, and the program lives.
func TestModelFails(t *testing.T) {
	m := serve(t, false)
	m.model = func(context.Context) ([]string, error) { return nil, errors.New("disk full") }
	kid, _ := m.launch(t)
	c := wire.NewConn(kid.Stdout, kid.Stdin)
	load(t, c)
	for {
		f, err := c.Read()
		if err != nil {
			t.Fatal(err)
		}
		if f.Type == wire.TypeProgress {
			continue
		}
		var failure wire.Failure
		if err := f.Decode(&failure); err != nil || f.Type != wire.TypeFailure || !strings.Contains(failure.Message, "disk full") {
			t.Errorf("%+v, %v", failure, err)
		}
		return
	}
}

// Garbage gets no program.
func TestGarbage(t *testing.T) {
	m := serve(t, false)
	for name, hello := range map[string]string{
		"http":          "GET / HTTP/1.1\r\n\r\n",
		"long chunk":    "\x01\xff\xff\xff\xff",
		"other version": "\x01\x0d\x00\x00\x00{\"version\":9}",
		"data first":    "\x02\x01\x00\x00\x00x",
		"nothing":       "",
	} {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", m.address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, hello); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); len(b) > 0 {
			t.Errorf("%s: answered %q, %v", name, b, err)
		}
		c.Close()
	}
	if len(m.programs) > 0 {
		t.Error("a program was started for garbage")
	}
}

func FuzzChunks(f *testing.F) {
	var ok bytes.Buffer
	if err := newStream(&ok).write(kindData, []byte("abc")); err != nil {
		f.Fatal(err)
	}
	f.Add(ok.Bytes())
	f.Add([]byte{2, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, n := newStream(bytes.NewBuffer(b)), 0
		for {
			_, body, err := s.read()
			if err != nil {
				break
			}
			n += 5 + len(body)
		}
		if n > len(b) {
			t.Fatalf("%d bytes of chunks out of %d", n, len(b))
		}
	})
}

// A machine that wants certificates hangs up on who comes without: the status
// says what is likely missing.
func TestHungUpAtOnce(t *testing.T) {
	here, there := net.Pipe()
	kid := join(here, "10.0.0.2:7700")
	_ = there.Close()
	if _, err := io.ReadAll(kid.Stdout); err != nil {
		t.Error(err)
	}
	if status := kid.Wait(); !strings.Contains(status, "the connection to 10.0.0.2:7700 ended before it said anything") || !strings.Contains(status, "--tls-cert") {
		t.Errorf("status %q", status)
	}
}
