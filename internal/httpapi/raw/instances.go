package raw

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/httpapi/raw/shape"
)

// wish is what a client wants placed.
type wish struct {
	Model    string // full name
	Sharding string
	Meta     string
	Nodes    int
	Require  []string
}

// check completes a wish with exo's defaults, and refuses what there is not.
func (d *Dialect) check(ctx context.Context, x *wish, s cluster.State) (err error) {
	if x.Sharding == "" {
		x.Sharding = shape.Pipeline
	}
	if x.Meta == "" {
		x.Meta = shape.Ring
	}
	if err := oneOf("sharding", x.Sharding, shape.Pipeline, shape.Tensor); err != nil {
		return err
	}
	if err := oneOf("instance_meta", x.Meta, shape.Ring, shape.Jaccl); err != nil {
		return err
	}
	if x.Meta == shape.Jaccl {
		return &shape.Error{Field: "instance_meta", Message: shape.JacclError}
	}
	if x.Nodes < 1 || x.Nodes > 1<<16 {
		return &shape.Error{Field: "min_nodes", Message: fmt.Sprintf("min_nodes must be at least 1, not %d", x.Nodes)}
	}
	x.Model, err = d.model(ctx, s, x.Model)
	return err
}

// load is the wish as a command for one instance more than there are.
func (x *wish) load(s cluster.State) command.Load {
	l := command.Load{Model: x.Model, MinNodes: x.Nodes, Sharding: placement.Pipeline, Replicas: 1}
	if x.Sharding == shape.Tensor {
		l.Sharding = placement.Tensor
	}
	for _, w := range s.Wanted {
		if w.Model == x.Model {
			l.Replicas++
		}
	}
	return l
}

// plan finds a place as exo does: as few nodes as were asked for; only if these
// have no room, more of them.
func (d *Dialect) plan(ctx context.Context, l command.Load) (placement.Plan, error) {
	p, err := d.o.Commands.Plan(ctx, l, max(l.MinNodes, len(l.Require)))
	if noMemory(err) {
		return d.o.Commands.Plan(ctx, l, 0)
	}
	return p, err
}

func noMemory(err error) bool {
	var no *command.Refusal
	return errors.As(err, &no) && no.Code == command.NoMemory
}

// look is the wait between two tries to place something while memory is being
// given back: what nodes told of their memory may be so old.
const look = 500 * time.Millisecond

// patiently tries again while an instance that was removed gives its memory
// back: who deletes one and creates the next should not have to wait.
func (d *Dialect) patiently(ctx context.Context, try func(in view.Inputs) error) error {
	ctx, cancel := context.WithTimeout(ctx, d.o.Patience)
	defer cancel()
	again := 0 // tries left after the last release was seen
	for {
		changes := d.o.Cluster.Changes()
		in, err := d.o.Cluster.Snapshot(ctx)
		if err != nil {
			return err
		}
		err = try(in)
		if !noMemory(err) {
			return err
		}
		for _, i := range in.State.Instances {
			if i.Releasing != "" {
				again = 4
			}
		}
		if again--; again < 0 {
			return err
		}
		timer := time.NewTimer(look)
		select {
		case <-changes:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return err
		}
	}
}

// placed answers routes that make an instance.
func (d *Dialect) placed(w http.ResponseWriter, in view.Inputs, id, message string, i cluster.Instance) error {
	m := in.State.Models[i.Model]
	m.Name = i.Model
	return answer(w, map[string]any{"message": message, "command_id": id, "instance_id": i.ID, "model_card": shape.CardOf(m)})
}

func (d *Dialect) placeInstance(w http.ResponseWriter, r *http.Request) error {
	o, err := body(w, r)
	if err != nil {
		return err
	}
	x := wish{Nodes: 1}
	for _, f := range []struct {
		name, kind string
		into       any
	}{{"sharding", "a string", &x.Sharding}, {"instance_meta", "a string", &x.Meta}, {"min_nodes", "a whole number", &x.Nodes}} {
		if _, err := o.Into("", f.name, f.kind, f.into); err != nil {
			return err
		}
	}
	if err := o.Need("", "model_id", "a string", &x.Model); err != nil {
		return err
	}
	id := d.o.Name()
	var done cluster.Instance
	var seen view.Inputs
	err = d.patiently(r.Context(), func(in view.Inputs) error {
		if err := d.check(r.Context(), &x, in.State); err != nil {
			return err
		}
		l := x.load(in.State)
		p, err := d.plan(r.Context(), l)
		if err != nil {
			return about("model_id", err)
		}
		seen, done = in, shape.Planned(d.o.Name(), x.Model, p)
		return about("model_id", d.o.Commands.Place(r.Context(), id, l, done))
	})
	if err != nil {
		return err
	}
	return d.placed(w, seen, id, "the instance has its place and is being loaded", done)
}

