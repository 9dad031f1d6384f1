package manage

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster/view"
)

// look makes the view of this moment.
func (d *Dialect) look(ctx context.Context) (*view.View, error) {
	in, err := d.o.Cluster.Snapshot(ctx)
	if err != nil {
		return nil, fail(err, "")
	}
	return view.Of(in), nil
}

// show registers a route that tells a part of the view.
func show[In, Out any](m mount, o huma.Operation, tell func(v *view.View, in *In) (Out, error)) {
	huma.Register(m, o, func(ctx context.Context, in *In) (*answer[Out], error) {
		v, err := m.dialect.look(ctx)
		if err != nil {
			return nil, err
		}
		out, err := tell(v, in)
		if err != nil {
			return nil, err
		}
		return &answer[Out]{out}, nil
	})
}

// nothing is the input of routes without parameters.
type nothing struct{}

// OneNode is the input of routes about one node.
type OneNode struct {
	ID string `path:"id" minLength:"1" doc:"Node id, a prefix that only one node has, or its friendly name" example:"studio"`
}

func (d *Dialect) registerCluster(m mount) {
	const tag = "cluster"
	show(m, m.operation(http.MethodGet, "/v1/cluster", "get-cluster", tag, "All of the cluster: nodes, models, tasks, downloads"),
		func(v *view.View, _ *nothing) (api.Overview, error) { return v.Overview(), nil })
	show(m, m.operation(http.MethodGet, "/v1/cluster/health", "get-health", tag, "Whether there are nodes and a master; 200 also if not"),
		func(v *view.View, _ *nothing) (api.Health, error) { return v.Health() })
	show(m, m.operation(http.MethodGet, "/v1/cluster/nodes", "list-nodes", tag, "The machines"),
		func(v *view.View, _ *nothing) (api.NodeList, error) { return v.Nodes(), nil })
	show(m, m.operation(http.MethodGet, "/v1/cluster/nodes/{id}", "get-node", tag, "One machine", http.StatusNotFound, http.StatusConflict),
		func(v *view.View, in *OneNode) (api.Node, error) {
			n, err := v.Node(in.ID)
			if err != nil {
				return n, fail(err, "id")
			}
			return n, nil
		})
	show(m, m.operation(http.MethodGet, "/v1/cluster/models", "list-models", "models", "What is loaded and what is being fetched"),
		func(v *view.View, _ *nothing) (api.ClusterModels, error) { return v.Models(), nil })
	show(m, m.operation(http.MethodGet, "/v1/cluster/models/{name}/status", "get-model-status", "models",
		"How far a model is; 200 also when it is not loaded, or there is none of that name", http.StatusConflict),
		func(v *view.View, in *Named) (api.ModelStatus, error) {
			s, err := v.Status(in.Name)
			if err != nil {
				return s, fail(err, "name")
			}
			return s, nil
		})
	huma.Register(m, m.operation(http.MethodGet, "/node_id", "get-node-id", tag, "The id of the node that answers, a bare string"),
		func(context.Context, *struct{}) (*answer[string], error) { return &answer[string]{d.o.Node}, nil })
}
