package raw

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/httpapi/raw/shape"
	"github.com/skein-run/skein/internal/ids"
)

// Models are the models and the lists of nodes that somebody put them on.
type Models interface {
	// Model gives one as GET /models lists it. Errors are *generation.Error.
	Model(ctx context.Context, name string) (json.RawMessage, error)
	// Added lists the models that somebody registered, with the nodes whose lists
	// have them. silent counts the nodes that did not answer.
	Added(ctx context.Context) (on map[string][]ids.Node, silent int)
	// Unlist takes a model off the lists of all nodes where somebody registered
	// it, and gives these. Its files stay where they are.
	Unlist(ctx context.Context, model string) (from []ids.Node, silent int, err error)
}

// addModel answers with a model that the cluster has. What it has not can't be
// fetched from anywhere yet.
func (d *Dialect) addModel(w http.ResponseWriter, r *http.Request) error {
	o, err := body(w, r)
	if err != nil {
		return err
	}
	var name string
	if err := o.Need("", "model_id", "a string", &name); err != nil {
		return err
	}
	m, err := d.o.Models.Model(r.Context(), name)
	var no *generation.Error
	gone := errors.As(err, &no) && no.Kind == generation.KindModelNotFound
	if err == nil {
		in, err := d.o.Cluster.Snapshot(r.Context())
		if err != nil {
			return err
		}
		if full, err := command.Resolve(in.State, strings.TrimSuffix(name, ".gguf")); err == nil {
			gone = !held(in, full) // else a file of this node, which the others are about to hear of
		}
	}
	if gone {
		return &httpapi.Error{Status: http.StatusNotFound, Type: httpapi.TypeInvalidRequest, Code: "model_not_found", Param: "model_id", Message: fmt.Sprintf(
			"no node has the files of %s, and models are not fetched from a hub yet: put the file where a node looks for models, or name it there with 'skein models add FILE'", quoted(name))}
	}
	if err != nil {
		return err
	}
	return answer(w, m)
}

// held tells whether the files of a model lie on a node that is there.
func held(in view.Inputs, model string) bool {
	return slices.ContainsFunc(in.State.Models[model].Holders, func(id ids.Node) bool { return in.Live[id] })
}

// found is a model as a hub's search lists it. What only a hub knows is 0 or
// empty.
type found struct {
	ID           string   `json:"id"`
	Author       string   `json:"author"`
	Downloads    int      `json:"downloads"`
	Likes        int      `json:"likes"`
	LastModified string   `json:"last_modified"`
	Tags         []string `json:"tags"`
}

// Bounds of the parameter limit.
const (
	defaultFound = 20
	maxFound     = 1000
)

// searchModels looks through what the cluster has: models in whose name, or in
// what is read from it, all words of the query are.
func (d *Dialect) searchModels(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	limit := defaultFound
	if text := q.Get("limit"); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > maxFound {
			return &shape.Error{Field: "limit", Message: fmt.Sprintf("limit must be a whole number from 1 to %d, not %s", maxFound, quoted(text))}
		}
	}
	in, err := d.o.Cluster.Snapshot(r.Context())
	if err != nil {
		return err
	}
	words := strings.Fields(strings.ToLower(q.Get("query")))
	out := []found{}
	for _, name := range slices.Sorted(maps.Keys(in.State.Models)) {
		c := shape.CardOf(cluster.Model{Name: name})
		tags := slices.DeleteFunc([]string{"gguf", c.Family, c.Quantization}, func(s string) bool { return s == "" })
		text := strings.ToLower(name + " " + strings.Join(tags, " "))
		if !held(in, name) || slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(text, word) }) {
			continue
		}
		author, _, ok := strings.Cut(name, "/")
		if !ok {
			author = ""
		}
		if out = append(out, found{ID: name, Author: author, Tags: tags}); len(out) == limit {
			break
		}
	}
	return answer(w, out)
}

// customModels lists what deleteCustom may be asked for. exo has no such route.
func (d *Dialect) customModels(w http.ResponseWriter, r *http.Request) error {
	type custom struct {
		Model string     `json:"model_id"`
		Nodes []ids.Node `json:"node_ids"`
	}
	on, _ := d.o.Models.Added(r.Context())
	out := []custom{}
	for _, name := range slices.Sorted(maps.Keys(on)) {
		out = append(out, custom{name, on[name]})
	}
	return answer(w, map[string][]custom{"models": out})
}

// deleteCustom takes a model off the lists of the nodes where somebody put it.
func (d *Dialect) deleteCustom(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("model")
	in, err := d.o.Cluster.Snapshot(r.Context())
	if err != nil {
		return err
	}
	if full, err := d.model(r.Context(), in.State, name); err == nil {
		name = full // else a list may still have it, of a file that is gone
	}
	from, silent, err := d.o.Models.Unlist(r.Context(), name)
	if err != nil {
		return err
	}
	if len(from) == 0 {
		message := fmt.Sprintf("nobody has put %s on the list of a node (GET /models/custom lists what somebody has); what lies in a models folder is a model as long as it lies there, and what was fetched is deleted with DELETE /download/NODE/MODEL", quoted(name))
		if silent > 0 {
			message += fmt.Sprintf("; %d nodes did not say whether they have it", silent)
		}
		return notFound(message)
	}
	return answer(w, map[string]string{"message": fmt.Sprintf("off the list of %d nodes; the files stay where they are", len(from)), "model_id": name})
}