func (d *Dialect) createInstance(w http.ResponseWriter, r *http.Request) error {
	o, err := body(w, r)
	if err != nil {
		return err
	}
	var given json.RawMessage
	if err := o.Need("", "instance", "an object", &given); err != nil {
		return err
	}
	i, err := shape.ParseInstance("instance", given)
	if err != nil {
		return err
	}
	id := d.o.Name()
	var seen view.Inputs
	message := "the instance has its place, exactly as it was given, and is being loaded"
	err = d.patiently(r.Context(), func(in view.Inputs) error {
		x := wish{Model: i.Model, Nodes: 1}
		if err := d.check(r.Context(), &x, in.State); err != nil {
			return err
		}
		i.Model, seen = x.Model, in
		for _, s := range i.Shards {
			if !in.Live[s.Node] {
				return about("instance", &command.Refusal{Code: command.UnknownNode, Message: fmt.Sprintf("node %s is not there; nothing was placed", s.Node)})
			}
		}
		if there, ok := in.State.Instances[i.ID]; ok {
			if there.Releasing == "" && there.Model == i.Model && slices.EqualFunc(there.Shards, i.Shards, func(a, b cluster.Shard) bool { return a.Node == b.Node && a.Spec.First == b.Spec.First }) {
				message = "this instance is there already; nothing was changed"
				return nil
			}
			return about("instance.instanceId", &command.Refusal{Code: command.Conflict, Message: fmt.Sprintf("there is another instance %s; give this one a new id", i.ID)})
		}
		if len(i.Shards) > 1 && i.Shards[0].Spec.Ranks() > 1 {
			x.Sharding = shape.Tensor
		}
		return about("instance", d.o.Commands.Place(r.Context(), id, x.load(in.State), i))
	})
	if err != nil {
		return err
	}
	return d.placed(w, seen, id, message, i)
}

// find gives an instance that is not being stopped.
func (d *Dialect) find(r *http.Request) (view.Inputs, cluster.Instance, error) {
	in, err := d.o.Cluster.Snapshot(r.Context())
	if err != nil {
		return in, cluster.Instance{}, err
	}
	i, ok := in.State.Instances[r.PathValue("id")]
	if !ok || i.Releasing != "" {
		return in, i, notFound(fmt.Sprintf("there is no instance %s; GET /state/instances lists them", quoted(r.PathValue("id"))))
	}
	return in, i, nil
}

func (d *Dialect) getInstance(w http.ResponseWriter, r *http.Request) error {
	in, i, err := d.find(r)
	if err != nil {
		return err
	}
	return answer(w, shape.InstanceOf(in.State, i))
}

func (d *Dialect) deleteInstance(w http.ResponseWriter, r *http.Request) error {
	_, i, err := d.find(r)
	if err != nil {
		return err
	}
	id := d.o.Name()
	if err := d.o.Commands.Remove(r.Context(), id, i.ID); err != nil {
		return err
	}
	return answer(w, map[string]string{"message": "the instance is being stopped", "command_id": id, "instance_id": i.ID})
}

// query reads a wish from the URL.
func query(q url.Values) (wish, error) {
	x := wish{Nodes: 1, Model: q.Get("model_id"), Sharding: q.Get("sharding"), Meta: q.Get("instance_meta"), Require: q["node_ids"]}
	if x.Model == "" {
		return x, &shape.Error{Field: "model_id", Message: "model_id is missing: name the model; GET /models lists what there is"}
	}
	if text := q.Get("min_nodes"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return x, &shape.Error{Field: "min_nodes", Message: "min_nodes must be a whole number of at least 1, not " + quoted(text)}
		}
		x.Nodes = n
	}
	return x, nil
}

// placement is a dry run.
func (d *Dialect) placement(w http.ResponseWriter, r *http.Request) error {
	x, err := query(r.URL.Query())
	if err != nil {
		return err
	}
	in, err := d.o.Cluster.Snapshot(r.Context())
	if err != nil {
		return err
	}
	if err := d.check(r.Context(), &x, in.State); err != nil {
		return err
	}
	p, err := d.plan(r.Context(), x.load(in.State))
	if err != nil {
		return about("model_id", err)
	}
	return answer(w, shape.InstanceOf(in.State, shape.Planned(d.o.Name(), x.Model, p)))
}

// preview is one way to place a model, or why there is none.
type preview struct {
	Model    string           `json:"model_id"`
	Sharding string           `json:"sharding"`
	Meta     string           `json:"instance_meta"`
	Instance *shape.Tag       `json:"instance"`
	Memory   map[string]int64 `json:"memory_delta_by_node"` // bytes; null with an error
	Error    *string          `json:"error"`
}

// maxPreview bounds the number of nodes that previews are made for.
const maxPreview = 16

