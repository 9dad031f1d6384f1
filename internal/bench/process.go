package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v4/process"

	"github.com/skein-run/skein/internal/bench/load"
)

const (
	startTime = 2 * time.Minute  // for a server to load its model
	stopTime  = 20 * time.Second // for one to end by itself
	askEvery  = 20 * time.Millisecond
)

// Server is a running child that answers OpenAI's API.
type Server struct {
	Name   string // for tables: "skein", "llama-server"
	URL    string
	Client *load.Client
	Start  time.Time // when its process was started

	cmd  *exec.Cmd
	log  string        // file with what it wrote
	end  chan struct{} // closed when it has ended
	err  error         // how; set before end is closed
	gone func()        // cancels the context that holds it
}

// spawn starts a program whose output goes to a file in dir. first is closed
// when the program first writes to stdout, or closes it.
func spawn(ctx context.Context, dir, name, program string, args, env []string) (s *Server, first <-chan struct{}, err error) {
	logFile, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", name, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Dir = env, dir
	cmd.Stderr = logFile
	spoke := &firstWrite{w: logFile, first: make(chan struct{})}
	cmd.Stdout = spoke
	cmd.Cancel = func() error {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			return cmd.Process.Kill() // no signals on this system
		}
		return nil
	}
	cmd.WaitDelay = stopTime
	s = &Server{Name: name, Start: time.Now(), cmd: cmd, log: logFile.Name(), end: make(chan struct{}), gone: cancel}
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, nil, errors.Join(fmt.Errorf("start %s: %w", name, err), logFile.Close())
	}
	go func() {
		err := cmd.Wait()
		s.err = errors.Join(err, logFile.Close())
		close(s.end)
		spoke.done()
	}()
	return s, spoke.first, nil
}

// firstWrite tells of the first write to w. One goroutine writes to it.
type firstWrite struct {
	w     io.Writer
	first chan struct{}
	once  sync.Once
}

func (f *firstWrite) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	f.done()
	return n, err
}

func (f *firstWrite) done() { f.once.Do(func() { close(f.first) }) }

// Stop ends the server and waits for it.
func (s *Server) Stop() {
	if s.Client != nil {
		s.Client.Close()
	}
	s.gone()
	<-s.end // exec kills it after stopTime
}

// warm has a server compute a little, so that what it makes on first use is
// there.
func (s *Server) warm(ctx context.Context) error {
	for _, r := range load.Stories(2, 16, true) {
		if _, err := s.Client.Stream(ctx, r, nil); err != nil {
			return fmt.Errorf("warm up %s: %w", s.Name, err)
		}
	}
	return nil
}

// failed says why the server did not come up, with its last words.
func (s *Server) failed(cause error) error {
	s.Stop()
	words, err := os.ReadFile(s.log)
	if err != nil {
		return errors.Join(cause, err)
	}
	lines := bytes.Split(bytes.TrimSpace(words), []byte("\n"))
	lines = lines[max(0, len(lines)-8):]
	return fmt.Errorf("start %s: %w; its last words:\n%s", s.Name, cause, bytes.Join(lines, []byte("\n")))
}

// Usage of the machine by the server's process and its children.
func (s *Server) tree() ([]*process.Process, error) {
	root, err := process.NewProcess(int32(s.cmd.Process.Pid))
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", s.Name, err)
	}
	out := []*process.Process{root}
	children, err := root.Children()
	if err != nil && !errors.Is(err, process.ErrorNoChildren) {
		return nil, fmt.Errorf("look at the children of %s: %w", s.Name, err)
	}
	return append(out, children...), nil
}

// cpuSeconds is the processor time that the server has used so far.
func (s *Server) cpuSeconds() (float64, error) {
	all, err := s.tree()
	if err != nil {
		return 0, err
	}
	total := 0.0
	for _, p := range all {
		t, err := p.Times()
		if err != nil {
			return 0, fmt.Errorf("read the processor time of %s: %w", s.Name, err)
		}
		total += t.User + t.System
	}
	return total, nil
}

// Host is what starting servers and measuring the bare engine needs from the
// command that calls.
type Host struct {
	Executable string   // the skein program
	Environ    []string // for children; without SKEIN_ variables
	Dir        string   // an empty folder for homes and logs
	// Address gives the base URL of the node that runs for a SKEIN_HOME.
	Address func(home string) (string, error)
	// Engine runs the raw loop in a child.
	Engine func(ctx context.Context, run EngineRun) (EngineResult, error)
	// Say tells a person how far it is.
	Say func(format string, args ...any)
}

// EngineRun is one run of the raw loop.
type EngineRun struct{ Prompt, Decode, Streams, Threads, Repeat int }

