// Package httpapi is the node's public HTTP server without any API in it: the
// listener, the middleware every API shares (request ids, panic recovery,
// access log, Host and Origin checks, API keys, body limit), the probes
// /healthz and /readyz, graceful stop, the error shape and the event stream.
//
// The APIs themselves are dialects in sub-packages; each registers its routes
// through Mount and knows nothing of the others. The package must not import
// them, nor any adapter: what it needs from the node comes in through Options.
//
// A Server is made, mounted, started and stopped by one goroutine (the node's);
// Ready, NotReady, Addr and Handler may be used from any.
package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skein-run/skein/internal/httpapi/access"
)

// DefaultMaxBody is the largest request body that is read, in bytes.
const DefaultMaxBody = 16 << 20

// Time limits of a connection. There is none for a response: an answer may
// take minutes, and a stream guards its own writes.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	cutTimeout    = 2 * time.Second // for handlers to end after they were cut
	maxHeader     = 64 << 10
)

// ErrStopping is the cause of a request's cancelled context when the server
// stopped before the request was done.
var ErrStopping = errors.New("the node is stopping")

// Dialect is one API: it registers its routes on a mux.
type Dialect interface {
	Register(mux Mux)
}

// Options configure a Server.
type Options struct {
	// Address is host:port to listen on; port 0 picks a free one. Not used when
	// Listener is set.
	Address string
	// Listener is an open listener to serve on; the server closes it.
	Listener net.Listener

	// Access is who may do what. Without any key this machine may do all.
	Access access.Options
	// AllowedOrigins are web origins (scheme://host[:port], or * for all) whose
	// pages may call the API. The server's own origin always may.
	AllowedOrigins []string
	// AllowedHosts are more names that the Host header may carry on loopback
	// connections, for a reverse proxy on this machine.
	AllowedHosts []string
	// MaxBody in bytes; 0: DefaultMaxBody.
	MaxBody int64

	// Refused is told of commands that were refused; nil: nobody is.
	Refused Refused

	Log *slog.Logger
}

func (o *Options) validate() error {
	if o.Log == nil {
		return errors.New("httpapi: options: no logger")
	}
	if o.Listener == nil {
		if _, _, err := net.SplitHostPort(o.Address); err != nil {
			return fmt.Errorf("httpapi: address %q is not host:port: %w", o.Address, err)
		}
	}
	if o.MaxBody < 0 {
		return fmt.Errorf("httpapi: body limit %d is negative", o.MaxBody)
	}
	for _, origin := range o.AllowedOrigins {
		if origin == "*" {
			continue
		}
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" || u.Host == "" || (u.Path != "" && u.Path != "/") {
			return fmt.Errorf("allowed origin %q is not an origin: give scheme://host[:port], such as http://localhost:3000", origin)
		}
	}
	return nil
}

// Server is the public HTTP server of a node.
type Server struct {
	options Options
	guard   *guard
	routes  *routes
	handler http.Handler
	http    *http.Server

	cut      context.CancelCauseFunc // ends the context of every request
	notReady atomic.Pointer[string]  // why requests are not accepted; nil when they are
	running  atomic.Int64            // requests in flight
	listener net.Listener            // set by Start, then read only
	served   chan struct{}           // closed when Serve has returned
	serveErr error                   // set before served is closed

	mu    sync.Mutex
	fresh map[net.Conn]struct{} // guarded by mu: connections that have sent nothing yet
}

