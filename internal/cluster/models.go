package cluster

import (
	"errors"
	"fmt"
	"slices"

	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/ids"
)

type device = placement.Device

// ModelKnown tells that a model's files exist on a node. A model whose files
// are others than those of the same name is refused: it needs a name of its own.
// One without hashes is told again by its node when it has them; if that node
// is gone before, another one's model of that name takes its place, as it does
// where nobody has the old files any more and nothing runs from them.
type ModelKnown struct {
	Model Model `json:"model"` // Holders: who has them; added to those known
}

func (ModelKnown) kind() string { return "model_known" }

func (c ModelKnown) fits(s State) error {
	m := c.Model
	if m.Name == "" || len(m.Files) == 0 || len(m.Profile.Layers) == 0 {
		return fmt.Errorf("model %q needs a name, files and a profile", m.Name)
	}
	if !m.Hashed() && len(m.Holders) != 1 {
		return fmt.Errorf("model %q has no hashes yet, so one node has it, not %d", m.Name, len(m.Holders))
	}
	if old, ok := s.Models[m.Name]; ok && !s.replaces(old, m) {
		if !old.Hashed() {
			return fmt.Errorf("there is a model named %s on node %s, which is still reading its files: then it will be known whether this is the same", m.Name, old.Holders[0])
		}
		if !slices.Equal(old.Files, m.Files) {
			return fmt.Errorf("there is another model named %s, with other files; rename one of the two", m.Name)
		}
	}
	return knownNodes(s, m.Holders)
}

// replaces tells that a model may take the place of one of its name: nobody has
// that one's files any more, or they are not hashed and its own node tells it,
// or no node that has it is there.
func (s State) replaces(old, m Model) bool {
	if s.Abandoned(old) {
		return true
	}
	return !old.Hashed() && !slices.ContainsFunc(old.Holders, func(id ids.Node) bool {
		return s.Nodes[id].Online && !slices.Contains(m.Holders, id)
	})
}

// Abandoned tells that nobody has a model's files, and nothing runs from them.
func (s State) Abandoned(m Model) bool {
	if len(m.Holders) > 0 {
		return false
	}
	for _, i := range s.Instances {
		if i.Model == m.Name {
			return false
		}
	}
	_, swapping := s.Swapping(m.Name)
	return !swapping
}

func (c ModelKnown) apply(s State, _ Event) State {
	m := c.Model
	m.Files = slices.Clone(m.Files)
	var have []ids.Node
	if old := s.Models[m.Name]; !s.replaces(old, m) {
		have = old.Holders
	}
	m.Holders = union(have, m.Holders)
	s.Models = put(s.Models, m.Name, m)
	return s
}

// ModelForgotten drops a model that nobody has and nobody wants.
type ModelForgotten struct {
	Model string `json:"model"`
}

func (ModelForgotten) kind() string { return "model_forgotten" }

func (c ModelForgotten) fits(s State) error {
	if _, ok := s.Models[c.Model]; !ok {
		return fmt.Errorf("there is no model %s", c.Model)
	}
	for _, w := range s.Wanted {
		if w.Model == c.Model {
			return fmt.Errorf("%s is wanted; unload it first", c.Model)
		}
	}
	for _, i := range s.Instances {
		if i.Model == c.Model {
			return fmt.Errorf("%s is loaded; unload it first", c.Model)
		}
	}
	if _, ok := s.Swapping(c.Model); ok {
		return fmt.Errorf("%s is being swapped, and may have to come back", c.Model)
	}
	return nil
}

func (c ModelForgotten) apply(s State, _ Event) State {
	s.Models = without(s.Models, c.Model)
	for key := range s.Downloads {
		if key.Model == c.Model {
			s.Downloads = without(s.Downloads, key)
		}
	}
	return s
}

// FilesMoved tells that a node has a model's files now, or, with Gone, no more.
type FilesMoved struct {
	Model string   `json:"model"`
	Node  ids.Node `json:"node"`
	Gone  bool     `json:"gone,omitempty"`
}

