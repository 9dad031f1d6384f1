package node

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi/access"
	"github.com/skein-run/skein/internal/httpapi/openai"
	"github.com/skein-run/skein/internal/httpapi/raw/shape"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/node/control/errands"
	"github.com/skein-run/skein/internal/node/texts"
)

// exoCommands joins exo's API with the cluster.
type exoCommands struct{ clustered }

// Plan implements raw.Commands.
func (c exoCommands) Plan(ctx context.Context, l command.Load, most int) (placement.Plan, error) {
	p, err := c.control.Planner().PlanWithin(ctx, l, most)
	if err != nil {
		return placement.Plan{}, managed("", err)
	}
	return p.Plans[0], nil // l asks for one instance more than there are
}

// Place implements raw.Commands.
func (c exoCommands) Place(ctx context.Context, id string, l command.Load, i cluster.Instance) error {
	p, err := c.control.Planner().LoadAt(ctx, id, l, i.ID, shape.SeatsOf(i))
	if err != nil {
		return managed(id, err)
	}
	return c.seen(ctx, p.Index)
}

// Remove implements raw.Commands.
func (c exoCommands) Remove(ctx context.Context, id, instance string) error {
	cmd, err := command.Unload{Instance: instance}.Command(id)
	if err != nil {
		return err
	}
	_, a, err := c.submit(ctx, cmd)
	if err != nil {
		return err
	}
	return c.seen(ctx, a.Index)
}

// download is no command of the cluster, but somebody did it.
func (c exoCommands) download(ctx context.Context, node ids.Node, do errands.Download, model string) error {
	err := c.control.Errands().Download(ctx, node, do, model)
	c.audits.note(ctx, rand.Text(), fmt.Sprintf("%s %s on node %s", do, model, node), err)
	return err
}

// Fetch implements raw.Commands.
func (c exoCommands) Fetch(ctx context.Context, node ids.Node, model string) error {
	return c.download(ctx, node, errands.Fetch, model)
}

// Pause implements raw.Commands.
func (c exoCommands) Pause(ctx context.Context, node ids.Node, model string) error {
	return c.download(ctx, node, errands.Pause, model)
}

// Discard implements raw.Commands.
func (c exoCommands) Discard(ctx context.Context, node ids.Node, model string) error {
	return c.download(ctx, node, errands.Discard, model)
}

// Cancel implements raw.Commands. Ending one's own request is told nobody, as
// hanging up is not.
func (c exoCommands) Cancel(ctx context.Context, request string) (found bool, silent int) {
	caller, _ := access.Of(ctx)
	if !caller.May(access.NeedManage) {
		return c.control.Errands().Cancel(ctx, request, errands.Canceller{Owner: caller.Owner()})
	}
	found, silent = c.control.Errands().Cancel(ctx, request, errands.Canceller{Any: true})
	if found {
		c.audits.note(ctx, rand.Text(), "cancel request "+request, nil)
	}
	return found, silent
}

// exoModels are the models for exo's API.
type exoModels struct {
	openai *openai.API
	clustered
}

// Model implements raw.Models.
func (m exoModels) Model(ctx context.Context, name string) (json.RawMessage, error) {
	return m.openai.ModelObject(ctx, name)
}

// Added implements raw.Models.
func (m exoModels) Added(ctx context.Context) (map[string][]ids.Node, int) {
	return m.control.Errands().Added(ctx)
}

// Unlist implements raw.Models.
func (m exoModels) Unlist(ctx context.Context, model string) ([]ids.Node, int, error) {
	from, silent, err := m.control.Errands().Unlist(ctx, model)
	for _, id := range from {
		m.audits.note(ctx, rand.Text(), fmt.Sprintf("take %s off the list of node %s", model, id), nil)
	}
	return from, silent, err
}

// Events implements raw.Cluster.
func (c exoCommands) Events(ctx context.Context, each func(cluster.Event) error) error {
	return c.control.Events(ctx, each)
}

// exoChat reads requests as the OpenAI dialect does, and runs them.
type exoChat struct {
	openai *openai.API
	texts  *texts.Texts
}

// ReadChat implements raw.Chat.
func (c exoChat) ReadChat(ctx context.Context, body []byte) (generation.Request, bool, error) {
	return c.openai.ReadChat(ctx, body)
}

// Generate implements raw.Chat.
func (c exoChat) Generate(ctx context.Context, req generation.Request, emit func(generation.Event) error) error {
	return c.texts.Generate(ctx, req, emit)
}

// onboarding is a file in the node's home that is there once a person has been
// shown around.
type onboarding struct{ dir string }

func (o onboarding) file() string { return filepath.Join(o.dir, "onboarding_complete") }

// Done implements raw.Onboarding.
func (o onboarding) Done() (bool, error) {
	_, err := os.Stat(o.file())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look whether the onboarding was done: %w", err)
	}
	return true, nil
}

// Finish implements raw.Onboarding.
func (o onboarding) Finish() error {
	if err := os.WriteFile(o.file(), nil, 0o600); err != nil {
		return fmt.Errorf("note that the onboarding was done: %w", err)
	}
	return nil
}
