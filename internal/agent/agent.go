// Package agent is what an AI agent gets of a cluster over the Model Context
// Protocol: tools to look at it, to load, unload and swap models and to chat
// with them, and resources with its state. Tools are written for a reader who
// has nothing but their descriptions: units, bounds, when to use which, and
// after each error what to do next.
//
// It owns names, schemas, descriptions and what a call does, all through
// package client, so that the API's own checks, words and keys hold. Two forms
// serve it: Stdio here, for `skein mcp`, and internal/httpapi/mcp on each node.
// It must not import a node's parts. Handlers run on the protocol library's
// goroutines, any number at once.
package agent

import (
	"context"
	"errors"
	"log/slog"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/skein-run/skein/client"
)

// Options say which cluster the tools work on.
type Options struct {
	// Connect gives a client for one call, made with the ctx of that call; its
	// error is what the agent is told. The client is closed after the call.
	Connect func(ctx context.Context) (*client.Client, error)
	// Within bounds the context of a call further; nil: it is as the protocol
	// library made it.
	Within func(ctx context.Context) (context.Context, context.CancelFunc)
	// InProcess: the node is this process, so a stream that broke stays broken.
	InProcess bool
	Version   string
	Log       *slog.Logger
}

func (o *Options) validate() error {
	if o.Connect == nil || o.Version == "" || o.Log == nil {
		return errors.New("agent: a way to connect, a version and a logger are required")
	}
	return nil
}

const instructions = `Skein joins machines ("nodes") into one cluster that runs GGUF language models with llama.cpp. One node is the master, which orders
changes; any node answers for all. A model must be loaded, that is placed in the memory of one or more nodes, before it can answer.

Usual course: list_models shows which models there are and which are loaded. plan_load says whether and where one would fit. load_model loads it;
if it is not ready within wait_seconds, ask model_status until "ready" is true or "status" is "failed". chat asks a loaded model. unload_model frees its memory.
To replace one model by another use swap_models, not unload_model and load_model: it changes nothing if the new one can't be placed.

Names: a model is named by its full id or the last part of it, a node by its id, a prefix of its id, or its friendly name; case does not matter.
Units: *_gb are GB of 2^30 bytes, times are Unix seconds, *_percent is 0 to 100. A number that a machine can't measure is 0 and named in "unmeasured".
An error says what is wrong and, after "Next:", what to do. Nothing was changed by a call that ended with an error, unless it says so.`

// New makes a server of the protocol with all tools and resources.
func New(o Options) (*sdk.Server, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	s := &server{o: o, mcp: sdk.NewServer(
		&sdk.Implementation{Name: "skein", Title: "Skein cluster", Version: o.Version},
		&sdk.ServerOptions{
			Instructions: instructions, Logger: o.Log,
			// The lists never change while a server runs, and nothing is logged to clients.
			Capabilities: &sdk.ServerCapabilities{Tools: &sdk.ToolCapabilities{}, Resources: &sdk.ResourceCapabilities{}},
		},
	)}
	s.addReading()
	s.addEvents()
	s.addChanging()
	s.addChat()
	s.addResources()
	return s.mcp, nil
}

// server is what the handlers of one cluster share.
type server struct {
	o   Options
	mcp *sdk.Server
}

// with runs work with a client for this call.
func (s *server) with(ctx context.Context, work func(ctx context.Context, c *client.Client) error) error {
	if s.o.Within != nil {
		within, cancel := s.o.Within(ctx)
		defer cancel()
		ctx = within
	}
	c, err := s.o.Connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return work(ctx, c)
}

// lost is told that a stream of changes broke.
func (s *server) lost(err error) error {
	if s.o.InProcess {
		return errors.New("the node is stopping; what was begun goes on")
	}
	s.o.Log.Warn("the connection to the node broke; trying again", "err", err)
	return nil
}

// reporter sends the progress of one call, if the client wants to know.
type reporter struct {
	req   *sdk.CallToolRequest
	last  float64
	total float64 // 0: not known
	said  string
}

func report(req *sdk.CallToolRequest, total float64) *reporter {
	return &reporter{req: req, total: total}
}

// tell sends a message, unless it was the last one. Progress must grow with
// each, so one that stands still grows a little.
func (r *reporter) tell(ctx context.Context, progress float64, message string) error {
	token := r.req.Params.GetProgressToken()
	if token == nil || message == r.said {
		return nil
	}
	r.said, r.last = message, max(r.last+0.01, progress)
	return r.req.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{
		ProgressToken: token, Progress: r.last, Total: r.total, Message: message,
	})
}
