package manage

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/bytesize"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/ids"
)

// defaultDrain is how long open generations of a model that goes may go on.
const defaultDrain = 30

// Key is the input that names a command.
type Key struct {
	Value string `header:"Idempotency-Key" maxLength:"200" pattern:"^[!-~]*$" patternDescription:"printable ASCII without blanks" doc:"Names the command: the same one again gives the same answer and does nothing twice; with another request it is refused (422)"`
}

// digest is how many letters of a request's hash follow the key in the id of
// its command.
const digest = 12

// id names the command of a request: by its key, and by what it asks for, so
// that a key that is used twice is noticed, whichever node was asked.
func (d *Dialect) id(v *view.View, k Key, operation string, in any) (string, error) {
	key := cmp.Or(k.Value, d.o.Name())
	b, err := json.Marshal(in)
	if err != nil {
		return "", fmt.Errorf("name the command: %w", err)
	}
	sum := sha256.Sum256(append([]byte(key+" "+operation+" "), b...))
	id := key + "~" + hex.EncodeToString(sum[:])[:digest]
	for other := range v.State().Commands {
		if other != id && keyOf(other) == key {
			return "", &failure{&httpapi.Error{
				Status: http.StatusUnprocessableEntity, Type: httpapi.TypeInvalidRequest, Code: api.CodeKeyReused, Param: "Idempotency-Key", NoRetry: true,
				Message: fmt.Sprintf("the key %.200s was used for another request; a new request needs a new key", key),
			}}
		}
	}
	return id, nil
}

// keyOf is the key in the id of a command.
func keyOf(id string) string {
	if n := len(id) - digest - 1; n > 0 && id[n] == '~' {
		return id[:n]
	}
	return id
}

// order registers a route that gives a command. give gets the command's id and
// the view of this moment, in which a command that came before is known.
func order[In, Out any](m mount, o huma.Operation, keyIn func(*In) Key, give func(ctx context.Context, id string, v *view.View, in *In) (Out, error)) {
	huma.Register(m, o, func(ctx context.Context, in *In) (*answer[Out], error) {
		v, err := m.dialect.look(ctx)
		if err != nil {
			return nil, err
		}
		id, err := m.dialect.id(v, keyIn(in), o.OperationID, in)
		if err != nil {
			return nil, err
		}
		out, err := give(ctx, id, v, in)
		m.dialect.audit(ctx, o, keyOf(id), err)
		if err != nil {
			return nil, err
		}
		return &answer[Out]{out}, nil
	})
}

type (
	loadInput struct {
		Key
		Body api.LoadRequest
	}
	swapInput struct {
		Key
		Body api.SwapRequest
	}
	unloadInput struct {
		Key
		Named
		Drain float64 `query:"drain_seconds" default:"30" minimum:"0" maximum:"86400" doc:"How long open requests may go on"`
	}
	promoteInput struct {
		Key
		Body api.PromoteRequest
	}
	drainInput struct {
		Key
		OneNode
	}
)

func (d *Dialect) registerCommands(m mount) {
	if d.o.Commands == nil {
		return
	}
	const conflict, unavailable, unknown = http.StatusConflict, http.StatusServiceUnavailable, http.StatusNotFound
	const invalid, full = http.StatusUnprocessableEntity, http.StatusInsufficientStorage
	order(m, m.operation(http.MethodPost, "/v1/cluster/models/load", "load-model", "models",
		"Load a model; answers when that is decided, the work goes on", http.StatusBadRequest, unknown, conflict, invalid, unavailable, full),
		func(in *loadInput) Key { return in.Key }, d.load)
	order(m, m.operation(http.MethodPost, "/v1/cluster/models/swap", "swap-models", "models",
		"Unload a model and load another, as one decision: if the second can't be placed, nothing changes", http.StatusBadRequest, unknown, conflict, invalid, unavailable, full),
		func(in *swapInput) Key { return in.Key }, d.swap)
	order(m, m.operation(http.MethodDelete, "/v1/cluster/models/{name}", "unload-model", "models",
		"Unload all replicas of a model; answers when that is decided", unknown, conflict, invalid, unavailable),
		func(in *unloadInput) Key { return in.Key }, d.unload)
	order(m, m.operation(http.MethodPost, "/v1/cluster/master", "promote-node", "cluster",
		"Hand the lead over to a node", http.StatusBadRequest, unknown, conflict, invalid, unavailable),
		func(in *promoteInput) Key { return in.Key }, d.promote)
	order(m, m.operation(http.MethodPost, "/v1/cluster/nodes/{id}/drain", "drain-node", "cluster",
		"Move everything off a node and give it nothing new", unknown, conflict, unavailable),
		func(in *drainInput) Key { return in.Key }, d.drain(false))
	order(m, m.operation(http.MethodPost, "/v1/cluster/nodes/{id}/resume", "resume-node", "cluster",
		"Let a drained node take new work", unknown, conflict, unavailable),
		func(in *drainInput) Key { return in.Key }, d.drain(true))
}

