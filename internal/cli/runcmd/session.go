package runcmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
)

// session is a node to talk to, running already or inside this process.
type session struct {
	node  *client.Client
	files []string     // absolute paths that were named as the model
	local bool         // the node is inside this process and knows the files
	stop  func() error // nil unless local
}

// close ends a node that was started for this session.
func (s *session) close() error {
	s.node.Close()
	if s.stop == nil {
		return nil
	}
	if err := s.stop(); err != nil {
		return fmt.Errorf("stop the node in this process: %w", err)
	}
	return nil
}

// openSession connects to the running node, or starts one in this process.
func (e Env) openSession(ctx context.Context, files []string) (*session, error) {
	node, err := e.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if node != nil {
		return &session{node: node, files: files}, nil
	}
	node, stop, err := e.Local(ctx, files)
	if err != nil {
		return nil, err
	}
	return &session{node: node, files: files, local: true, stop: stop}, nil
}

// chooseModel gives the name of the model to use. asked is what the user
// typed, "" for nothing.
func (s *session) chooseModel(ctx context.Context, asked string) (string, error) {
	switch {
	case len(s.files) > 0:
		return s.nameOfFile(ctx, s.files[0])
	case asked != "":
		found, err := s.node.Library().Show(ctx, asked, 0, 0)
		var unknown *api.Error
		if errors.As(err, &unknown) && unknown.Status == 404 {
			// Its files may be on another node of the cluster.
			if name, elsewhere := s.node.FullName(ctx, asked); elsewhere == nil {
				return name, nil
			}
		}
		if err != nil {
			return "", err
		}
		if found.Problem != "" {
			return "", fmt.Errorf("%s cannot be used: %s", found.Name, found.Problem)
		}
		return found.Name, nil
	}
	models, err := s.node.ClusterModels(ctx)
	if err != nil {
		return "", err
	}
	var loaded []string
	for _, m := range models.Loaded {
		if m.Status != api.StatusFailed && !slices.Contains(loaded, m.ModelName) {
			loaded = append(loaded, m.ModelName)
		}
	}
	if len(loaded) == 1 {
		return loaded[0], nil
	}
	if len(loaded) > 1 {
		return "", fmt.Errorf("several models are loaded (%s); say which: skein run %s", strings.Join(loaded, ", "), loaded[0])
	}
	files, err := s.node.Library().List(ctx)
	if err != nil {
		return "", err
	}
	return defaultModel(files)
}

// defaultModel chooses when nothing is loaded: the only usable model, or the
// bundled one.
func defaultModel(files []api.LibraryEntry) (string, error) {
	var usable, bundled []string
	for _, f := range files {
		if f.Problem != "" {
			continue
		}
		usable = append(usable, f.Name)
		if f.Source == api.SourceBundled {
			bundled = append(bundled, f.Name)
		}
	}
	switch {
	case len(usable) == 1:
		return usable[0], nil
	case len(bundled) == 1:
		return bundled[0], nil
	case len(usable) == 0:
		return "", errors.New("there is no model; add one with 'skein models add FILE.gguf'")
	}
	return "", fmt.Errorf("say which model: skein run NAME; there are %s", strings.Join(usable, ", "))
}

// nameOfFile gives the name under which the node lists a file, after telling a
// running node about it.
func (s *session) nameOfFile(ctx context.Context, path string) (string, error) {
	list := s.node.Library().List
	if !s.local {
		list = func(ctx context.Context) ([]api.LibraryEntry, error) {
			return s.node.Library().Add(ctx, []string{path})
		}
	}
	entries, err := list(ctx)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if slices.Contains(e.Paths, path) {
			if e.Problem != "" {
				return "", fmt.Errorf("%s cannot be used: %s", path, e.Problem)
			}
			return e.Name, nil
		}
	}
	if !s.local && len(entries) == 1 {
		return entries[0].Name, nil // listed under another path: a link was resolved
	}
	return "", fmt.Errorf("the node does not list %s; add it with 'skein models add %s'", path, path)
}
