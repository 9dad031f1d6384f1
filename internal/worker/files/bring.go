package files

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/meter"
	"github.com/skein-run/skein/internal/slicestore"
	"github.com/skein-run/skein/internal/slicestore/piece"
)

// download is a fetch in progress; guarded by Files.mu.
type download struct {
	model       string
	done, total int64
	rate        meter.Rate
}

// Bring gives the paths of files that hold what a shard needs, or, without one,
// the whole model: this node's own, what was fetched before, or what peers that
// have the model give now. They stay where they are until release.
func (f *Files) Bring(ctx context.Context, m cluster.Model, shard *slice.Spec, progress func(done, total int64)) (paths []string, release func(), err error) {
	return f.bring(ctx, m, shard, progress, true)
}

// bring does it. Without hold nothing is in use when its end is told: who sees
// that may delete it.
func (f *Files) bring(ctx context.Context, m cluster.Model, shard *slice.Spec, progress func(done, total int64), hold bool) (paths []string, release func(), err error) {
	m, own, err := f.hashed(ctx, m)
	if err == nil && own == nil {
		own, err = f.own(ctx, m)
	}
	if err != nil || own != nil {
		return own, func() {}, err
	}
	if f.opts.NoDownloads {
		return nil, nil, fmt.Errorf("%s is not on this node, which runs with --no-downloads; copy its files here, or start the node without that flag", m.Name)
	}
	want := slicestore.Want{ID: idOf(m.Files), Pieces: piece.Everything, Whole: true, Model: m.Name}
	key, err := want.ID.Key(nil)
	if err != nil {
		return nil, nil, err
	}
	if want.Name = key; shard != nil {
		want.Whole = false
		want.Pieces = func(g *gguf.Model) ([]slicestore.Block, error) { return piece.Needs(g, *shard) }
		if want.Name, err = want.ID.Key(*shard); err != nil {
			return nil, nil, err
		}
	}
	f.use(want.Name, 1)
	defer func() {
		if err != nil {
			f.use(want.Name, -1)
		}
	}()
	d := &download{model: m.Name}
	want.Progress = func(done, total int64, from string) {
		f.mu.Lock()
		if from != "" { // what was here took no transfer
			d.rate.Add(float64(done-d.done), time.Now())
		}
		d.done, d.total = done, total
		f.mu.Unlock()
		progress(done, total)
	}
	holders := f.holders(m, key)
	end := f.began(d, m, holders)
	paths, err = f.opts.Store.Fetch(ctx, want, holders...)
	if differ := (*slicestore.DisagreedError)(nil); errors.As(err, &differ) && !want.Whole {
		// The hash that the cluster knows is of whole files: it says who is right.
		f.opts.Logger.Error("two nodes have different bytes of one model; all of it is fetched, and compared with its hash", "model", m.Name, "error", differ)
		end(err)
		if paths, release, err = f.bring(ctx, m, nil, progress, hold); err == nil {
			f.use(want.Name, -1)
		}
		return paths, release, err
	}
	if err != nil && errors.Is(context.Cause(ctx), errPaused) {
		err = errPaused
	}
	release = func() { f.use(want.Name, -1) }
	if err == nil && !hold {
		release()
		release = func() {}
	}
	end(err)
	if err != nil {
		return nil, nil, explain(m.Name, err)
	}
	if want.Whole {
		f.Rescan() // it is one of this node's models now
	}
	return paths, release, nil
}

// hashed gives a model as the cluster knows it when its files are hashed; until
// then only the node that reads them has it, and gets their paths at once.
func (f *Files) hashed(ctx context.Context, m cluster.Model) (cluster.Model, []string, error) {
	for !m.Hashed() {
		moved := f.opts.Cluster.Changes()
		s := f.opts.Cluster.State()
		now, ok := s.Models[m.Name]
		if !ok {
			return m, nil, fmt.Errorf("there is no model %s any more", m.Name)
		}
		m = now
		f.mu.Lock()
		own, scanned, changed := f.unhashed(m), f.scanned, f.changed
		f.mu.Unlock()
		mine := slices.Contains(m.Holders, f.opts.Self)
		switch {
		case m.Hashed():
			continue
		case own != nil:
			return m, own, nil
		case f.opts.NoDownloads && !mine:
			return m, nil, nil // it is said why it can't be fetched
		case !elsewhere(s, m, f.opts.Self) && !(mine && !scanned):
			return m, nil, explain(m.Name, errors.New("its files are not hashed yet, and the node that has them is not there; start it again, or copy them here"))
		}
		select {
		case <-moved:
		case <-changed:
		case <-ctx.Done():
			return m, nil, context.Cause(ctx)
		case <-f.life.Done():
			return m, nil, errors.New("this node is being stopped")
		}
	}
	return m, nil, nil
}