// led refuses a command that nobody can order. The node would refuse it too,
// after it had looked for a master.
func led(v *view.View) error {
	if id, why := v.Master(); id == "" {
		return fail(NoMaster(why), "")
	}
	return nil
}

// wish turns what a client asked for into a command.
func wish(v *view.View, model, param string, o api.LoadOptions) (command.Load, error) {
	id, err := v.Model(model)
	if err != nil {
		return command.Load{}, fail(err, param)
	}
	require, err := v.Require(o.NodeIDs)
	if err != nil {
		return command.Load{}, fail(err, "node_ids")
	}
	return command.Load{
		Model: id, Context: o.ContextLength, Slots: o.Slots, MinNodes: o.MinNodes, Require: require,
		Sharding: placement.Sharding(cmp.Or(o.Sharding, api.ShardingAuto)),
	}, nil
}

func (d *Dialect) load(ctx context.Context, id string, v *view.View, in *loadInput) (out api.LoadAnswer, err error) {
	l, err := wish(v, in.Body.ModelID, "model_id", in.Body.LoadOptions)
	if err != nil {
		return out, err
	}
	l.Replicas = in.Body.Replicas
	if err := led(v); err != nil {
		return out, err
	}
	done, err := d.o.Commands.Load(ctx, id, l, in.Body.DryRun)
	if err != nil {
		return out, fail(err, "model_id")
	}
	p := placed(v, done)
	out = api.LoadAnswer{
		CommandID: keyOf(id), ModelID: l.Model, InstanceID: p.instance, Placement: p.roles, EstimatedMemoryGB: bytesize.ToGB(p.memory),
		PredictedTokensPerSecond: p.speed, Explanation: p.explanation, Alternatives: p.alternatives,
		ContextLength: done.Context, Slots: done.Slots, DryRun: in.Body.DryRun, Copies: done.Copies,
	}
	verb := "loading"
	if in.Body.DryRun {
		verb, out.InstanceID, out.Copies = "would load", "", 0
	}
	out.Message = verb + " " + l.Model + p.where(v)
	if done.Warning != "" {
		out.Message += "; " + done.Warning
	}
	return out, nil
}

