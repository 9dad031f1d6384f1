package shards

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/skein-run/skein/internal/cli/shardcmd"
	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/library"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/slicestore"
	"github.com/skein-run/skein/internal/slicestore/piece"
	"github.com/skein-run/skein/internal/supervise/child"
	"github.com/skein-run/skein/internal/supervise/child/remote"
)

// Serve offers this machine for shards until ctx ends.
func (h *Host) Serve(ctx context.Context, o shardcmd.ServeOptions) error {
	if err := h.validate(); err != nil {
		return err
	}
	id, err := readIdentity(o.Certificate, o.Key, o.CA)
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return fmt.Errorf("--listen %s: %w; write HOST:PORT", o.Listen, err)
	}
	if id == nil && !o.InsecureNoAuth && !IsLoopback(host) {
		return fmt.Errorf("--listen %s can be reached from other machines, and whoever connects may run models here; give --tls-cert, --tls-key and --tls-ca, stay on 127.0.0.1, or say --insecure-no-auth", o.Listen)
	}
	engine, err := h.engine(o.EngineDir)
	if err != nil {
		return err
	}
	l, err := id.listen(ctx, o.Listen)
	if err != nil {
		return fmt.Errorf("%w; choose another address with --listen", err)
	}
	offer := &offer{host: h, id: id, advertise: o.Advertise, models: o.Model}
	s := &remote.Server{
		Build: h.Version,
		Start: func() (*child.Child, error) {
			return child.Start(child.Command{Path: h.Executable, Args: []string{"runner"}, Env: Environ(), Computes: true})
		},
		Engine: engine, Model: offer.model, Prepare: offer.prepare, Link: offer.link, Logger: h.Logger,
	}
	o.Ready(l.Addr().String())
	return s.Serve(ctx, l)
}

// IsLoopback tells whether only this machine reaches a host.
func IsLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}

// offer is this machine as its shards see it.
type offer struct {
	host      *Host
	id        *identity
	advertise string
	models    func() ([]library.Entry, error)
}

// prepare has a shard listen where the coordinator reached this machine, with
// this machine's identity. A key never travels.
func (f *offer) prepare(spec *wire.ShardSpec, local net.Addr) error {
	host, _, err := net.SplitHostPort(local.String())
	if err != nil {
		return err
	}
	spec.Listen, spec.CPUs, spec.TLS = net.JoinHostPort(host, "0"), nil, nil
	if f.id != nil {
		spec.TLS = &f.id.pem
	}
	return nil
}

// link is the address by which other machines reach a shard.
func (f *offer) link(listening string) string {
	_, port, err := net.SplitHostPort(listening)
	if f.advertise == "" || err != nil {
		return listening
	}
	return net.JoinHostPort(f.advertise, port)
}

// model finds the same model here, or fetches what the shard needs of it.
func (f *offer) model(ctx context.Context, coordinator string, s remote.Source, load wire.LoadRequest, progress func(float64)) ([]string, error) {
	var id slicestore.ID
	if err := json.Unmarshal(s.Model, &id); err != nil {
		return nil, fmt.Errorf("the model's name: %w", err)
	}
	paths, err := f.own(id)
	if err != nil || paths != nil {
		return paths, err
	}
	spec := load.Shard
	if spec.Index < 0 || spec.Index >= len(spec.Shards) {
		return nil, fmt.Errorf("shard %d of %d", spec.Index, len(spec.Shards))
	}
	name, err := id.Key(spec.Shards[spec.Index])
	if err != nil {
		return nil, err
	}
	scheme, transport := "http", &http.Transport{}
	if s.TLS {
		if f.id == nil {
			return nil, errors.New("the coordinator serves the model with TLS, and this machine was given no --tls-cert")
		}
		scheme, transport.TLSClientConfig = "https", f.id.config.Clone()
	}
	defer transport.CloseIdleConnections()
	f.host.Logger.Info("fetching a slice", "from", coordinator, "slice", name)
	store := &slicestore.Store{Dir: filepath.Join(f.host.Home.Dir(), "slices")}
	return store.Fetch(ctx, slicestore.Want{
		Name: name, ID: id,
		Pieces:   func(m *gguf.Model) ([]slicestore.Block, error) { return piece.Needs(m, spec.Shards[spec.Index]) },
		Progress: func(done, total int64, _ string) { progress(float64(done) / float64(total)) },
	}, slicestore.Holder{
		Name: coordinator, URL: scheme + "://" + net.JoinHostPort(coordinator, strconv.Itoa(s.Port)), Token: s.Token,
		Client: &http.Client{Transport: transport},
	})
}

// own looks for the model among those of this machine: nil when it is not
// there.
func (f *offer) own(id slicestore.ID) ([]string, error) {
	entries, err := f.models()
	if err != nil {
		f.host.Logger.Warn("some models cannot be listed", "error", err)
	}
	var size int64
	for _, p := range id.Parts {
		size += p.Size
	}
	for _, e := range entries {
		if e.Problem != "" || e.SizeBytes != size || len(e.Paths) != len(id.Parts) {
			continue
		}
		same, err := isModel(e.Paths, id)
		if err != nil {
			return nil, err
		}
		if same {
			return e.Paths, nil
		}
	}
	return nil, nil
}

func isModel(paths []string, id slicestore.ID) (bool, error) {
	files, parts, readers, err := openFiles(paths)
	defer func() {
		for _, f := range files {
			_ = f.Close() // only read from: nothing can be lost
		}
	}()
	if err != nil {
		return false, err
	}
	own, err := piece.Identify(parts, readers)
	if err != nil {
		return false, err
	}
	for i, p := range own.Parts {
		if p != id.Parts[i] {
			return false, nil
		}
	}
	return true, nil
}
