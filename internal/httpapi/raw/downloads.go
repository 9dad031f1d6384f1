package raw

import (
	"encoding/json"
	"net/http"

	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/httpapi/raw/shape"
	"github.com/skein-run/skein/internal/ids"
)

// target finds the node and the model of a download.
func (d *Dialect) target(r *http.Request, node, name string) (ids.Node, string, error) {
	in, err := d.o.Cluster.Snapshot(r.Context())
	if err != nil {
		return "", "", err
	}
	found, err := view.Of(in).Require([]string{node})
	if err != nil {
		return "", "", about("targetNodeId", err)
	}
	full, err := d.model(r.Context(), in.State, name)
	return found[0], full, err
}

// commandID is the answer of the routes about downloads. What becomes of it is
// in the state.
func (d *Dialect) commandID(w http.ResponseWriter) error {
	return answer(w, map[string]string{"commandId": d.o.Name()})
}

func (d *Dialect) startDownload(w http.ResponseWriter, r *http.Request) error {
	o, err := body(w, r)
	if err != nil {
		return err
	}
	var to string
	var shard json.RawMessage
	if err := o.Need("", "targetNodeId", "a string", &to); err != nil {
		return err
	}
	if err := o.Need("", "shardMetadata", "an object", &shard); err != nil {
		return err
	}
	p, err := shape.ParseShard("shardMetadata", shard)
	if err != nil {
		return err
	}
	if p.Model == "" {
		return &shape.Error{Field: "shardMetadata.modelCard.modelId", Message: "shardMetadata has no modelCard.modelId, which says what to download"}
	}
	node, name, err := d.target(r, to, p.Model)
	if err != nil {
		return err
	}
	if err := d.o.Commands.Fetch(r.Context(), node, name); err != nil {
		return err
	}
	return d.commandID(w)
}

func (d *Dialect) cancelDownload(w http.ResponseWriter, r *http.Request) error {
	o, err := body(w, r)
	if err != nil {
		return err
	}
	var to, of string
	if err := o.Need("", "targetNodeId", "a string", &to); err != nil {
		return err
	}
	if err := o.Need("", "modelId", "a string", &of); err != nil {
		return err
	}
	node, name, err := d.target(r, to, of)
	if err != nil {
		return err
	}
	if err := d.o.Commands.Pause(r.Context(), node, name); err != nil {
		return err
	}
	return d.commandID(w)
}

func (d *Dialect) deleteDownload(w http.ResponseWriter, r *http.Request) error {
	node, name, err := d.target(r, r.PathValue("node"), r.PathValue("model"))
	if err != nil {
		return err
	}
	if err := d.o.Commands.Discard(r.Context(), node, name); err != nil {
		return err
	}
	return d.commandID(w)
}
