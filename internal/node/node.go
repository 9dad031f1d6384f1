// Package node is the composition root: it turns a configuration into running
// parts, joins them, and takes them down in the reverse order. It is the only
// package that knows all the others, and only cmd/skein may import it.
//
// New wires, Start serves, Stop ends; Run is the three together. A Node is
// started once. Its methods may be called from any goroutine, Start and Stop
// once each.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/catalog"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/config"
	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/home"
	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/httpapi/access"
	"github.com/skein-run/skein/internal/httpapi/manage"
	"github.com/skein-run/skein/internal/httpapi/mcp"
	"github.com/skein-run/skein/internal/httpapi/openai"
	"github.com/skein-run/skein/internal/httpapi/openai/document"
	"github.com/skein-run/skein/internal/httpapi/raw"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/library"
	"github.com/skein-run/skein/internal/node/control"
	"github.com/skein-run/skein/internal/node/texts"
	"github.com/skein-run/skein/internal/supervise"
	"github.com/skein-run/skein/internal/worker"
)

// DrainTime is how long running requests may go on after the first signal to
// stop.
const DrainTime = 10 * time.Second

// Options say what a node is made of.
type Options struct {
	Home       home.Home
	Config     config.Serve
	Executable string // this program: runners are started from it
	Version    string
	Logger     *slog.Logger
	Files      []string // models to list beside the registered ones
	// Private is a node inside another command: it publishes no address and
	// reads models by any path that the command's user can.
	Private bool
}

func (o *Options) validate() error {
	if o.Executable == "" || o.Version == "" || o.Logger == nil {
		return errors.New("node: executable, version and logger are required")
	}
	return nil
}

// Node is one machine's part of the cluster.
type Node struct {
	opts   Options
	log    *slog.Logger
	id     string
	name   string // of the machine
	token  string // opens the API to commands on this machine; "": nobody knows it
	server *httpapi.Server
	manage *manage.Dialect
	mcp    *mcp.Dialect
	exo    *raw.Dialect // nil without a control
	begun  time.Time
	places texts.Places
	// One of the two: a node that takes part in a cluster has a control, one
	// that is private or tries local shards a worker of its own.
	control *control.Control
	worker  *worker.Worker
	library *library.Library
	files   *texts.Files
	texts   *texts.Texts
	stops   []stop // last in, first out

	refusals *access.Refusals // what the API refused

	background sync.WaitGroup // unloads under way
}

// stop is one step of the teardown.
type stop struct {
	name string
	do   func(context.Context) error
}

// New wires a node. Nothing listens and nothing is loaded yet.
func New(o Options) (*Node, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	layout, err := shardLayout(o.Config)
	if err != nil {
		return nil, err
	}
	if err := o.Home.Ensure(); err != nil {
		return nil, err
	}
	n := &Node{opts: o, log: o.Logger, begun: time.Now()}
	n.refusals = access.NewRefusals(time.Now, func(r cluster.Refusal) {
		o.Logger.Info("audit", "key", r.Key, "node", n.id, "what", r.What, "result", "refused: "+r.Reason, "times", r.Count)
	})
	if n.id, err = o.Home.NodeID(); err != nil {
		return nil, err
	}
	if n.name, err = os.Hostname(); err != nil {
		n.name = n.id
	}
	found, err := engine.Find(engine.Options{Dir: o.Config.EngineDir, Executable: o.Executable, Home: o.Home.Dir()})
	if err != nil {
		return nil, err
	}
	lib, err := library.Open(library.Options{
		Registry: o.Home.ModelRegistry(), Dirs: o.Config.ModelsDirs, Files: o.Files, Bundled: catalog.Bundled(o.Executable), Logger: o.Logger,
	})
	if err != nil {
		return nil, err
	}
	if _, err := lib.List(); err != nil {
		// The models that can be read are served; the others are said.
		o.Logger.Warn("some models cannot be listed", "err", err)
	}
	n.library, n.files = lib, texts.NewFiles(lib, o.Private)
	if o.Private || o.Config.LocalShards != "" {
		n.worker, err = worker.New(worker.Options{
			Library: n.files, Start: n.startRunner(found, layout), Memory: memory, Logger: o.Logger,
			Load: loadDefaults(o.Config), Slots: o.Config.Slots, Context: o.Config.Context, Queue: queue(o.Config.Queue),
		})
		n.places = texts.Own(n.worker)
	} else {
		err = n.controlled(lib, found)
	}
	if err != nil {
		return nil, err
	}
	if err = checkExposure(o.Config, n.keys()); err == nil {
		err = n.mount(lib, found)
	}
	if err != nil {
		return nil, errors.Join(err, n.Stop(context.Background()))
	}
	return n, nil
}

