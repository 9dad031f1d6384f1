package node

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/httpapi/manage"
	"github.com/skein-run/skein/internal/node/control"
	"github.com/skein-run/skein/internal/replica"
)

// AddKey implements manage.Keys.
func (c clustered) AddKey(ctx context.Context, id string, k cluster.Key) (int, error) {
	cmd, err := command.Of(id, cluster.KeyAdded{Key: k})
	if err != nil {
		return 0, err
	}
	r, a, err := c.submit(ctx, cmd)
	if err == nil && r.Again {
		err = manage.Refused(command.Conflict, "command "+id+" came before and has made the key "+k.Name+"; its secret can't be told again: revoke the key and make another, by a command with an id of its own")
	}
	return a.Copies, err
}

// RevokeKey implements manage.Keys.
func (c clustered) RevokeKey(ctx context.Context, id, name string) (int, error) {
	cmd, err := command.Of(id, cluster.KeyRevoked{Name: name})
	if err != nil {
		return 0, err
	}
	_, a, err := c.submit(ctx, cmd)
	return a.Copies, err
}

// audits writes into the cluster's log what somebody did that no command tells
// of. What was refused is none of it: who may not, or can't, would make the
// log grow as fast as it asks (access.Refusals has those).
type audits struct {
	control *control.Control
	log     *slog.Logger
}

// noteTime is how long that may take. What was done is done: without a master
// it is in this node's log alone.
const noteTime = 5 * time.Second

// maxNote bounds a text, as the state does.
const maxNote = 300

func (a audits) note(ctx context.Context, id, what string, failure error) {
	if _, ok := httpapi.CallerOf(ctx); !ok || failure != nil {
		return
	}
	cmd, err := command.Of(id, cluster.Audited{What: strings.ToValidUTF8(what[:min(len(what), maxNote)], ""), Result: "done"})
	if err == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTime)
		defer cancel()
		err = a.control.Certainly(ctx, replica.Command(cmd))
	}
	if err != nil {
		a.log.Warn("the cluster's log does not have what somebody did; this node's log has", "what", what, "error", err)
	}
}
