package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shirou/gopsutil/v4/process"

	"github.com/skein-run/skein/internal/bench/load"
)

// SoakOptions say how a node is worn.
type SoakOptions struct {
	Connections int // kept open without a request
	Streams     int // requests at once, and slots of the node
	Requests    int // in sum
	Seed        uint64
	Threads     int // of the node; 0: as it chooses
}

func (o SoakOptions) validate() error {
	if o.Connections < 0 || o.Streams < 1 || o.Requests < 1 || o.Threads < 0 {
		return errors.New("soak: streams and requests must be at least 1, connections at least 0")
	}
	return nil
}

// Holdings is what a process holds of the machine.
type Holdings struct {
	Files   int     `json:"files"` // descriptors; -1 where the system does not tell
	Threads int     `json:"threads"`
	MB      float64 `json:"mb"` // resident
}

// SoakResult is what became of it.
type SoakResult struct {
	Completed int64    `json:"completed"`
	Cancelled int64    `json:"cancelled"`
	Busy      int64    `json:"busy"`   // status 429
	Failed    int64    `json:"failed"` // any other error
	Failure   string   `json:"failure,omitempty"`
	Seconds   float64  `json:"seconds"`
	Open      int      `json:"open"` // idle connections that outlived it
	Before    Holdings `json:"before"`
	After     Holdings `json:"after"`
	// SlotsFree: as many streams as there are slots still run all at once.
	SlotsFree bool `json:"slots_free"`
}

// OK tells that nothing failed and nothing was kept.
func (r *SoakResult) OK() bool {
	return r.Failed == 0 && r.SlotsFree && r.After.Files <= r.Before.Files
}

// soakContext is room for a story and its end.
const soakContext = 512

// Soak starts a node and sends it many requests, of which many are left at
// random moments, beside many idle connections. What the node holds afterwards
// is compared with what it held before.
func Soak(ctx context.Context, h *Host, m Model, o SoakOptions) (*SoakResult, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	s, err := h.StartSkein(ctx, m, true, Sizes{Slots: o.Streams, Context: soakContext, Threads: o.Threads})
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	fresh, err := s.holdings()
	if err != nil {
		return nil, err
	}
	// All that a node makes on first use is made before counting.
	if _, err := s.Client.Decode(ctx, load.Stories(o.Streams, 4*o.Streams, false)); err != nil {
		return nil, fmt.Errorf("warm up: %w", err)
	}
	s.Client.Close()
	res := &SoakResult{}
	if res.Before, err = s.settle(ctx, fresh.Files); err != nil {
		return nil, err
	}
	idle, err := openIdle(ctx, strings.TrimPrefix(s.URL, "http://"), o.Connections)
	defer func() {
		for _, c := range idle {
			c.close()
		}
	}()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	s.wear(ctx, o, res)
	res.Seconds = time.Since(began).Seconds()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for _, c := range idle {
		if c.alive() {
			res.Open++
		}
		c.close()
	}
	idle = nil
	_, err = s.Client.Decode(ctx, load.Stories(o.Streams, 4*o.Streams, false))
	res.SlotsFree = err == nil
	if err != nil {
		res.Failure = err.Error()
	}
	s.Client.Close()
	res.After, err = s.settle(ctx, res.Before.Files)
	return res, err
}

// wear sends the requests, o.Streams at a time.
func (s *Server) wear(ctx context.Context, o SoakOptions, res *SoakResult) {
	var next, completed, cancelled, busy, failed atomic.Int64
	var failure atomic.Pointer[string]
	var wg sync.WaitGroup
	for worker := range o.Streams {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(o.Seed, uint64(worker)))
			for next.Add(1) <= int64(o.Requests) && ctx.Err() == nil {
				left, err := s.oneOf(ctx, r)
				var status *load.StatusError
				switch {
				case left:
					cancelled.Add(1)
				case err == nil:
					completed.Add(1)
				case errors.As(err, &status) && status.Status == http.StatusTooManyRequests:
					busy.Add(1)
				default:
					failed.Add(1)
					text := err.Error()
					failure.CompareAndSwap(nil, &text)
				}
			}
		})
	}
	wg.Wait()
	res.Completed, res.Cancelled, res.Busy, res.Failed = completed.Load(), cancelled.Load(), busy.Load(), failed.Load()
	if text := failure.Load(); text != nil {
		res.Failure = *text
	}
}

