package manage

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/ids"
)

func (d *Dialect) registerLibrary(m mount) {
	const tag = "library"
	huma.Register(m, m.operation(http.MethodGet, "/v1/cluster/library", "list-library", tag, "Model files of the cluster, and who has them"),
		func(ctx context.Context, _ *struct{}) (*answer[api.LibraryList], error) {
			entries, err := d.o.Library.List(ctx)
			if err != nil {
				return nil, fail(err, "name")
			}
			v, err := d.look(ctx)
			if err != nil {
				return nil, fail(err, "name")
			}
			return &answer[api.LibraryList]{api.LibraryList{Models: v.Library(ids.Node(d.o.Node), entries), Timestamp: d.seconds()}}, nil
		})
	huma.Register(m, m.operation(http.MethodPost, "/v1/cluster/library", "add-to-library", tag, "List files without copying them; answers when they are listed", http.StatusInsufficientStorage),
		func(ctx context.Context, in *struct{ Body api.AddRequest }) (*answer[api.AddAnswer], error) {
			entries, err := d.o.Library.Add(ctx, in.Body.Paths)
			d.audit(ctx, huma.Operation{OperationID: "add-to-library"}, "", err)
			if err != nil {
				return nil, fail(err, "name")
			}
			return &answer[api.AddAnswer]{api.AddAnswer{Models: orEmpty(entries)}}, nil
		})
	huma.Register(m, m.operation(http.MethodGet, "/v1/cluster/library/{name}", "show-library-model", tag, "Metadata, chat template and memory of a model", http.StatusBadRequest, http.StatusNotFound, http.StatusConflict),
		func(ctx context.Context, in *showInput) (*answer[api.LibraryModel], error) {
			shown, err := d.o.Library.Show(ctx, in.Name, in.ContextLength, in.Slots)
			if err != nil {
				return nil, fail(d.elsewhere(ctx, in.Name, err), "name")
			}
			shown.Metadata, shown.Paths = orEmpty(shown.Metadata), orEmpty(shown.Paths)
			return &answer[api.LibraryModel]{shown}, nil
		})
	huma.Register(m, m.operation(http.MethodDelete, "/v1/cluster/library/{name}", "remove-from-library", tag, "Take a model off the list; its files stay", http.StatusNotFound, http.StatusConflict, http.StatusInsufficientStorage),
		func(ctx context.Context, in *Named) (*answer[api.RemoveAnswer], error) {
			removed, err := d.o.Library.Remove(ctx, in.Name)
			d.audit(ctx, huma.Operation{OperationID: "remove-from-library"}, "", err)
			if err != nil {
				return nil, fail(d.elsewhere(ctx, in.Name, err), "name")
			}
			removed.Paths = orEmpty(removed.Paths)
			return &answer[api.RemoveAnswer]{api.RemoveAnswer{
				Message: fmt.Sprintf("%s is off the list; its files stay where they are", removed.Name), Model: removed,
			}}, nil
		})
}

// elsewhere says of a model that this node has no files of who has them. Any
// other error stays as it is.
func (d *Dialect) elsewhere(ctx context.Context, name string, err error) error {
	var e *api.Error
	if !errors.As(err, &e) || e.ErrorCode() != api.CodeModelNotFound {
		return err
	}
	v, failed := d.look(ctx)
	if failed != nil {
		return err
	}
	id, unknown := v.Model(name)
	if unknown != nil {
		return err
	}
	if nodes := v.Elsewhere(ids.Node(d.o.Node), id); len(nodes) > 0 {
		return api.NewError(http.StatusNotFound, api.CodeModelNotFound, "name",
			fmt.Sprintf("%s is not in the library of this node, but on %s: ask there", id, strings.Join(nodes, " and ")))
	}
	return err
}

// showInput is the input of the show route.
type showInput struct {
	Named
	ContextLength int `query:"context_length" minimum:"0" maximum:"1073741824" doc:"Tokens of each slot; 0: the node's default"`
	Slots         int `query:"slots" minimum:"0" maximum:"65536" doc:"Requests at once; 0: the node's default"`
}