// EngineResult is what the raw loop measured.
type EngineResult struct {
	Prefill, Decode float64 // tokens a second
	ChunkTokens     int     // prompt tokens of a step
	LoadSeconds     float64
}

// Model is the model to measure with.
type Model struct {
	Name  string
	Paths []string // absolute; all parts in order
	// Bundled: a node lists it without being told.
	Bundled bool
	Words   load.Words
}

// Sizes are the ways in which both sides of a comparison are started alike.
type Sizes struct {
	Slots   int // streams at once
	Context int // tokens of each slot; 0: the server's default
	Threads int // 0: the server's default
}

// StartSkein starts a node with a new home, and waits until it serves. Without
// loaded it serves and holds no model.
func (h *Host) StartSkein(ctx context.Context, m Model, loaded bool, size Sizes, more ...string) (*Server, error) {
	home, err := os.MkdirTemp(h.Dir, "home-")
	if err != nil {
		return nil, fmt.Errorf("start skein: %w", err)
	}
	env := append(append([]string(nil), h.Environ...), "SKEIN_HOME="+home)
	if !m.Bundled {
		add := exec.CommandContext(ctx, h.Executable, append([]string{"models", "add"}, m.Paths...)...)
		add.Env = env
		if out, err := add.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("list %s for the node: %w: %s", m.Name, err, bytes.TrimSpace(out))
		}
	}
	args := []string{"serve", "--api-host", "127.0.0.1", "--api-port", "0", "--no-discovery", "--peer-host", "127.0.0.1", "--peer-port", "0", "--gossip-port", "0"}
	if loaded {
		args = append(args, "--load", m.Name)
	}
	if size.Slots > 0 {
		args = append(args, "--slots", strconv.Itoa(size.Slots))
	}
	if size.Context > 0 {
		args = append(args, "--context", strconv.Itoa(size.Context))
	}
	if size.Threads > 0 {
		args = append(args, "--threads", strconv.Itoa(size.Threads))
	}
	s, greeted, err := spawn(ctx, home, "skein", h.Executable, append(args, more...), env)
	if err != nil {
		return nil, err
	}
	select {
	case <-greeted: // the node greets when it serves
	case <-ctx.Done():
		return nil, s.failed(context.Cause(ctx))
	case <-time.After(startTime):
		return nil, s.failed(fmt.Errorf("it did not come up within %v", startTime))
	}
	if s.URL, err = h.Address(home); err != nil {
		return nil, s.failed(err)
	}
	if s.Client, err = load.NewClient(s.URL, m.Name, ""); err != nil {
		return nil, s.failed(err)
	}
	return s, nil
}

// LlamaArgs are the arguments that llama-server gets beside host and port.
func LlamaArgs(m Model, size Sizes) []string {
	args := []string{"-m", m.Paths[0], "-np", strconv.Itoa(size.Slots), "-c", strconv.Itoa(size.Slots * size.Context), "--no-webui"}
	if size.Threads > 0 {
		args = append(args, "-t", strconv.Itoa(size.Threads))
	}
	return args
}

// StartLlama starts llama-server and waits until it has loaded the model.
func (h *Host) StartLlama(ctx context.Context, program string, m Model, size Sizes) (*Server, error) {
	// It takes no port 0, so one is chosen that is free now.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("find a free port: %w", err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, fmt.Errorf("find a free port: %w", err)
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("find a free port: %w", err)
	}
	args := append(LlamaArgs(m, size), "--host", "127.0.0.1", "--port", port)
	s, _, err := spawn(ctx, h.Dir, "llama-server", program, args, h.Environ)
	if err != nil {
		return nil, err
	}
	s.URL = "http://" + address
	if s.Client, err = load.NewClient(s.URL, m.Name, ""); err != nil {
		return nil, s.failed(err)
	}
	if err := s.healthy(ctx); err != nil {
		return nil, s.failed(err)
	}
	return s, nil
}

// healthy asks /health until it says yes: the program has no other way to tell
// that it is ready.
func (s *Server) healthy(ctx context.Context) error {
	limit := time.After(startTime)
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		err := s.Client.Call(ctx, "/health", nil, nil)
		if err == nil {
			return nil
		}
		var status *load.StatusError
		if errors.As(err, &status) && status.Status != http.StatusServiceUnavailable {
			return err
		}
		select {
		case <-tick.C:
		case <-s.end:
			return fmt.Errorf("it ended: %w", s.err)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-limit:
			return fmt.Errorf("it was not ready within %v: %s", startTime, strings.TrimSpace(err.Error()))
		}
	}
}
