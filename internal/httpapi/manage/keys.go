package manage

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/httpapi"
)

// Keys makes and ends keys of the cluster. Errors are as those of Commands. A
// key that is made by a command that came before is refused: its secret was
// told then, and nobody has it any more.
type Keys interface {
	AddKey(ctx context.Context, id string, k cluster.Key) (copies int, err error)
	RevokeKey(ctx context.Context, id, name string) (copies int, err error)
}

type (
	addKeyInput struct {
		Key
		Body api.AddKeyRequest
	}
	revokeKeyInput struct {
		Key
		Name string `path:"key" minLength:"1" maxLength:"64" doc:"Name of the key" example:"ci"`
	}
)

func (d *Dialect) registerKeys(m mount) {
	const tag = "keys"
	show(m, m.operation(http.MethodGet, "/v1/cluster/audit", "list-audit", "cluster", "Who gave the last commands, oldest first"),
		func(v *view.View, _ *nothing) (api.AuditList, error) { return v.Audit(), nil })
	if d.o.Keys == nil {
		return
	}
	show(m, m.operation(http.MethodGet, "/v1/cluster/keys", "list-keys", tag, "The keys of the cluster, without their secrets"),
		func(v *view.View, _ *nothing) (api.KeyList, error) { return v.Keys(), nil })
	order(m, m.operation(http.MethodPost, "/v1/cluster/keys", "add-key", tag, "Make a key that all nodes accept; its secret is in this answer and nowhere else",
		http.StatusConflict, http.StatusUnprocessableEntity, http.StatusServiceUnavailable), func(in *addKeyInput) Key { return in.Key }, d.addKey)
	order(m, m.operation(http.MethodDelete, "/v1/cluster/keys/{key}", "revoke-key", tag, "End a key on all nodes",
		http.StatusNotFound, http.StatusConflict, http.StatusServiceUnavailable), func(in *revokeKeyInput) Key { return in.Key }, d.revokeKey)
}

func (d *Dialect) addKey(ctx context.Context, id string, v *view.View, in *addKeyInput) (out api.AddKeyAnswer, err error) {
	req := in.Body
	if err := cluster.KeyName(req.Name); err != nil {
		return out, fail(&command.Refusal{Code: command.Invalid, Message: err.Error()}, "name")
	}
	if err := led(v); err != nil {
		return out, err
	}
	secret := d.o.Secret()
	now := d.o.Now().UTC().Round(0)
	// The id is none of the secret, of which nothing must be seen anywhere.
	k := cluster.Key{
		Name: req.Name, ID: d.o.Name(), Role: cluster.Role(req.Role), Hash: sha256.Sum256([]byte(secret)),
		Created: now, PerMinute: req.RequestsPerMinute, Concurrent: req.Concurrent,
	}
	if c, ok := httpapi.CallerOf(ctx); ok {
		k.By = c.Name
	}
	if req.ExpiresSeconds > 0 {
		k.Expires = now.Add(time.Duration(req.ExpiresSeconds * float64(time.Second)))
	}
	if out.Copies, err = d.o.Keys.AddKey(ctx, id, k); err != nil {
		return out, fail(err, "name")
	}
	out.CommandID, out.Key, out.Secret = id, v.Key(k), secret
	out.Message = fmt.Sprintf("key %s has the role %s on all nodes; its secret is not shown again", k.Name, k.Role)
	managers := 0
	for _, other := range v.State().Keys {
		if other.Role == cluster.RoleManage {
			managers++
		}
	}
	if len(v.State().Keys) == 0 {
		out.Message += "; from now on every request needs a key"
	}
	if managers == 0 && k.Role != cluster.RoleManage {
		out.Message += "; no key of the cluster may manage yet: make one, or give commands on a node's own machine"
	}
	return out, nil
}

func (d *Dialect) revokeKey(ctx context.Context, id string, v *view.View, in *revokeKeyInput) (out api.RevokeKeyAnswer, err error) {
	if err := led(v); err != nil {
		return out, err
	}
	name := strings.TrimSpace(in.Name)
	if out.Copies, err = d.o.Keys.RevokeKey(ctx, id, name); err != nil {
		return out, fail(err, "key")
	}
	out.CommandID, out.Name, out.Message = id, name, "key "+name+" is revoked on all nodes"
	if _, last := v.State().Keys[name]; last && len(v.State().Keys) == 1 {
		out.Message += "; it was the last key of the cluster: a node without keys of its own serves its own machine without one"
	}
	return out, nil
}

// audit writes who gave a command into the node's log. One that was refused is
// there by the server's Refused.
func (d *Dialect) audit(ctx context.Context, o huma.Operation, id string, err error) {
	if err != nil {
		return
	}
	c, _ := httpapi.CallerOf(ctx)
	d.o.Log.Info("audit", "key", c.Name, "node", d.o.Node, "command_id", id, "what", o.OperationID, "result", "done")
}