// controlled makes the node a part of a cluster.
func (n *Node) controlled(lib *library.Library, found *engine.Engine) error {
	o := n.opts
	for _, note := range o.Config.Cluster.Notes() {
		o.Logger.Warn(note)
	}
	if err := o.Home.Taken(os.Getpid()); err != nil {
		return err
	}
	c, err := control.New(control.Options{
		ID: ids.Node(n.id), Name: n.name, Config: o.Config, Dir: o.Home.Dir(), Version: o.Version, Library: lib,
		Runner: supervise.Options{
			Executable: o.Executable, Build: o.Version, Engine: found.Spec(), Env: append(os.Environ(), "GGML_NO_BACKTRACE=1"), Logger: o.Logger,
		},
		Load: loadDefaults(o.Config), Context: contextOr(o.Config.Context), Slots: max(1, o.Config.Slots), Queue: queue(o.Config.Queue),
		System: runtime.GOOS + "/" + runtime.GOARCH, Devices: devices(o.Executable, found),
		Alone: o.Config.Cluster.Namespace == "", Refusals: n.refusals.List, Logger: o.Logger,
	})
	if err != nil {
		return err
	}
	n.control = c
	n.places = texts.Shared(texts.SharedOptions{Cluster: c.Cluster(), Router: c.Router(), Tasks: c.Tasks(), Vitals: c.Vitals, Files: n.files})
	return nil
}

// contextOr is the context of a slot where nobody says: the model's own, at
// most this.
func contextOr(want int) int {
	if want > 0 {
		return want
	}
	return 8192
}

