package files

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/ids"
)

// errPaused ends a fetch at somebody's wish: what has arrived stays, and
// another fetch goes on there.
var errPaused = errors.New("the download was paused")

// Take begins to fetch a whole model, and returns. What becomes of it tells
// the cluster's state. A model that is here, or on its way, is fine. The error
// is a *command.Refusal.
func (f *Files) Take(model string) error {
	m, ok := f.opts.Cluster.State().Models[model]
	switch {
	case !ok:
		return &command.Refusal{Code: command.UnknownModel, Message: fmt.Sprintf("no node of this cluster has a model %s", model)}
	case slices.Contains(m.Holders, f.opts.Self):
		return nil
	case f.opts.NoDownloads:
		return &command.Refusal{Code: command.Conflict, Message: "this node fetches no models: it runs with --no-downloads"}
	case !f.reachable(m):
		return &command.Refusal{Code: command.NoFiles, Message: fmt.Sprintf("no node that has the files of %s is online", model)}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.life.Err() != nil {
		return &command.Refusal{Code: command.Conflict, Message: "this node is being stopped"}
	}
	if f.taking[model] != nil {
		return nil
	}
	ctx, cancel := context.WithCancelCause(f.life)
	f.taking[model] = cancel
	f.wg.Go(func() {
		_, _, err := f.bring(ctx, m, nil, func(int64, int64) {}, false)
		f.mu.Lock()
		delete(f.taking, model)
		f.mu.Unlock()
		cancel(nil)
		if err != nil && !errors.Is(err, errPaused) && f.life.Err() == nil {
			f.opts.Logger.Warn("a model was not fetched", "model", model, "error", err)
		}
	})
	return nil
}

func (f *Files) reachable(m cluster.Model) bool {
	nodes := f.opts.Cluster.State().Nodes
	return slices.ContainsFunc(m.Holders, func(id ids.Node) bool { return nodes[id].Online })
}

// Pause ends a Take. What has arrived stays. False: there is none.
func (f *Files) Pause(model string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	cancel := f.taking[model]
	if cancel != nil {
		cancel(errPaused)
	}
	return cancel != nil
}

// Discard deletes the copy of a model that was fetched. Files that somebody
// put here stay. The error is a *command.Refusal, or the disk's.
func (f *Files) Discard(model string) error {
	f.mu.Lock()
	name, copied := f.copies[model]
	k, own := f.known[model]
	used := f.inUse[name] > 0
	f.mu.Unlock()
	for _, i := range f.opts.Cluster.State().Instances {
		used = used || i.Model == model && i.Releasing == "" && slices.ContainsFunc(i.Shards, func(x cluster.Shard) bool { return x.Node == f.opts.Self && !x.Phase.Ended() })
	}
	switch {
	case !copied && own:
		return &command.Refusal{Code: command.Conflict, Message: fmt.Sprintf("%s was not fetched by skein: it lies at %s, put there by somebody; delete it there", model, k.entry.Paths[0])}
	case !copied:
		return &command.Refusal{Code: command.NotLoaded, Message: fmt.Sprintf("%s was not downloaded to this node", model)}
	case used:
		return &command.Refusal{Code: command.InUse, Message: fmt.Sprintf("%s runs from that download; unload it first", model)}
	}
	if err := f.opts.Store.Remove(name); err != nil {
		return err
	}
	f.Rescan()
	return nil
}

// Fetched names the models that were fetched whole.
func (f *Files) Fetched() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return sortedKeys(f.copies)
}
