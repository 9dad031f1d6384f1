package texts

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/bytesize"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi/access"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/library"
	"github.com/skein-run/skein/internal/worker"
)

// Places is where the models are that requests run on: Own or Shared.
type Places interface {
	// acquire gives the model of a name that a person wrote; it is loaded first
	// if need be.
	acquire(ctx context.Context, name string, by request) (place, error)
	// Models lists those that are loaded or about to be.
	Models() []Model
	// known describes a model by its full name; missing: no node that has its
	// files is online. ok is false if nothing is known of it.
	known(name string) (m cluster.Model, missing, ok bool)
	// elsewhere lists models whose files are on other nodes only.
	elsewhere() []string
}

// request is who wants a model. id is what its client knows it by, "": nothing;
// cancel ends it, nil: nobody can.
type request struct {
	id     string
	cancel func()
}

// place is a model to run requests on. release must be called.
type place struct {
	name    string // full
	model   generation.Model
	release func()
}

// Model is a model that is loaded, or about to be.
type Model struct {
	Name    string
	Ready   bool
	Context int // tokens of each slot
	Slots   int
	Warning string // what is not as it was asked for; "": nothing
}

// Own are the models of a node that takes part in no cluster.
func Own(w *worker.Worker) Places { return own{w} }

type own struct{ worker *worker.Worker }

func (o own) acquire(ctx context.Context, name string, _ request) (place, error) {
	h, err := o.worker.Acquire(ctx, name)
	if err != nil {
		return place{}, err
	}
	return place{name: h.Name(), model: h.Model(), release: h.Release}, nil
}

func (o own) Models() []Model {
	var out []Model
	for _, s := range o.worker.Models() {
		out = append(out, Model{Name: s.Name, Ready: s.Ready(), Context: s.Context, Slots: s.Slots, Warning: s.Warning})
	}
	return out
}

func (o own) elsewhere() []string { return nil }

// Cluster is what requests need of a cluster.
type Cluster interface {
	// State is the cluster as this node knows it, and the index of its last event;
	// Changes is closed with the next one.
	State() (cluster.State, uint64)
	Changes() <-chan struct{}
}

// Router finds places for requests.
type Router interface {
	// Enter counts a request for a model, or refuses it: too many wait already.
	Enter(model string) (leave func(), err error)
	// Model has the model loaded if nobody wants it yet, and waits for it.
	Model(ctx context.Context, name string) (generation.Model, error)
}

// Tasks lists the open requests of this node's clients; see errands.Tasks.
type Tasks interface {
	Begin(kind, model, id, owner string, cancel func()) (running, end func())
}

// SharedOptions make Shared.
type SharedOptions struct {
	Cluster Cluster
	Router  Router
	Tasks   Tasks
	Vitals  func(context.Context) (map[ids.Node]cluster.Vitals, error)
	Files   *Files // of this node
}

// Shared are the models of the cluster.
func Shared(o SharedOptions) Places { return shared{o} }

type shared struct{ o SharedOptions }

// announcing is how long a model file of this node may be unknown to the
// cluster: it is hashed first.
const announcing = 2 * time.Minute

// resolve finds the full name of a model: the cluster's, or a file of this node
// that the cluster is about to learn of.
func (s shared) resolve(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, announcing)
	defer cancel()
	for {
		changes := s.o.Cluster.Changes()
		state, _ := s.o.Cluster.State()
		full, err := command.Resolve(state, strings.TrimSuffix(name, ".gguf"))
		if err == nil {
			return full, nil
		}
		var no *command.Refusal
		if errors.As(err, &no) && no.Code == command.Ambiguous {
			return "", &generation.Error{Kind: generation.KindAmbiguousModel, Message: no.Message, Param: "model", Err: err}
		}
		e, local := s.o.Files.entry(name)
		if local != nil {
			return "", s.unknown(state, name, local)
		}
		if known, ok := state.Models[e.Name]; ok {
			return known.Name, nil
		}
		if err := s.fits(ctx, e, state); err != nil {
			return "", err
		}
		select {
		case <-changes:
		case <-ctx.Done():
			return "", &generation.Error{Kind: generation.KindUnavailable, RetryAfter: 5, Err: context.Cause(ctx),
				Message: fmt.Sprintf("%s is still being read for the first time (its files are hashed, so that other nodes can trust them); ask again in a while", e.Name)}
		}
	}
}