// oneOf sends a request of a random kind. left tells that the client went away
// before the end.
func (s *Server) oneOf(ctx context.Context, r *rand.Rand) (left bool, err error) {
	request := load.Stories(1, 1+r.IntN(24), r.IntN(2) == 0)[0]
	request.Prompt, request.Temperature = load.Story(r.IntN(1000)), 1
	if request.Messages != nil {
		request.Prompt = ""
	}
	switch r.IntN(10) {
	case 0:
		return false, s.Client.Call(ctx, "/v1/models", nil, nil)
	case 1, 2: // gone as soon as the request is written
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { cancel() }})
		_, err := s.Client.Stream(ctx, request, nil)
		return errors.Is(err, context.Canceled), err
	case 3, 4, 5: // gone in the middle
		last := 1 + r.IntN(12)
		_, err := s.Client.Stream(ctx, request, func(events int) bool {
			left = events >= last
			return !left
		})
		return left && err == nil, err
	}
	_, err = s.Client.Stream(ctx, request, nil)
	return false, err
}

// idleConn is a connection that has had one answer and waits.
type idleConn struct {
	net.Conn
	r    *bufio.Reader
	once sync.Once
}

func (c *idleConn) close() {
	// Nothing was written that could be lost.
	c.once.Do(func() { _ = c.Conn.Close() })
}

// alive asks again on the same connection.
func (c *idleConn) alive() bool { return c.ask() == nil }

func (c *idleConn) ask() error {
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

func openIdle(ctx context.Context, address string, n int) ([]*idleConn, error) {
	var out []*idleConn
	var d net.Dialer
	for range n {
		c, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return out, fmt.Errorf("open connection %d: %w; the limit of open files may be too low (ulimit -n)", len(out)+1, err)
		}
		conn := &idleConn{Conn: c, r: bufio.NewReader(c)}
		out = append(out, conn)
		if err := conn.ask(); err != nil {
			return out, fmt.Errorf("use connection %d: %w", len(out), err)
		}
	}
	return out, nil
}

// holdings looks at the node's process, without its runner.
func (s *Server) holdings() (Holdings, error) {
	p, err := process.NewProcess(int32(s.cmd.Process.Pid))
	if err != nil {
		return Holdings{}, fmt.Errorf("look at %s: %w", s.Name, err)
	}
	memory, err := p.MemoryInfo()
	if err != nil {
		return Holdings{}, fmt.Errorf("read the memory of %s: %w", s.Name, err)
	}
	threads, err := p.NumThreads()
	if err != nil {
		return Holdings{}, fmt.Errorf("count the threads of %s: %w", s.Name, err)
	}
	files, err := p.NumFDs()
	if err != nil {
		files = -1 // not every system tells
	}
	return Holdings{Files: int(files), Threads: int(threads), MB: float64(memory.RSS) / 1e6}, nil
}

// settle waits until the node holds no more files than that, at most
// settleTime, and gives what it holds then. A node closes a connection some
// moments after its client did, and nothing outside it hears of that.
func (s *Server) settle(ctx context.Context, files int) (Holdings, error) {
	limit := time.After(settleTime)
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		got, err := s.holdings()
		if err != nil || got.Files <= files {
			return got, err
		}
		select {
		case <-tick.C:
		case <-limit:
			return got, nil
		case <-ctx.Done():
			return got, context.Cause(ctx)
		}
	}
}

const settleTime = 5 * time.Second

// String sums it up in a line.
func (r *SoakResult) String() string {
	files := strconv.Itoa(r.Before.Files) + " -> " + strconv.Itoa(r.After.Files) + " files"
	if r.Before.Files < 0 {
		files = "files: not told by this system"
	}
	slots := "all slots free"
	if !r.SlotsFree {
		slots = "NOT ALL SLOTS FREE"
	}
	line := fmt.Sprintf("%d done, %d left, %d busy, %d failed in %.0f s; %d idle connections alive; %s, %d -> %d threads, %.0f -> %.0f MB; %s",
		r.Completed, r.Cancelled, r.Busy, r.Failed, r.Seconds, r.Open, files, r.Before.Threads, r.After.Threads, r.Before.MB, r.After.MB, slots)
	if r.Failure != "" {
		line += "; first failure: " + r.Failure
	}
	return line
}
