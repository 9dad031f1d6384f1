package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skein-run/skein/internal/cluster/election"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/mesh"
	"github.com/skein-run/skein/internal/remote"
	"github.com/skein-run/skein/internal/replica/peerhttp"
	"github.com/skein-run/skein/internal/slicestore"
	"github.com/skein-run/skein/internal/worker/executor"
)

// peersOf is the HTTP transport to a node's peers, for parts that are made
// before it has any.
type peersOf struct{ c *Control }

// RoundTrip implements http.RoundTripper.
func (p peersOf) RoundTrip(r *http.Request) (*http.Response, error) {
	if p.c.mesh == nil {
		return nil, errors.New("this node has no peers")
	}
	return p.c.mesh.Client().Transport.RoundTrip(r)
}

// secret tells whether the cluster has one.
func (c *Control) secret() bool {
	return c.opts.Config.Cluster.Secret != "" || c.opts.Config.Cluster.SecretFile != ""
}

// join starts the mesh. Peers' calls and news wait until all parts are there.
func (c *Control) join() error {
	o := c.opts.Config.Cluster
	secret := o.Secret
	if o.SecretFile != "" {
		b, err := os.ReadFile(o.SecretFile)
		if err != nil {
			return fmt.Errorf("read the secret: %w", err)
		}
		if secret = strings.TrimSpace(string(b)); secret == "" {
			return fmt.Errorf("read the secret: %s is empty", o.SecretFile)
		}
	}
	opts := mesh.Options{
		ID: c.opts.ID, Namespace: o.Namespace, Secret: secret, Version: c.opts.Version,
		Host: o.PeerHost, Advertise: o.Advertise, PeerPort: o.PeerPort, GossipPort: o.GossipPort,
		Join: o.Join, Known: c.remembered(), Discover: !o.NoDiscovery,
		Handler: c.handler(), Changed: c.member, Logger: c.log,
	}
	if c.opts.Dir != "" {
		opts.Remember = c.remember
	}
	m, err := mesh.Start(opts)
	if err != nil && !o.PortsGiven {
		// Several nodes of one machine: the first has the default ports.
		opts.PeerPort, opts.GossipPort = 0, 0
		m, err = mesh.Start(opts)
	}
	if err != nil {
		return err
	}
	c.mesh = m
	c.onStop(m.Stop)
	c.log.Info("other nodes join here", "host", m.Host(), "gossip_port", m.GossipPort(), "peer_port", m.Port())
	return nil
}

// member passes on who came and who went.
func (c *Control) member(e mesh.Event) {
	select {
	case <-c.joined:
	case <-c.ctx.Done():
		return
	}
	id := e.Member.ID
	c.mu.Lock()
	if e.Alive {
		c.members[id] = true
	} else {
		delete(c.members, id)
	}
	peers := slices.Sorted(maps.Keys(c.members))
	c.mu.Unlock()
	cause := ""
	if e.Alive {
		select {
		case c.came <- struct{}{}:
		default:
		}
	} else {
		cause = "it left or was not heard of any more"
	}
	c.comings.note(id, e.Alive, e.Member.PeerAddr(), e.Member.Version)
	c.replica.SetMembers(peers)
	c.elector.Member(id, e.Alive)
	c.keeper.Member(id, e.Alive, cause)
}

// peers lists the live ones.
func (c *Control) peers() []ids.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.members))
}

// pathElection is the call that brings an election message.
const pathElection = "/election"

// handler answers peers.
func (c *Control) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathElection, func(w http.ResponseWriter, r *http.Request) {
		var s election.Status
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&s); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if s.From != mesh.Caller(r) {
			http.Error(w, "a node votes for itself alone", http.StatusForbidden)
			return
		}
		c.elector.Receive(s)
		w.WriteHeader(http.StatusNoContent)
	})
	member := func(r *http.Request) bool { return mesh.Caller(r) != "" }
	mux.Handle(executor.VitalsPattern, executor.VitalsHandler(member, c.vitals.own))
	mux.HandleFunc("GET "+pathProbe, serveProbe)
	c.errands.Handle(mux)
	peerhttp.Handle(mux, c.replica, mesh.Caller, c.log)
	remote.Handle(mux, heads{c})
	mux.Handle(slicestore.ShelfPattern, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.files.Handler().ServeHTTP(w, r) }))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-c.joined:
			mux.ServeHTTP(w, r)
		case <-r.Context().Done():
		case <-c.ctx.Done():
		}
	})
}

// heads are this node's instances for peers.
type heads struct{ c *Control }

// Head implements remote.Heads.
func (h heads) Head(instance string) (generation.Model, bool) { return h.c.head(instance) }

// sendStatus delivers an election message.
func (c *Control) sendStatus(ctx context.Context, to ids.Node, s election.Status) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+string(to)+pathElection, bytes.NewReader(b))
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusNoContent {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	return errors.Join(err, resp.Body.Close())
}

// peersFile keeps the addresses of peers, so that a node finds them after a
// restart without flags.
func (c *Control) peersFile() string { return filepath.Join(c.opts.Dir, "peers.json") }

func (c *Control) remembered() []string {
	if c.opts.Dir == "" {
		return nil
	}
	b, err := os.ReadFile(c.peersFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var out []string
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		c.log.Warn("the addresses of earlier peers can't be read; --join names one", "error", err)
		return nil
	}
	return out
}

func (c *Control) remember(addresses []string) {
	b, err := json.Marshal(addresses)
	if err == nil {
		temp := c.peersFile() + ".new"
		if err = os.WriteFile(temp, b, 0o600); err == nil {
			err = os.Rename(temp, c.peersFile())
		}
	}
	if err != nil {
		c.log.Warn("the addresses of peers can't be kept; after a restart --join is needed", "error", err)
	}
}