func (d *Dialect) swap(ctx context.Context, id string, v *view.View, in *swapInput) (out api.SwapAnswer, err error) {
	drain := float64(defaultDrain)
	if in.Body.DrainSeconds != nil {
		drain = *in.Body.DrainSeconds
	}
	s := Swap{Drain: seconds(drain)}
	// A swap that came before has unloaded it already.
	find := v.Loaded
	if _, again := v.State().Commands[id]; again {
		find = v.Model
	}
	s.Unload, err = find(in.Body.UnloadModelID)
	var no *command.Refusal
	if errors.As(err, &no) && no.Code == command.NotLoaded {
		s.Unload, err = v.Model(in.Body.UnloadModelID) // the master may know better
	}
	if err != nil {
		return out, fail(err, "unload_model_id")
	}
	if s.Load, err = wish(v, in.Body.LoadModelID, "load_model_id", in.Body.LoadOptions); err != nil {
		return out, err
	}
	if s.Unload == s.Load.Model {
		return out, fail(&command.Refusal{Code: command.Invalid, Message: fmt.Sprintf(
			"unload_model_id and load_model_id both mean %s; to load it anew with other settings, unload it first", s.Unload)}, "load_model_id")
	}
	if err := led(v); err != nil {
		return out, err
	}
	done, err := d.o.Commands.Swap(ctx, id, s, in.Body.DryRun)
	if errors.As(err, &no) && no.Code == command.NotLoaded {
		return out, fail(err, "unload_model_id")
	}
	if err != nil {
		return out, fail(err, "load_model_id")
	}
	p := placed(v, done.Loaded)
	out = api.SwapAnswer{
		UnloadCommandID: keyOf(cmp.Or(done.UnloadID, id)), LoadCommandID: keyOf(cmp.Or(done.LoadID, id)), UnloadedModel: s.Unload, LoadedModel: s.Load.Model,
		FreedMemoryGB: bytesize.ToGB(done.Freed), EstimatedLoadMemoryGB: bytesize.ToGB(p.memory), InstanceID: p.instance, Placement: p.roles,
		PredictedTokensPerSecond: p.speed, Explanation: p.explanation, DryRun: in.Body.DryRun, Copies: done.Copies,
	}
	verb := "swapping"
	if in.Body.DryRun {
		verb, out.InstanceID, out.Copies = "would swap", "", 0
	}
	out.Message = fmt.Sprintf("%s %s for %s%s", verb, s.Unload, s.Load.Model, p.where(v))
	if done.Warning != "" {
		out.Message += "; " + done.Warning
	}
	return out, nil
}

func (d *Dialect) unload(ctx context.Context, id string, v *view.View, in *unloadInput) (out api.UnloadAnswer, err error) {
	find := v.Loaded
	if _, again := v.State().Commands[id]; again {
		find = v.Model
	}
	model, err := find(in.Name)
	var no *command.Refusal
	if errors.As(err, &no) && no.Code == command.NotLoaded {
		// This node may lag behind what another one was just answered: the master
		// decides.
		model, err = v.Model(in.Name)
	}
	if err != nil {
		return out, fail(err, "name")
	}
	if err := led(v); err != nil {
		return out, err
	}
	done, err := d.o.Commands.Unload(ctx, id, model, seconds(in.Drain))
	if err != nil {
		return out, fail(err, "name")
	}
	out = api.UnloadAnswer{
		Message: "unloading " + model, CommandID: keyOf(id), ModelID: model, InstanceIDs: orEmpty(done.Instances),
		FreedMemoryGB: bytesize.ToGB(done.Freed), Copies: done.Copies,
	}
	if len(done.Instances) > 0 {
		out.InstanceID = done.Instances[0]
	}
	if n := len(done.Instances); n > 1 {
		out.Message += fmt.Sprintf(", %d replicas", n)
	}
	if done.Restored != "" {
		out.Message += "; the swap is given up, and " + done.Restored + " comes back"
	}
	return out, nil
}

func (d *Dialect) promote(ctx context.Context, id string, v *view.View, in *promoteInput) (out api.PromoteAnswer, err error) {
	n, err := v.Node(in.Body.NodeID)
	if err != nil {
		return out, fail(err, "node_id")
	}
	before, _ := v.Master()
	out = api.PromoteAnswer{CommandID: keyOf(id), MasterNodeID: n.NodeID, PreviousID: string(before)}
	switch {
	case n.IsMaster:
		out.Message = n.FriendlyName + " is the master already"
		return out, nil
	case n.Status != api.NodeOnline:
		return out, fail(&command.Refusal{Code: command.Conflict, Message: fmt.Sprintf("node %s is %s; promote one that is online", n.FriendlyName, n.Status)}, "node_id")
	case !n.IsCandidate:
		return out, fail(&command.Refusal{Code: command.Conflict, Message: fmt.Sprintf(
			"node %s can't be master: it runs with --no-master or --no-api; start it without, or promote another", n.FriendlyName)}, "node_id")
	}
	if err := d.o.Commands.Promote(ctx, id, ids.Node(n.NodeID)); err != nil {
		return out, fail(err, "node_id")
	}
	out.Message = n.FriendlyName + " is the master now"
	return out, nil
}