func (d *Dialect) previews(w http.ResponseWriter, r *http.Request) error {
	x, err := query(r.URL.Query())
	if err != nil {
		return err
	}
	x.Sharding, x.Meta, x.Nodes = "", "", 1
	in, err := d.o.Cluster.Snapshot(r.Context())
	if err != nil {
		return err
	}
	if err := d.check(r.Context(), &x, in.State); err != nil {
		return err
	}
	l := x.load(in.State)
	if len(x.Require) > 0 {
		if l.Require, err = view.Of(in).Require(x.Require); err != nil {
			return about("node_ids", err)
		}
	}
	nodes := 0
	for id, n := range in.State.Nodes {
		if in.Live[id] && n.Worker {
			nodes++
		}
	}
	out := []preview{}
	for _, sharding := range []string{shape.Pipeline, shape.Tensor} {
		x.Sharding = sharding
		l.Sharding = x.load(in.State).Sharding
		out = append(out, d.ways(r.Context(), in, x, l, nodes)...)
		if r.Context().Err() != nil {
			return context.Cause(r.Context())
		}
		if nodes > 0 {
			why := shape.JacclError
			out = append(out, preview{Model: x.Model, Sharding: sharding, Meta: shape.Jaccl, Error: &why})
		}
	}
	return answer(w, map[string][]preview{"previews": out})
}

// ways has an entry for each number of nodes that a model can be placed on
// with one sharding, and one for the first reason that it can't.
func (d *Dialect) ways(ctx context.Context, in view.Inputs, x wish, l command.Load, nodes int) []preview {
	var out []preview
	var first error
	seen := map[int]bool{}
	for k := max(1, len(l.Require)); k <= min(nodes, maxPreview) && ctx.Err() == nil; k++ {
		l.MinNodes = k
		p, err := d.o.Commands.Plan(ctx, l, k)
		if err != nil {
			if first == nil {
				first = err
			}
			continue
		}
		if seen[len(p.Shards)] {
			continue
		}
		seen[len(p.Shards)] = true
		tag := shape.InstanceOf(in.State, shape.Planned(d.o.Name(), x.Model, p))
		memory := map[string]int64{}
		for _, s := range p.Shards {
			memory[s.Node] += s.Reserve
		}
		out = append(out, preview{Model: x.Model, Sharding: x.Sharding, Meta: shape.Ring, Instance: &tag, Memory: memory})
	}
	if first != nil {
		why := d.explain(first).Message
		out = append(out, preview{Model: x.Model, Sharding: x.Sharding, Meta: shape.Ring, Error: &why})
	}
	return out
}

// maxWait bounds timeout_seconds.
const maxWait = 300

// await tells by an event when an instance of a model is ready, or that none
// was in time.
func (d *Dialect) await(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	x, err := query(url.Values{"model_id": q["model_id"]})
	if err != nil {
		return err
	}
	limit := 0.0
	if text := q.Get("timeout_seconds"); text != "" {
		limit, err = strconv.ParseFloat(text, 64)
		if err != nil || !(limit >= 0 && limit <= maxWait) {
			return &shape.Error{Field: "timeout_seconds", Message: fmt.Sprintf("timeout_seconds must be from 0 (no limit) to %d, not %s", maxWait, quoted(text))}
		}
	}
	in, err := d.o.Cluster.Snapshot(r.Context())
	if err != nil {
		return err
	}
	if err := d.check(r.Context(), &x, in.State); err != nil {
		return err
	}
	events := httpapi.NewEventStream(w, d.o.KeepAlive)
	defer events.End()
	if err := events.Begin(); err != nil {
		return err
	}
	var timeout <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(time.Duration(limit * float64(time.Second)))
		defer timer.Stop()
		timeout = timer.C
	}
	for {
		changes := d.o.Cluster.Changes()
		in, err := d.o.Cluster.Snapshot(r.Context())
		if err != nil {
			return nil // the stream has begun: its end is all that can be told
		}
		for _, i := range shape.Instances(in.State) {
			if i.Model == x.Model && i.Status() == "ready" {
				b, err := shape.SnakeCase(shape.InstanceOf(in.State, i))
				if err != nil {
					d.o.Log.Warn("an instance can't be written", "instance", i.ID, "error", err)
					return nil
				}
				return events.Send(fmt.Appendf(nil, "data: {\"type\":\"ready\",\"instance\":%s}\n\n", b))
			}
		}
		select {
		case <-changes:
		case <-timeout:
			return events.Send(fmt.Appendf(nil, "data: {\"type\":\"timeout\",\"message\":%s}\n\n", quoted("no instance of "+x.Model+" became ready within "+strings.TrimSuffix(strconv.FormatFloat(limit, 'f', 1, 64), ".0")+" s")))
		case <-d.closed:
			return nil
		case <-r.Context().Done():
			return nil
		}
	}
}
