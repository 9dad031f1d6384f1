package shards

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/bench/shards"
	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/runner/link"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/slicestore"
	"github.com/skein-run/skein/internal/slicestore/piece"
	"github.com/skein-run/skein/internal/supervise/child/remote"
)

// identity is this machine's part of a mutual TLS.
type identity struct {
	pem    wire.LinkTLS
	config *tls.Config
}

// readIdentity reads PEM files; nil without.
func readIdentity(certificate, key, ca string) (*identity, error) {
	if certificate == "" && key == "" && ca == "" {
		return nil, nil
	}
	var texts [3]string
	for i, name := range []string{certificate, key, ca} {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read the TLS identity: %w; give --tls-cert, --tls-key and --tls-ca", err)
		}
		texts[i] = string(b)
	}
	config, err := link.NewTLS(texts[0], texts[1], texts[2])
	if err != nil {
		return nil, err
	}
	return &identity{pem: wire.LinkTLS{Certificate: texts[0], Key: texts[1], CA: texts[2]}, config: config}, nil
}

// dial connects to another machine, with the identity if there is one.
func (id *identity) dial(ctx context.Context, address string) (net.Conn, error) {
	d := &net.Dialer{KeepAlive: 5 * time.Second}
	if id == nil {
		return d.DialContext(ctx, "tcp", address)
	}
	return (&tls.Dialer{NetDialer: d, Config: id.config}).DialContext(ctx, "tcp", address)
}

// listen opens a listener, with the identity if there is one.
func (id *identity) listen(ctx context.Context, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil || id == nil {
		return l, err
	}
	return tls.NewListener(l, id.config), nil
}

// machines are those of a layout's On, and what they fetch the model from.
type machines struct {
	host  *Host
	id    *identity
	model slicestore.ID
	name  json.RawMessage // of the model
	files []*os.File
	serve *slicestore.Source
	token string

	mu      sync.Mutex // guards sources
	sources map[string]*source
}

// source is an HTTP server on one address of this machine.
type source struct {
	server *http.Server
	port   int
	done   chan struct{}
}

func (h *Host) newMachines(paths []string, l shards.Layout) (_ *machines, err error) {
	m := &machines{host: h, token: rand.Text(), sources: map[string]*source{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	if m.id, err = readIdentity(l.Certificate, l.Key, l.CA); err != nil {
		return m, err
	}
	var parts []*gguf.File
	var readers []io.ReaderAt
	if m.files, parts, readers, err = openFiles(paths); err != nil {
		return m, err
	}
	if m.model, err = piece.Identify(parts, readers); err != nil {
		return m, err
	}
	if m.name, err = json.Marshal(m.model); err != nil {
		return m, err
	}
	m.serve = slicestore.NewSource(m.model, readers, m.token)
	return m, nil
}

// launcher starts runners at address.
func (m *machines) launcher(address string) *remote.Launcher {
	return &remote.Launcher{Address: address, Build: m.host.Version, Dial: m.id.dial, Source: m.source}
}

// source serves the model on the address by which a machine was reached: where
// this machine's connection came from, its own can go.
func (m *machines) source(local net.Addr) (remote.Source, error) {
	host, _, err := net.SplitHostPort(local.String())
	if err != nil {
		return remote.Source{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sources[host]
	if s == nil {
		l, err := m.id.listen(context.Background(), net.JoinHostPort(host, "0"))
		if err != nil {
			return remote.Source{}, fmt.Errorf("serve the model to other machines: %w", err)
		}
		s = &source{
			server: &http.Server{Handler: m.serve, ReadHeaderTimeout: 10 * time.Second},
			port:   l.Addr().(*net.TCPAddr).Port, done: make(chan struct{}),
		}
		m.sources[host] = s
		go func() {
			defer close(s.done)
			if err := s.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				m.host.Logger.Error("the model is not served to other machines any more", "error", err)
			}
		}()
	}
	return remote.Source{Model: m.name, Port: s.port, Token: m.token, TLS: m.id != nil}, nil
}

// near gives the address of this machine that another one can reach.
func (m *machines) near(ctx context.Context, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := m.id.dial(ctx, address)
	if err != nil {
		return "", fmt.Errorf("connect to %s: %w; is `skein shard serve` running there?", address, err)
	}
	host, _, err := net.SplitHostPort(c.LocalAddr().String())
	return host, errors.Join(err, c.Close())
}

// close stops serving and joins what serves.
func (m *machines) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, s := range m.sources {
		errs = append(errs, s.server.Close())
		<-s.done
	}
	for _, f := range m.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// openFiles opens a model's files and reads their headers. The caller closes
// the files, also after an error.
func openFiles(paths []string) (files []*os.File, parts []*gguf.File, readers []io.ReaderAt, err error) {
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return files, nil, nil, err
		}
		files, readers = append(files, f), append(readers, f)
		info, err := f.Stat()
		if err != nil {
			return files, nil, nil, err
		}
		part, err := gguf.Parse(f, info.Size())
		if err != nil {
			return files, nil, nil, fmt.Errorf("%s: %w", p, err)
		}
		parts = append(parts, part)
	}
	return files, parts, readers, nil
}
