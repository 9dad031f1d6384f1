package agent

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
)

// defaultWait is how long a load is waited for if the call does not say: below
// the minute after which many clients give a call up.
const defaultWait = 30

// PlanInput is a load without what only concerns waiting.
type PlanInput struct {
	ModelInput
	api.LoadOptions
	Replicas int `json:"replicas,omitempty" minimum:"0" maximum:"64" doc:"How many are wanted in total; 0: 1" example:"1"`
}

type loadInput struct {
	PlanInput
	WaitSeconds *float64 `json:"wait_seconds,omitempty" minimum:"0" maximum:"3600" default:"30" doc:"How long to wait until the model is ready, in seconds; the answer comes earlier if it is ready or fails earlier. 0: do not wait. A client may give calls up after a minute or so: then keep it below and use model_status"`
}

// SwapPlanInput is the same of a swap.
type SwapPlanInput struct {
	UnloadModelID string `json:"unload_model_id" minLength:"1" maxLength:"1000" doc:"The loaded model to unload; full id or the last part of it" example:"Qwen3-30B-GGUF"`
	LoadModelID   string `json:"load_model_id" minLength:"1" maxLength:"1000" doc:"The model to load instead" example:"gpt-oss-20b-GGUF"`
	api.LoadOptions
}

type swapInput struct {
	SwapPlanInput
	DrainSeconds *float64 `json:"drain_seconds,omitempty" minimum:"0" maximum:"86400" default:"30" doc:"How long open requests of the old model may go on, in seconds"`
	WaitSeconds  *float64 `json:"wait_seconds,omitempty" minimum:"0" maximum:"3600" default:"30" doc:"How long to wait until the new model is ready, in seconds; 0: do not wait"`
}

type unloadInput struct {
	ModelInput
	DrainSeconds *float64 `json:"drain_seconds,omitempty" minimum:"0" maximum:"86400" default:"30" doc:"How long open requests may go on, in seconds"`
}

// Outcome is what became of a model after a wait.
type Outcome struct {
	Status   string `json:"status" doc:"Of the model when the call ended: loading, downloading, ready or running; unknown: it was not waited for" example:"ready"`
	Ready    bool   `json:"ready" doc:"True: chat may use it now"`
	Progress string `json:"progress" doc:"How far it is" example:"loading layer 12/48 (25%)"`
	NextStep string `json:"next_step" doc:"What to do next"`
}

type loaded struct {
	api.LoadAnswer
	Outcome
}

type swapped struct {
	api.SwapAnswer
	Outcome
}

// addChanging registers the tools that change what is loaded, and their dry
// runs.
func (s *server) addChanging() {
	const options = "min_nodes spreads the model over at least so many nodes; preferred_sharding, node_ids, context_length (tokens of each request) and slots (requests at once) are left to the cluster unless given. "
	add(s, tool{"plan_load", "Plan a load", reads,
		"Say whether a model can be loaded, on which nodes, with how many GB of memory and about how many tokens per second, and why; nothing is changed. " + options +
			"An error says what is in the way, for instance how many GB are needed and free."},
		func(ctx context.Context, c call, in PlanInput) (api.LoadAnswer, error) {
			return c.Load(ctx, api.LoadRequest{ModelID: in.ModelID, LoadOptions: in.LoadOptions, Replicas: in.Replicas, DryRun: true})
		})
	add(s, tool{"load_model", "Load a model", adds,
		"Load a model into memory, where the cluster decides, and wait until it is ready. " + options +
			"Needs a master and enough free memory (plan_load tells beforehand). " +
			"If \"ready\" is false in the answer the work goes on in the background: ask model_status. The model stays loaded, also over restarts, until unload_model. " +
			"A model that is loaded already is an error, unless replicas asks for more of it."}, s.load)
	add(s, tool{"unload_model", "Unload a model", destroys,
		"Unload a model, all its replicas, and free its memory. Open requests may go on for drain_seconds. Whoever uses the model is cut off after that, and the model must be loaded again to be used."},
		func(ctx context.Context, c call, in unloadInput) (api.UnloadAnswer, error) {
			drain := client.DefaultDrain
			if in.DrainSeconds != nil {
				drain = seconds(*in.DrainSeconds)
			}
			return c.Unload(ctx, in.ModelID, drain)
		})
	add(s, tool{"plan_swap", "Plan a swap", reads,
		"Say whether swap_models could replace one loaded model by another in the memory that the old one frees, and where; nothing is changed."},
		func(ctx context.Context, c call, in SwapPlanInput) (api.SwapAnswer, error) {
			return c.Swap(ctx, api.SwapRequest{UnloadModelID: in.UnloadModelID, LoadModelID: in.LoadModelID, LoadOptions: in.LoadOptions, DryRun: true})
		})
	add(s, tool{"swap_models", "Swap models", destroys,
		"Replace a loaded model by another as one decision: the new one is placed against the memory that the old one frees before anything is unloaded, so if it can't be placed, nothing changes and the error says why. " +
			"Open requests of the old model may go on for drain_seconds. If the new model then fails to load, the cluster brings the old one back. plan_swap tells beforehand."}, s.swap)
}

