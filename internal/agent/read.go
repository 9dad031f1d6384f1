package agent

import (
	"context"
	"slices"
	"strings"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
)

// nothing is the input of tools without arguments.
type nothing struct{}

type nodeInput struct {
	Node string `json:"node" minLength:"1" maxLength:"200" doc:"Node id, a prefix that only one node has, or its friendly name; case does not matter" example:"studio"`
}

// ModelInput names a model.
type ModelInput struct {
	ModelID string `json:"model_id" minLength:"1" maxLength:"1000" doc:"Full id of the model or the last part of it; case does not matter" example:"Qwen3-30B-GGUF"`
}

// models answers list_models.
type models struct {
	Loaded      []api.Model    `json:"loaded" nullable:"false" doc:"Models that are loaded, being loaded, or failed to load; one entry for each replica"`
	Downloading []api.Download `json:"downloading" nullable:"false" doc:"Model files on their way to a node"`
	Library     []libraryModel `json:"library" nullable:"false" doc:"All models that can be loaded: their files are on some node of the cluster"`
}

// libraryModel is a model that can be loaded.
type libraryModel struct {
	ModelID       string  `json:"model_id" doc:"Use this as model_id" example:"Qwen3-30B-GGUF"`
	Loaded        bool    `json:"loaded"`
	SizeGB        float64 `json:"size_gb" doc:"Of its files; 0: they are on other nodes than the one that answers" example:"18.6"`
	Architecture  string  `json:"architecture" doc:"Empty when not known" example:"qwen3moe"`
	Quantization  string  `json:"quantization" doc:"Empty when not known" example:"Q4_K_M"`
	Parameters    uint64  `json:"parameters" doc:"Number of weights; 0 when not known"`
	ContextLength int     `json:"context_length" doc:"Tokens: of each slot when loaded, otherwise what it was trained on; 0 when not known" example:"32768"`
}

// addReading registers the tools that change nothing.
func (s *server) addReading() {
	add(s, tool{"cluster_overview", "Cluster overview", reads,
		"All of the cluster at once: nodes with their memory, loaded models, requests being worked on, downloads, and who is master. " +
			"Use it first to see how things stand, and after a change to see its effect. For one matter list_nodes, list_models and model_status answer shorter."},
		func(ctx context.Context, c call, _ nothing) (api.Overview, error) { return c.Overview(ctx) })
	add(s, tool{"cluster_health", "Cluster health", reads,
		"Whether the cluster works: it is healthy when nodes are online and one of them is master. Without a master loads and unloads are refused, but loaded models answer. \"problem\" says what to do."},
		func(ctx context.Context, c call, _ nothing) (api.Health, error) { return c.Health(ctx) })
	add(s, tool{"list_nodes", "Nodes", reads,
		"The machines of the cluster: memory in GB (total, available, used), disk, load, temperature, roles, accelerators and loaded models of each. " +
			"Nodes that were lost in the last 10 minutes are listed with status \"stale\"."},
		func(ctx context.Context, c call, _ nothing) (api.NodeList, error) { return c.Nodes(ctx) })
	add(s, tool{"get_node", "One node", reads, "One machine of the cluster, with the same fields as in list_nodes."},
		func(ctx context.Context, c call, in nodeInput) (api.Node, error) { return c.Node(ctx, in.Node) })
	add(s, tool{"list_models", "Models", reads,
		"What is loaded (with status, nodes, memory in GB, tokens per second), what is being fetched, and the library: all models that load_model and chat can name."},
		func(ctx context.Context, c call, _ nothing) (models, error) { return listModels(ctx, c.Client) })
	add(s, tool{"model_status", "Status of a model", reads,
		"How far one model is: not_loaded, downloading, loading, ready, running, stopping or failed, with progress. " +
			"Use it after load_model until \"ready\" is true; every 2 to 5 seconds is often enough. It is no error to ask for a model that is not loaded."},
		func(ctx context.Context, c call, in ModelInput) (api.ModelStatus, error) {
			return c.ModelStatus(ctx, in.ModelID)
		})
}

// listModels puts what the cluster knows of its models together.
func listModels(ctx context.Context, c *client.Client) (models, error) {
	now, err := c.ClusterModels(ctx)
	if err != nil {
		return models{}, err
	}
	known, err := c.Models(ctx)
	if err != nil {
		return models{}, err
	}
	files, err := c.Library().List(ctx)
	if err != nil {
		return models{}, err
	}
	out := models{Loaded: now.Loaded, Downloading: now.Downloading, Library: []libraryModel{}}
	for _, k := range known {
		m := libraryModel{ModelID: k.ID, Loaded: k.Loaded}
		if i := slices.IndexFunc(files, func(f api.LibraryEntry) bool { return f.Name == k.ID }); i >= 0 {
			f := files[i]
			m.SizeGB, m.Architecture, m.Quantization, m.Parameters, m.ContextLength = f.SizeGB, f.Architecture, f.Quantization, f.Parameters, f.ContextLength
		}
		for _, l := range now.Loaded {
			if strings.EqualFold(l.ModelID, k.ID) {
				m.Loaded = m.Loaded || l.Ready
			}
		}
		if k.ContextLength != nil {
			m.ContextLength = *k.ContextLength
		}
		out.Library = append(out.Library, m)
	}
	return out, nil
}