func (d *Dialect) drain(resume bool) func(context.Context, string, *view.View, *drainInput) (api.DrainAnswer, error) {
	return func(ctx context.Context, id string, v *view.View, in *drainInput) (out api.DrainAnswer, err error) {
		n, err := v.Node(in.ID)
		if err != nil {
			return out, fail(err, "id")
		}
		if err := led(v); err != nil {
			return out, err
		}
		out = api.DrainAnswer{CommandID: keyOf(id), NodeID: n.NodeID, Draining: !resume, Moving: []string{}}
		if out.Copies, err = d.o.Commands.Drain(ctx, id, ids.Node(n.NodeID), resume); err != nil {
			return out, fail(err, "id")
		}
		if resume {
			out.Message = n.FriendlyName + " takes new work"
			return out, nil
		}
		for _, m := range v.Models().Loaded {
			if slices.Contains(m.Nodes, n.NodeID) && m.Status != api.StatusStopping && m.Status != api.StatusFailed && !slices.Contains(out.Moving, m.ModelName) {
				out.Moving = append(out.Moving, m.ModelName)
			}
		}
		out.Message = n.FriendlyName + " is being drained"
		switch others := takers(v, n.NodeID); {
		case len(out.Moving) > 0 && others == 0:
			out.Message += "; " + strings.Join(out.Moving, ", ") + " stay where they are until another node is online that runs models and is not drained"
		case len(out.Moving) > 0:
			out.Message += "; moving " + strings.Join(out.Moving, ", ")
		}
		return out, nil
	}
}

// takers counts the nodes but one that may take new work.
func takers(v *view.View, but string) int {
	n := 0
	for _, x := range v.Nodes().Nodes {
		if x.NodeID != but && x.Status == api.NodeOnline && !x.Draining && slices.Contains(x.Roles, "worker") {
			n++
		}
	}
	return n
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// place is what answers tell of where a model goes.
type place struct {
	instance     string
	roles        map[string]string
	memory       int64
	speed        float64
	explanation  string
	alternatives []api.Alternative
}

// placed describes the plans of a command, or if it comes again, its
// instances as they are now.
func placed(v *view.View, l Loaded) place {
	p := place{roles: map[string]string{}, alternatives: []api.Alternative{}}
	if len(l.Instances) > 0 {
		p.instance = l.Instances[0]
	}
	plans := l.Plans
	if len(plans) == 0 {
		for _, id := range l.Instances {
			if i, ok := v.State().Instances[id]; ok {
				plans = append(plans, planOf(i))
			}
		}
	}
	for k, plan := range plans {
		for node, role := range view.Placement(plan) {
			if len(plans) > 1 {
				role = fmt.Sprintf("replica %d: %s", k+1, role)
			}
			if have, ok := p.roles[node]; ok {
				role = have + "; " + role
			}
			p.roles[node] = role
		}
		for _, s := range plan.Shards {
			p.memory += s.Reserve
		}
		if k > 0 {
			continue
		}
		p.speed, p.explanation = tenth(plan.Predicted.Decode), v.Named(plan.Explanation)
		for _, a := range plan.Alternatives {
			p.alternatives = append(p.alternatives, api.Alternative{
				Way: string(a.Way), Nodes: orEmpty(a.Nodes), PredictedTokensPerSecond: tenth(a.Predicted.Decode), Why: v.Named(a.Why),
			})
		}
	}
	return p
}

// planOf is as much of an instance's plan as the state keeps.
func planOf(i cluster.Instance) placement.Plan {
	p := placement.Plan{Way: i.Way, Head: i.Head, Predicted: i.Predicted}
	for _, s := range i.Shards {
		p.Shards = append(p.Shards, placement.Shard{Node: string(s.Node), Device: s.Device, Spec: s.Spec, Reserve: s.Reserve})
	}
	return p
}

// where names the nodes, for a sentence.
func (p place) where(v *view.View) string {
	var names []string
	for _, n := range v.Nodes().Nodes {
		if _, ok := p.roles[n.NodeID]; ok {
			names = append(names, n.FriendlyName)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return " on " + strings.Join(names, ", ")
}

// tenth rounds to one decimal.
func tenth(x float64) float64 { return float64(int64(x*10+0.5)) / 10 }