// queue turns the flag, where 0 means that nobody may wait, into the worker's
// option, where 0 means the default.
func queue(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

// mount makes the server and its dialects.
func (n *Node) mount(lib *library.Library, found *engine.Engine) error {
	o := n.opts
	var err error
	n.server, err = httpapi.New(httpapi.Options{
		Address: net.JoinHostPort(o.Config.APIHost, strconv.Itoa(o.Config.APIPort)),
		Access:  n.access(), AllowedOrigins: o.Config.AllowOrigins, AllowedHosts: n.hosts(), Refused: n.refusals.Add, Log: o.Logger,
	})
	if err != nil {
		return err
	}
	n.texts, err = texts.New(n.places, n.files, o.Logger)
	if err != nil {
		return err
	}
	var figures func(string, generation.Usage) []byte
	if n.control != nil {
		figures = func(model string, u generation.Usage) []byte {
			s, _ := n.control.Cluster().State()
			return raw.Figures(s, model, u)
		}
	}
	chat, err := openai.New(openai.Options{Engine: n.texts, Log: o.Logger, Figures: figures, Fingerprint: fmt.Sprintf("skein-%s-llama.cpp-%s", o.Version, found.Version)})
	if err != nil {
		return err
	}
	cat, err := catalog.New(catalog.Options{Library: lib, Context: o.Config.Context, Slots: o.Config.Slots, AnyPath: o.Private})
	if err != nil {
		return err
	}
	mo := manage.Options{Library: cat, Node: n.id, Log: o.Logger, Version: o.Version, Describe: document.Describe}
	c := clustered{control: n.control, self: ids.Node(n.id), begun: n.begun}
	if n.control != nil {
		c.audits = audits{n.control, o.Logger}
		mo.Cluster, mo.Commands, mo.Keys = c, c, c
		mo.Library = rescanning{cat, n.control, c.audits}
	} else {
		c := &alone{node: n}
		mo.Cluster, mo.Commands, mo.Keys = c, c, c
	}
	n.manage, err = manage.New(mo)
	if err != nil {
		return err
	}
	n.mcp, err = mcp.New(mcp.Options{API: n.server.Handler(), Version: o.Version, Log: o.Logger})
	if err != nil {
		return err
	}
	n.server.Mount(chat)
	n.server.Mount(n.manage)
	n.server.Mount(n.mcp)
	if n.control == nil {
		return nil
	}
	e := exoCommands{c}
	n.exo, err = raw.New(raw.Options{
		Cluster: e, Commands: e, Chat: exoChat{chat, n.texts}, Models: exoModels{chat, c}, Onboarding: onboarding{o.Home.Dir()}, Node: ids.Node(n.id), Log: o.Logger, Explain: manage.Explain,
	})
	if err != nil {
		return err
	}
	n.server.Mount(n.exo)
	return nil
}

// Start listens, publishes the address and loads what --load names. When it
// fails, what it started is stopped.
func (n *Node) Start(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Stop(ctx))
		}
	}()
	if n.control != nil {
		n.onStop("cluster", n.control.Stop)
	} else {
		n.onStop("worker", func(ctx context.Context) error {
			n.worker.Close(ctx)
			n.background.Wait()
			return nil
		})
	}
	if n.opts.Config.Cluster.NoAPI {
		return n.control.Start()
	}
	if err := n.server.Start(ctx); err != nil {
		return err
	}
	n.onStop("API", func(ctx context.Context) error {
		n.manage.Close() // streams of changes would hold the server
		n.mcp.Close()
		if n.exo != nil {
			n.exo.Close()
		}
		return n.server.Stop(ctx)
	})
	if !n.opts.Private {
		if err := n.publish(); err != nil {
			return err
		}
	}
	if n.control != nil {
		if err := n.control.Start(); err != nil {
			return err
		}
	}
	if n.worker != nil { // the cluster takes loads one by one, below
		for _, name := range n.opts.Config.Load {
			if _, _, err := n.worker.Load(ctx, name, worker.Spec{}); err != nil {
				return fmt.Errorf("load %s: %w", name, err)
			}
		}
	}
	for _, name := range n.opts.Config.Load {
		if err := n.texts.Warm(ctx, name); err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	n.server.Ready()
	return nil
}

// publish writes the address file, by which commands on this machine find the
// node.
func (n *Node) publish() error {
	pid := os.Getpid()
	err := n.opts.Home.WriteNode(home.Node{PID: pid, API: n.URL(), Started: time.Now(), Version: n.opts.Version, APIKey: n.token})
	if err != nil {
		return err
	}
	n.onStop("address file", func(context.Context) error { return n.opts.Home.RemoveNode(pid) })
	return nil
}

func (n *Node) onStop(name string, do func(context.Context) error) {
	n.stops = append(n.stops, stop{name, do})
}

// URL is where a client on this machine reaches the API; valid after Start, ""
// with --no-api.
func (n *Node) URL() string {
	if n.server.Addr() == nil {
		return ""
	}
	host, port, err := net.SplitHostPort(n.server.Addr().String())
	if err != nil {
		return "http://" + n.server.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// Models tells what is loaded.
func (n *Node) Models() []texts.Model { return n.places.Models() }

// Failed is closed when the API stops serving by itself; Err says why.
func (n *Node) Failed() <-chan struct{} { return n.server.Done() }

// Err is what ended the API.
func (n *Node) Err() error { return n.server.Err() }

// Stop takes no more requests, lets running ones finish until ctx ends, and
// frees everything. It returns when nothing of the node is left.
func (n *Node) Stop(ctx context.Context) error {
	var errs []error
	if len(n.stops) == 0 && n.control != nil { // made and never started
		errs = append(errs, n.control.Stop(ctx))
	}
	for i := len(n.stops) - 1; i >= 0; i-- {
		if err := n.stops[i].do(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", n.stops[i].name, err))
		}
	}
	n.stops = nil
	return errors.Join(errs...)
}