func (FilesMoved) kind() string { return "files_moved" }

func (c FilesMoved) fits(s State) error {
	m, ok := s.Models[c.Model]
	if !ok {
		return fmt.Errorf("there is no model %s", c.Model)
	}
	if slices.Contains(m.Holders, c.Node) != c.Gone {
		return errors.New("that is known already")
	}
	if !c.Gone && !m.Hashed() {
		return fmt.Errorf("the files of %s are not hashed yet, so nobody else can have them", c.Model)
	}
	return knownNodes(s, []ids.Node{c.Node})
}

func (c FilesMoved) apply(s State, _ Event) State {
	m := s.Models[c.Model]
	if c.Gone {
		m.Holders = slices.DeleteFunc(slices.Clone(m.Holders), func(id ids.Node) bool { return id == c.Node })
	} else {
		m.Holders = union(m.Holders, []ids.Node{c.Node})
	}
	s.Models = put(s.Models, m.Name, m)
	return s
}

// DownloadBegan tells that a node fetches files of a model.
type DownloadBegan struct {
	Download Download `json:"download"` // without Since and Error
}

func (DownloadBegan) kind() string { return "download_began" }

func (c DownloadBegan) fits(s State) error {
	d := c.Download
	if _, ok := s.Models[d.Model]; !ok {
		return fmt.Errorf("there is no model %s", d.Model)
	}
	if d.Bytes < 0 {
		return fmt.Errorf("it has %d bytes", d.Bytes)
	}
	if old, ok := s.Downloads[DownloadKey{d.Node, d.Model}]; ok && old.Error == "" {
		return fmt.Errorf("node %s fetches %s already", d.Node, d.Model)
	}
	if n := s.Nodes[d.Node]; !n.Online {
		return fmt.Errorf("node %s is not there", d.Node)
	}
	return knownNodes(s, []ids.Node{d.From})
}

func (c DownloadBegan) apply(s State, e Event) State {
	d := c.Download
	d.Since, d.Error = e.At, ""
	s.Downloads = put(s.Downloads, DownloadKey{d.Node, d.Model}, d)
	return s
}

// DownloadEnded tells that it is done, or why it failed.
type DownloadEnded struct {
	Node  ids.Node `json:"node"`
	Model string   `json:"model"`
	Error string   `json:"error,omitempty"`
}

func (DownloadEnded) kind() string { return "download_ended" }

func (c DownloadEnded) fits(s State) error {
	if d, ok := s.Downloads[DownloadKey{c.Node, c.Model}]; !ok || d.Error != "" {
		return fmt.Errorf("node %s fetches nothing of %s", c.Node, c.Model)
	}
	return nil
}

func (c DownloadEnded) apply(s State, _ Event) State {
	key := DownloadKey{c.Node, c.Model}
	if c.Error == "" {
		s.Downloads = without(s.Downloads, key)
		return s
	}
	d := s.Downloads[key]
	d.Error = c.Error
	s.Downloads = put(s.Downloads, key, d)
	return s
}

// CommandDropped says why a command that was acknowledged in one half of a
// partition is not done after all.
type CommandDropped struct {
	Command string `json:"command"`
	Reason  string `json:"reason"`
}

func (CommandDropped) kind() string { return "command_dropped" }

func (c CommandDropped) fits(State) error {
	if c.Command == "" || c.Reason == "" {
		return errors.New("it needs a command and a reason")
	}
	return nil
}

func (c CommandDropped) apply(s State, e Event) State {
	s.Commands = remember(s.Commands, c.Command, CommandOutcome{Index: e.Index, Dropped: c.Reason})
	return s
}

func knownNodes(s State, nodes []ids.Node) error {
	for _, id := range nodes {
		if _, ok := s.Nodes[id]; !ok {
			return fmt.Errorf("there is no node %s", id)
		}
	}
	return nil
}

// union joins two sets of nodes into a sorted one.
func union(a, b []ids.Node) []ids.Node {
	out := append(slices.Clone(a), b...)
	slices.Sort(out)
	return slices.Compact(out)
}
