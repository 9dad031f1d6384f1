package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/skein-run/skein/internal/supervise/child"
)

// Launcher starts programs on one machine.
type Launcher struct {
	Address string // host:port of its Server
	Build   string
	// Dial connects, with or without TLS.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Source tells where the model is served to the machine that local, the
	// near end of a connection to it, belongs to.
	Source func(local net.Addr) (Source, error)
	// Limit is for connecting; 10 s.
	Limit time.Duration
}

// Launch connects and has a program started. Its signature is that of
// supervise.Launch; what to start is the other side's business.
func (l *Launcher) Launch(ctx context.Context, _ child.Command) (*child.Child, error) {
	limit := l.Limit
	if limit == 0 {
		limit = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := l.Dial(ctx, l.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w; is `skein shard serve` running there?", l.Address, err)
	}
	source, err := l.Source(conn.LocalAddr())
	if err == nil {
		err = newStream(conn).open(opening{Version: version, Build: l.Build, Source: source})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ask %s for a runner: %w", l.Address, err), conn.Close())
	}
	return join(conn, l.Address), nil
}

// join makes a connection look like a program.
func join(conn net.Conn, address string) *child.Child {
	s := newStream(conn)
	outR, outW := io.Pipe()
	errR, errW := io.Pipe()
	inR, inW := io.Pipe()
	ended := make(chan string, 1)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		// A broken connection is seen, and told, by the reader below.
		_, err := io.Copy(writer{s, kindData}, inR)
		_ = inR.CloseWithError(err)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite() // the program's stdin ends; it may still have something to say
		}
	}()
	go func() {
		status := fmt.Sprintf("the connection to %s ended", address)
		for first := true; ; first = false {
			k, body, err := s.read()
			if err != nil {
				if _, secured := conn.(*tls.Conn); first && !secured && !errors.Is(err, net.ErrClosed) {
					status += " before it said anything; if 'skein shard serve' runs there with certificates, yours are needed too: --tls-cert, --tls-key and --tls-ca, or --shard-tls-... of 'skein serve'"
				}
				if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
					status += " (" + err.Error() + ")"
				}
				break
			}
			if k == kindExit {
				status = string(body)
				break
			}
			w := outW
			if k == kindStderr {
				w = errW
			}
			// Whoever closed the pipe wants no more of it, but the status still.
			_, _ = w.Write(body)
		}
		_ = conn.Close() // all is read that will be
		_ = inR.Close()
		_ = outW.Close()
		_ = errW.Close()
		<-sent
		ended <- status
	}()
	return &child.Child{
		Stdin: inW, Stdout: outR, Stderr: errR,
		Wait: func() string { return <-ended },
		Kill: func() error {
			// As with a process, its end must not wait for whoever reads it.
			_ = outW.Close()
			_ = errW.Close()
			if err := conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				return err
			}
			return nil
		},
	}
}
