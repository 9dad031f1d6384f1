package manage

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/skein-run/skein/api"
)

// answer carries a body as the framework wants it.
type answer[T any] struct{ Body T }

// named is the input of routes about one model.
type named struct {
	Name string `path:"name" doc:"Model name without regard to case; may contain slashes"`
}

type describeOperation func(method, path, id, tag, summary string) huma.Operation

func (d *Dialect) registerModels(h huma.API, operation describeOperation) {
	huma.Register(h, operation(http.MethodGet, "/v1/cluster/models", "list-models", "models", "What is loaded and what is being fetched"),
		func(ctx context.Context, _ *struct{}) (*answer[api.ClusterModels], error) {
			loaded, err := d.o.Models.Loaded(ctx)
			if err != nil {
				return nil, fail(err)
			}
			downloading, err := d.o.Models.Downloading(ctx)
			if err != nil {
				return nil, fail(err)
			}
			return &answer[api.ClusterModels]{api.ClusterModels{
				Loaded: completed(loaded), Downloading: orEmpty(downloading), Timestamp: d.seconds(),
			}}, nil
		})
	if d.o.Commands == nil {
		return
	}
	huma.Register(h, operation(http.MethodPost, "/v1/cluster/models/load", "load-model", "models", "Load a model; answers at once"),
		func(ctx context.Context, in *struct{ Body api.LoadRequest }) (*answer[api.LoadAnswer], error) {
			out, err := d.o.Commands.Load(ctx, in.Body)
			if err != nil {
				return nil, fail(err)
			}
			return &answer[api.LoadAnswer]{out}, nil
		})
	huma.Register(h, operation(http.MethodDelete, "/v1/cluster/models/{name}", "unload-model", "models", "Unload a model; answers at once"),
		func(ctx context.Context, in *named) (*answer[api.UnloadAnswer], error) {
			out, err := d.o.Commands.Unload(ctx, in.Name)
			if err != nil {
				return nil, fail(err)
			}
			return &answer[api.UnloadAnswer]{out}, nil
		})
}

// completed makes sure of what scripts rely on: lists and maps that are never
// null, and ready in step with the status.
func completed(models []api.Model) []api.Model {
	out := make([]api.Model, len(models))
	for i, m := range models {
		m.Nodes, m.NodeNames = orEmpty(m.Nodes), orEmpty(m.NodeNames)
		if m.RunnerStatuses == nil {
			m.RunnerStatuses = map[string]string{}
		}
		m.Ready = m.Status == api.StatusReady || m.Status == api.StatusRunning
		m.InstanceType = api.InstanceType
		out[i] = m
	}
	return out
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
