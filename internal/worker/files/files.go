// Package files is the model files of one node as its cluster sees them: it
// tells the cluster which models lie here, serves them to peers, and brings
// those that are placed here and lie elsewhere.
//
// A model is the same on two nodes if its files have the same SHA-256. Hashes
// are computed once, in the background, and kept by path, size and time. A model
// that takes long to hash is told before, and its node is its only holder until
// the hashes are told too: it can be loaded from these files, and who must fetch
// it waits. What was fetched as a whole is one of the node's models too; slices
// are caches and nobody's business.
//
// Three goroutines belong to a Files: one looks at the library, when Rescan
// asks; one hashes what is new there; one compares with the cluster's state and
// tells the difference, when either changes. Each announcement of a download has one of its own. Stop
// joins them. All exported methods may be called from any goroutine. The package
// must not import master, replica, mesh or another edge.
package files

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/library"
	"github.com/skein-run/skein/internal/slicestore"
)

// Cluster is the state that all nodes agree on, and the way to change it.
type Cluster interface {
	State() cluster.State
	// Changes is closed with the next change of State.
	Changes() <-chan struct{}
	// Submit returns when the command is done and safe. A *command.Refusal is
	// the cluster's no; after any other error it may be sent again.
	Submit(ctx context.Context, c command.Command) (index uint64, err error)
}

// Library lists the node's own model files.
type Library interface {
	List() ([]library.Entry, error)
}

// Options make a Files. Zero durations take the default named.
type Options struct {
	Self    ids.Node
	Cluster Cluster
	Library Library
	Store   *slicestore.Store // of what is fetched; its Keep is set
	Hashes  string            // file that keeps hashes; its folder is there
	Logger  *slog.Logger

	// Client calls peers, and Peer gives the URL of a node's server; nil:
	// "https://" and its id.
	Client *http.Client
	Peer   func(ids.Node) string
	// Caller is the node that sent a request, "" for a stranger.
	Caller func(*http.Request) ids.Node
	// NoDownloads: nothing is fetched, what lies here is all there is.
	NoDownloads bool

	// Quick is the size up to which a model is hashed before it is told, bytes;
	// 0: 512 MiB.
	Quick int64

	// reading is called before a model is read; tests hold it there.
	reading func(model string)

	RetryMin    time.Duration // before an announcement is sent again, doubled each time; 200 ms
	RetryMax    time.Duration // 5 s
	SubmitLimit time.Duration // for one try; 10 s
}

func (o *Options) validate() error {
	var errs []error
	if o.Self == "" || o.Cluster == nil || o.Library == nil || o.Store == nil || o.Hashes == "" || o.Logger == nil {
		errs = append(errs, errors.New("self, cluster, library, store, hashes and logger are required"))
	}
	if o.Client == nil || o.Caller == nil {
		errs = append(errs, errors.New("client and caller are required"))
	}
	for _, d := range []time.Duration{o.RetryMin, o.RetryMax, o.SubmitLimit} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("negative duration %v", d))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("model files: %w", err)
	}
	return nil
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if o.Quick == 0 {
		o.Quick = quick
	}
	if o.reading == nil {
		o.reading = func(string) {}
	}
	set(&o.RetryMin, 200*time.Millisecond)
	set(&o.RetryMax, 5*time.Second)
	set(&o.SubmitLimit, 10*time.Second)
	if o.Peer == nil {
		o.Peer = func(id ids.Node) string { return "https://" + string(id) }
	}
	return o
}

// Files are a node's model files.
type Files struct {
	opts   Options
	life   context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	look   chan struct{} // capacity 1: scan anew
	todo   chan struct{} // capacity 1: there may be something to hash
	tell   chan struct{} // capacity 1: announce anew

	mu      sync.Mutex                   // guards all below
	changed chan struct{}                // closed and replaced when what is known changes
	scanned bool                         // the library was looked at once
	listed  map[string]listed            // usable models of the library by name
	hashing *cluster.HashVitals          // the model that is read now, nil: none
	inStore []slicestore.Copy            // whole models that were fetched, at the last look
	known   map[string]known             // whose hashes are known, by name
	shelf   map[string]slicestore.Stored // by key
	trouble map[string]string            // what an operator should see, by model
	broken  map[string]bool              // names whose files can't be profiled
	inUse   map[string]int               // slices by name
	fetches map[*download]bool
	copies  map[string]string                  // names of whole models in the store, by model
	taking  map[string]context.CancelCauseFunc // by model; of Take
}

// listed is a model as the library lists it.
type listed struct {
	entry library.Entry
	files []cluster.File // without hashes
}

// known is a model whose files' hashes are known.
type known struct {
	entry  library.Entry
	files  []cluster.File
	stored slicestore.Stored
}

// Start looks at the library in the background and goes on until Stop.
func Start(o Options) (*Files, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	f := &Files{
		opts: o.withDefaults(), look: make(chan struct{}, 1), todo: make(chan struct{}, 1), tell: make(chan struct{}, 1), changed: make(chan struct{}),
		listed: map[string]listed{}, known: map[string]known{}, shelf: map[string]slicestore.Stored{},
		trouble: map[string]string{}, broken: map[string]bool{}, inUse: map[string]int{}, fetches: map[*download]bool{}, taking: map[string]context.CancelCauseFunc{},
	}
	f.opts.Store.Keep = f.needs
	f.life, f.cancel = context.WithCancel(context.Background())
	f.Rescan()
	hashes := loadHashes(f.opts.Hashes)
	f.wg.Go(func() { f.scan(hashes) })
	f.wg.Go(func() { f.hash(hashes) })
	f.wg.Go(f.announce)
	return f, nil
}

// Stop ends the background work. Idempotent.
func (f *Files) Stop() {
	f.mu.Lock()
	f.cancel()
	f.mu.Unlock()
	f.wg.Wait()
}

// Rescan has the library looked at again, soon.
func (f *Files) Rescan() { poke(f.look) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Problems lists what an operator of this node should see, for a person.
func (f *Files) Problems() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, name := range sortedKeys(f.trouble) {
		out = append(out, f.trouble[name])
	}
	return out
}

// Handler serves this node's models to members of the cluster. It is mounted
// with slicestore.ShelfPattern.
func (f *Files) Handler() http.Handler {
	return &slicestore.Shelf{
		Find: func(key string) (slicestore.Stored, bool) {
			f.mu.Lock()
			defer f.mu.Unlock()
			s, ok := f.shelf[key]
			return s, ok
		},
		Allow: func(r *http.Request) bool {
			id := f.opts.Caller(r)
			_, member := f.opts.Cluster.State().Nodes[id]
			return id != "" && member
		},
	}
}

// changes tells who waits that what is known has changed; mu is held.
func (f *Files) changes() {
	close(f.changed)
	f.changed = make(chan struct{})
	poke(f.tell)
}

// idOf names a model by its content, its headers unknown.
func idOf(files []cluster.File) slicestore.ID {
	var id slicestore.ID
	for _, x := range files {
		id.Parts = append(id.Parts, slicestore.Part{Size: x.Size, Digest: x.SHA256})
	}
	return id
}