func (s *server) load(ctx context.Context, c call, in loadInput) (out loaded, err error) {
	req := api.LoadRequest{ModelID: in.ModelID, LoadOptions: in.LoadOptions, Replicas: in.Replicas}
	if out.LoadAnswer, err = c.Load(ctx, req); err != nil {
		return out, err
	}
	out.Outcome, err = s.wait(ctx, c, out.ModelID, out.InstanceID, in.WaitSeconds)
	return out, err
}

func (s *server) swap(ctx context.Context, c call, in swapInput) (out swapped, err error) {
	req := api.SwapRequest{UnloadModelID: in.UnloadModelID, LoadModelID: in.LoadModelID, LoadOptions: in.LoadOptions, DrainSeconds: in.DrainSeconds}
	if out.SwapAnswer, err = c.Swap(ctx, req); err != nil {
		return out, err
	}
	out.Outcome, err = s.wait(ctx, c, out.LoadedModel, out.InstanceID, in.WaitSeconds)
	return out, err
}

var errWaited = errors.New("waited long enough")

// wait follows a model until it is ready, and tells the client how far it is.
// That time is up is no error: the work goes on.
func (s *server) wait(ctx context.Context, c call, model, instance string, wanted *float64) (Outcome, error) {
	limit := float64(defaultWait)
	if wanted != nil {
		limit = *wanted
	}
	later := fmt.Sprintf("It goes on in the background: call model_status with model_id %q until ready is true or status is failed.", model)
	if limit == 0 {
		return Outcome{Status: "unknown", NextStep: later}, nil
	}
	waiting, cancel := context.WithTimeoutCause(ctx, seconds(limit), errWaited)
	defer cancel()
	tell := report(c.req, 100)
	last := Outcome{Status: api.StatusLoading, NextStep: later}
	m, err := c.Wait(waiting, client.WaitOptions{Model: model, Instance: instance, Lost: s.lost, Progress: func(m api.Model) error {
		last.Status, last.Progress = m.Status, m.Progress
		return tell.tell(waiting, percent(m), sentence(m))
	}})
	switch {
	case err == nil:
		return Outcome{Status: m.Status, Ready: true, Progress: m.Progress, NextStep: fmt.Sprintf("It can be used: call chat with model_id %q.", model)}, nil
	case ctx.Err() == nil && errors.Is(context.Cause(waiting), errWaited):
		last.NextStep = fmt.Sprintf("Not ready after %v. %s", seconds(limit), later)
		return last, nil
	}
	return Outcome{}, err
}

// percent is how far a load is as a whole: fetching is taken for the first
// half, loading for the second.
func percent(m api.Model) float64 {
	p := math.Min(100, math.Max(0, m.ProgressPercent)) / 2
	switch {
	case m.Ready:
		return 100
	case m.Status == api.StatusLoading:
		return math.Min(99, 50+p)
	case m.Status == api.StatusDownloading:
		return p
	}
	return 0
}