// own finds a model that lies here whole; nil: it does not. A file of that name
// and size whose hash is not known yet is waited for.
func (f *Files) own(ctx context.Context, m cluster.Model) ([]string, error) {
	key, err := idOf(m.Files).Key(nil)
	if err != nil {
		return nil, err
	}
	for {
		f.mu.Lock()
		s, ok := f.shelf[key]
		l, listed := f.listed[m.Name]
		_, hashed := f.known[m.Name]
		scanned, changed := f.scanned, f.changed
		f.mu.Unlock()
		var size int64
		for _, x := range m.Files {
			size += x.Size
		}
		switch {
		case ok && fresh(s):
			return s.Paths, nil
		case ok:
			f.Rescan()
			return nil, nil
		case scanned && (!listed || hashed || l.entry.SizeBytes != size):
			return nil, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-f.life.Done():
			return nil, errors.New("this node is being stopped")
		}
	}
}

// holders are the peers that have a model, in an order that differs from node
// to node, so that not all ask the same.
func (f *Files) holders(m cluster.Model, key string) []slicestore.Holder {
	s := f.opts.Cluster.State()
	var out []slicestore.Holder
	for _, id := range s.Models[m.Name].Holders {
		if n := s.Nodes[id]; id != f.opts.Self && n.Online {
			out = append(out, slicestore.Holder{Name: string(id), URL: slicestore.ShelfURL(f.opts.Peer(id), key), Client: f.opts.Client})
		}
	}
	if len(out) > 1 {
		h := fnv.New32a()
		_, _ = h.Write([]byte(f.opts.Self)) // never fails, by its documentation
		n := int(h.Sum32() % uint32(len(out)))
		out = slices.Concat(out[n:], out[:n])
	}
	return out
}

func explain(model string, err error) error {
	return fmt.Errorf("%s cannot be fetched: %w", model, err)
}

// use counts who needs a slice.
func (f *Files) use(name string, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inUse[name] += n; f.inUse[name] <= 0 {
		delete(f.inUse, name)
	}
}

// needs tells the store what must stay when room is needed: what is in use, and
// whole models, which others may count on.
func (f *Files) needs(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, whole := f.shelf[name]
	return whole || f.inUse[name] > 0
}

// began notes a fetch, and tells the cluster of the first one of a model and of
// the end of the last. That is news for people: nothing waits for it.
func (f *Files) began(d *download, m cluster.Model, holders []slicestore.Holder) (end func(error)) {
	f.mu.Lock()
	first := !f.fetching(m.Name)
	f.fetches[d] = true
	f.mu.Unlock()
	told := make(chan struct{})
	if first && len(holders) > 0 {
		var bytes int64
		for _, x := range m.Files {
			bytes += x.Size
		}
		f.say(cluster.DownloadBegan{Download: cluster.Download{Node: f.opts.Self, Model: m.Name, From: ids.Node(holders[0].Name), Bytes: bytes}}, nil, told)
	} else {
		close(told)
	}
	return func(err error) {
		f.mu.Lock()
		delete(f.fetches, d)
		last := !f.fetching(m.Name)
		f.mu.Unlock()
		if !last || len(holders) == 0 {
			return
		}
		over := cluster.DownloadEnded{Node: f.opts.Self, Model: m.Name}
		if err != nil && !errors.Is(err, errPaused) {
			over.Error = explain(m.Name, err).Error()
		}
		f.say(over, told, make(chan struct{}))
	}
}

// fetching tells whether something of a model is being fetched; mu is held.
func (f *Files) fetching(model string) bool {
	for d := range f.fetches {
		if d.model == model {
			return true
		}
	}
	return false
}

// say sends a change once, after another one was sent.
func (f *Files) say(c cluster.Change, after, done chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.life.Err() != nil { // Stop may be waiting already
		close(done)
		return
	}
	f.wg.Go(func() {
		defer close(done)
		if after != nil {
			<-after
		}
		cmd, err := command.Of("", c)
		if err == nil {
			ctx, cancel := context.WithTimeout(f.life, f.opts.SubmitLimit)
			_, err = f.opts.Cluster.Submit(ctx, cmd)
			cancel()
		}
		if err != nil {
			f.opts.Logger.Debug("a download is not told to the cluster", "error", err)
		}
	})
}

// Downloads tells of what is being fetched, one entry a model.
func (f *Files) Downloads() []cluster.DownloadVitals {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	sums := map[string]cluster.DownloadVitals{}
	for d := range f.fetches {
		v := sums[d.model]
		v.Model = d.model
		v.Done += d.done
		v.Total += d.total
		v.Speed += d.rate.PerSecond(now)
		sums[d.model] = v
	}
	return slices.SortedFunc(maps.Values(sums), func(a, b cluster.DownloadVitals) int { return strings.Compare(a.Model, b.Model) })
}