// fits refuses a model that is larger than the memory of all nodes together,
// before its files are hashed for minutes.
func (s shared) fits(ctx context.Context, e library.Entry, state cluster.State) error {
	vitals, err := s.o.Vitals(ctx)
	if err != nil {
		return nil // placement asks again, and says it
	}
	var have int64
	hosts := map[string]bool{}
	for id, v := range vitals {
		if h := state.Nodes[id].Host; h == "" || !hosts[h] {
			hosts[h] = true
			for _, d := range state.Nodes[id].Devices { // what can't be placed on is only told of
				if now, ok := v.Device(d.ID); ok {
					have += now.Total
				}
			}
		}
	}
	if e.SizeBytes <= have || have == 0 {
		return nil
	}
	var loaded []string
	for _, w := range state.Wanted {
		loaded = append(loaded, w.Model)
	}
	slices.Sort(loaded)
	message := fmt.Sprintf("Need %s for %s, have %s in all nodes together.", bytesize.Format(e.SizeBytes), e.Name, bytesize.Format(have))
	if len(loaded) > 0 {
		message += " Loaded: " + strings.Join(loaded, ", ") + "."
	}
	return &generation.Error{Kind: generation.KindNoMemory, Message: message + " Choose a smaller model or quantization, or add nodes."}
}

// unknown is the error about a name that neither the cluster nor this node
// knows.
func (s shared) unknown(state cluster.State, name string, local error) error {
	var e *generation.Error
	if !errors.As(local, &e) || e.Kind != generation.KindModelNotFound || len(state.Models) == 0 {
		return local
	}
	var names []string
	for n := range state.Models {
		names = append(names, n)
	}
	slices.Sort(names)
	return &generation.Error{Kind: e.Kind, Param: e.Param, Err: local,
		Message: fmt.Sprintf("no node of this cluster has a model %q; there are: %s", name, strings.Join(names, ", "))}
}

func (s shared) acquire(ctx context.Context, name string, by request) (place, error) {
	full, err := s.resolve(ctx, name)
	if err != nil {
		return place{}, err
	}
	leave, err := s.o.Router.Enter(full)
	if err != nil {
		return place{}, err
	}
	caller, _ := access.Of(ctx)
	running, end := s.o.Tasks.Begin("chat", full, by.id, caller.Owner(), by.cancel)
	release := func() { end(); leave() }
	m, err := s.o.Router.Model(ctx, full)
	if err != nil {
		release()
		return place{}, err
	}
	running()
	return place{name: full, model: m, release: release}, nil
}

func (o own) known(string) (m cluster.Model, missing, ok bool) { return m, false, false }

func (s shared) known(name string) (m cluster.Model, missing, ok bool) {
	state, _ := s.o.Cluster.State()
	m, ok = state.Models[name]
	return m, !slices.ContainsFunc(m.Holders, func(id ids.Node) bool { return state.Nodes[id].Online }), ok
}

func (s shared) elsewhere() []string {
	state, _ := s.o.Cluster.State()
	var out []string
	for name := range state.Models {
		if _, err := s.o.Files.entry(name); err != nil {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func (s shared) Models() []Model {
	state, _ := s.o.Cluster.State()
	var out []Model
	for _, w := range state.Wanted {
		m := Model{Name: w.Model, Context: w.Context, Slots: w.Slots}
		for _, i := range command.Instances(state, w.ID) {
			m.Context, m.Ready = i.Context, i.Status() == "ready"
			if i.Context < w.Context {
				m.Warning = fmt.Sprintf("context lowered from %d to %d tokens a slot", w.Context, i.Context)
			}
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Model) int { return strings.Compare(a.Name, b.Name) })
	return out
}
