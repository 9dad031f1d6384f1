package files

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement/profile"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/library"
)

// announce tells the cluster what it does not know of this node's files.
func (f *Files) announce() {
	wait := f.opts.RetryMin
	var last string
	for f.life.Err() == nil {
		changes := f.opts.Cluster.Changes()
		var retry <-chan time.Time
		var timer *time.Timer
		news := f.news(f.opts.Cluster.State())
		switch err := f.submit(news); {
		case err == nil:
			wait, last = f.opts.RetryMin, ""
		case f.life.Err() != nil:
		default:
			var no *command.Refusal
			if !errors.As(err, &no) { // a refusal waits for another state
				timer = time.NewTimer(wait)
				retry = timer.C
				wait = min(2*wait, f.opts.RetryMax)
			}
			if last != err.Error() {
				f.opts.Logger.Warn("the cluster does not know yet which models are here", "error", err)
				last = err.Error()
			}
		}
		select {
		case <-changes:
		case <-f.tell:
		case <-retry:
		case <-f.life.Done():
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// submit sends changes as one command; none: nothing to do.
func (f *Files) submit(news []cluster.Change) error {
	if len(news) == 0 {
		return nil
	}
	c, err := command.Batch("", news)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(f.life, f.opts.SubmitLimit)
	defer cancel()
	_, err = f.opts.Cluster.Submit(ctx, c)
	return err
}

// news is what a state does not know of this node's files.
func (f *Files) news(s cluster.State) []cluster.Change {
	if _, ok := s.Nodes[f.opts.Self]; !ok {
		return nil // the cluster does not know this node yet
	}
	type unknown struct {
		name  string
		entry library.Entry
		files []cluster.File
	}
	var out []cluster.Change
	var fresh []unknown
	f.mu.Lock()
	for _, name := range sortedKeys(f.listed) {
		l := f.listed[name]
		k, hashed := f.known[name]
		files := l.files
		if hashed {
			files = k.files
		}
		m, ok := s.Models[name]
		switch {
		case f.broken[name] || ok && slices.Equal(m.Files, files):
		case !hashed && !f.slow(l.entry): // in a moment
		case !ok, s.Abandoned(m), !m.Hashed() && !elsewhere(s, m, f.opts.Self):
			fresh = append(fresh, unknown{name, l.entry, files})
		case hashed && m.Hashed():
			f.note(name, fmt.Sprintf("%s of this node (%s) has other contents than the cluster's model of that name; rename it to share it", name, l.entry.Paths[0]))
		}
	}
	for _, name := range sortedKeys(s.Models) {
		m := s.Models[name]
		switch has, sure := f.has(m); {
		case !sure:
		case has != slices.Contains(m.Holders, f.opts.Self):
			out = append(out, cluster.FilesMoved{Model: name, Node: f.opts.Self, Gone: !has})
		}
	}
	f.mu.Unlock()
	for _, u := range fresh { // reads files, so without the mutex
		m, err := f.describe(u.name, u.entry, u.files)
		if err != nil {
			f.mu.Lock()
			f.broken[u.name] = true
			f.note(u.name, untold(u.name, err))
			f.mu.Unlock()
			continue
		}
		out = append(out, cluster.ModelKnown{Model: m})
	}
	return out
}

// note keeps what an operator should see, and says it once; mu is held.
func (f *Files) note(model, problem string) {
	if f.trouble[model] == problem {
		return
	}
	f.trouble[model] = problem
	f.opts.Logger.Warn(problem)
	close(f.changed)
	f.changed = make(chan struct{})
}

// quick is the size of a model that is hashed before it is told: that takes a
// second.
const quick = 512 << 20

// slow tells that a model's hashes will take time: it is told without. mu is
// held.
func (f *Files) slow(e library.Entry) bool {
	return e.SizeBytes > f.opts.Quick || f.hashing != nil && f.hashing.Total > f.opts.Quick
}

// elsewhere tells that another node that is there has told of a model.
func elsewhere(s cluster.State, m cluster.Model, self ids.Node) bool {
	return slices.ContainsFunc(m.Holders, func(id ids.Node) bool { return id != self && s.Nodes[id].Online })
}

// has tells whether all files of a model are here; sure is false while that is
// not known. mu is held.
func (f *Files) has(m cluster.Model) (has, sure bool) {
	if !m.Hashed() {
		return f.unhashed(m) != nil, f.scanned
	}
	if key, err := idOf(m.Files).Key(nil); err == nil {
		if _, ok := f.shelf[key]; ok {
			return true, true
		}
	}
	if !f.scanned {
		return false, false
	}
	_, listed := f.listed[m.Name]
	_, hashed := f.known[m.Name]
	return false, !listed || hashed
}

// unhashed gives the paths of a model that this node told without hashes, nil
// if it did not, or they are other files by now. mu is held.
func (f *Files) unhashed(m cluster.Model) []string {
	l, ok := f.listed[m.Name]
	if !ok || !slices.Contains(m.Holders, f.opts.Self) || !slices.Equal(m.Files, l.files) {
		return nil
	}
	return l.entry.Paths
}

// describe makes a model of this node known, with what placement needs.
func (f *Files) describe(name string, e library.Entry, files []cluster.File) (cluster.Model, error) {
	m, err := library.OpenModel(e.Paths...)
	if err != nil {
		return cluster.Model{}, err
	}
	defer m.Close() // only read from: nothing can be lost
	p, err := profile.Of(m.Model, name)
	if err != nil {
		return cluster.Model{}, err
	}
	out := cluster.Model{Name: name, Profile: p, Files: files}
	out.Holders = append(out.Holders, f.opts.Self)
	return out, nil
}