// New makes a server that is not listening yet and not ready.
func New(o Options) (*Server, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.MaxBody == 0 {
		o.MaxBody = DefaultMaxBody
	}
	door, err := access.New(o.Access)
	if err != nil {
		return nil, err
	}
	s := &Server{
		options: o,
		guard:   newGuard(door, o.AllowedOrigins, o.AllowedHosts, o.Log),
		routes:  newRoutes(o.Refused),
		served:  make(chan struct{}),
		fresh:   map[net.Conn]struct{}{},
	}
	s.NotReady("starting")
	s.routes.HandleFunc("GET /healthz", s.healthz)
	s.routes.HandleFunc("GET /readyz", s.readyz)
	s.handler = s.middleware(s.routes)

	base, cut := context.WithCancelCause(context.Background())
	s.cut = cut
	s.http = &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnState:         s.track,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Patterns lists the routes, as they were registered.
func (s *Server) Patterns() []string { return slices.Clone(s.routes.patterns) }

// Mount registers a dialect. All mounting is done before Start.
func (s *Server) Mount(d Dialect) { d.Register(s.routes) }

// Handler is the whole server as a handler, middleware included.
func (s *Server) Handler() http.Handler { return s.handler }

// Start listens and serves until Stop. It returns once connections are taken.
func (s *Server) Start(ctx context.Context) error {
	listener := s.options.Listener
	if listener == nil {
		var config net.ListenConfig
		l, err := config.Listen(ctx, "tcp", s.options.Address)
		if err != nil {
			return listenError(ctx, s.options.Address, err)
		}
		listener = l
	}
	s.listener = listener
	go func() {
		defer close(s.served)
		if err := s.http.Serve(tokenListener{listener}); !errors.Is(err, http.ErrServerClosed) {
			s.serveErr = fmt.Errorf("serve the API on %s: %w", listener.Addr(), err)
		}
	}()
	return nil
}

// Addr is the address that the server listens on; nil before Start.
func (s *Server) Addr() net.Addr {
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// Done is closed when the server does not serve any more; Err then says why.
func (s *Server) Done() <-chan struct{} { return s.served }

// Err is what ended the server, nil after a Stop. Valid once Done is closed.
func (s *Server) Err() error { return s.serveErr }

// Ready makes /readyz answer 200.
func (s *Server) Ready() { s.notReady.Store(nil) }

// NotReady makes /readyz answer 503 with the reason.
func (s *Server) NotReady(reason string) { s.notReady.Store(&reason) }

// Stop takes no more connections and waits for the running requests. When ctx
// ends first, it cancels their contexts with ErrStopping, gives the handlers a
// moment to say so to their clients, and closes what is left. It returns when
// nothing of the server runs any more; err is nil also when requests were cut.
func (s *Server) Stop(ctx context.Context) error {
	s.NotReady("stopping")
	defer s.cut(ErrStopping)
	if s.listener == nil {
		return nil
	}
	s.closeFresh()
	err := s.http.Shutdown(ctx)
	if err != nil && ctx.Err() != nil {
		s.options.Log.Warn("cutting requests that did not end in time", "requests", s.running.Load())
		s.cut(ErrStopping)
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), cutTimeout)
		defer cancel()
		if err = s.http.Shutdown(last); err != nil {
			err = s.http.Close()
		}
	}
	<-s.served
	if err != nil {
		return fmt.Errorf("stop the API server: %w", err)
	}
	return nil
}

// track remembers connections that have not sent a request: Shutdown would
// wait seconds for them, though nobody is waiting for an answer on them.
func (s *Server) track(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state == http.StateNew {
		s.fresh[c] = struct{}{}
	} else {
		delete(s.fresh, c)
	}
}

func (s *Server) closeFresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.fresh {
		// The peer sees the connection end, as it would a moment later.
		_ = c.Close()
	}
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	writeProbe(w, http.StatusOK, `{"status":"alive"}`)
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	if reason := s.notReady.Load(); reason != nil {
		w.Header().Set("Retry-After", "1")
		writeProbe(w, http.StatusServiceUnavailable, string(appendJSON(nil, map[string]string{
			"status": "not ready", "reason": *reason,
		})))
		return
	}
	writeProbe(w, http.StatusOK, `{"status":"ready"}`)
}

func writeProbe(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// A probe that hung up needs no answer.
	_, _ = w.Write([]byte(body + "\n"))
}
