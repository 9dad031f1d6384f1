package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
)

// effect is what a tool does to the cluster.
type effect int

const (
	reads    effect = iota // nothing
	adds                   // it adds; the same call again adds nothing
	destroys               // it takes something away; the same call again takes no more
	acts                   // each call does something of its own
)

func (e effect) hints(title string) *sdk.ToolAnnotations {
	destructive, open := e == destroys, false
	return &sdk.ToolAnnotations{
		Title: title, ReadOnlyHint: e == reads, DestructiveHint: &destructive, IdempotentHint: e != acts, OpenWorldHint: &open,
	}
}

// tool describes one tool.
type tool struct {
	name, title string
	effect      effect
	description string
}

// call is one call of a tool.
type call struct {
	*client.Client
	req *sdk.CallToolRequest
}

// add registers a tool. do gets checked arguments; its error becomes the
// answer's text, with the next step.
func add[In, Out any](s *server, t tool, do func(ctx context.Context, c call, in In) (Out, error)) {
	in, err := schemaOf(reflect.TypeFor[In](), true)
	if err != nil {
		panic(err) // a mistake in this package, found by every test
	}
	out, err := schemaOf(reflect.TypeFor[Out](), false)
	if err != nil {
		panic(err)
	}
	s.mcp.AddTool(&sdk.Tool{
		Name: t.name, Title: t.title, Description: t.description, Annotations: t.effect.hints(t.title),
		InputSchema: in.text, OutputSchema: out.text,
	}, func(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		var given In
		if err := in.decode(req.Params.Arguments, &given); err != nil {
			return refusal(err), nil
		}
		var told Out
		err := s.with(ctx, func(ctx context.Context, c *client.Client) (err error) {
			told, err = do(ctx, call{c, req}, given)
			return err
		})
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx) // nobody waits for the answer
			}
			return refusal(err), nil
		}
		data, err := json.Marshal(told)
		if err != nil {
			return nil, fmt.Errorf("encode the answer of %s: %w", t.name, err)
		}
		text := string(data)
		if said, ok := any(told).(interface{ plain() string }); ok {
			text = said.plain()
		}
		return &sdk.CallToolResult{StructuredContent: json.RawMessage(data), Content: []sdk.Content{&sdk.TextContent{Text: text}}}, nil
	})
}

// nextSteps are what to do after an error, by its code.
var nextSteps = map[string]string{
	api.CodeInvalidValue:   "correct the argument and call again.",
	api.CodeInvalidBody:    "correct the arguments and call again.",
	api.CodeModelNotFound:  "call list_models and use one of its names. A model whose file is on no node must first be added there with `skein models add FILE.gguf`.",
	api.CodeAmbiguousModel: "use the full id of one of them.",
	api.CodeModelLoaded:    "use it as it is with chat; or give replicas to have more of it, or unload_model first to load it with other settings.",
	api.CodeModelNotLoaded: "call list_models; what is not loaded needs no unloading.",
	api.CodeNodeNotFound:   "call list_nodes and use one of its ids or friendly names.",
	api.CodeAmbiguousNode:  "use the whole id of one of them, from list_nodes.",
	api.CodeNotEnoughNodes: "lower min_nodes to the number of workers, or wait until more nodes are online (list_nodes).",
	api.CodeNotPlaceable:   "try plan_load with preferred_sharding auto, min_nodes 1 and without node_ids, and read its explanation.",
	api.CodeConflict:       "call cluster_overview to see how things stand now, then decide again.",
	api.CodeNoMemory:       "unload a model that nobody needs (unload_model), replace one with swap_models, or try a smaller context_length or fewer slots with plan_load.",
	api.CodeDiskFull:       "free disk space on the node, or choose others with node_ids.",
	api.CodeUnavailable:    "wait a few seconds and call again.",
	api.CodeNoMaster:       "call cluster_health; an election takes a few seconds, then call again. Reading and chat with loaded models work meanwhile.",
	api.CodeUnwritable:     "nothing was done: somebody must make room on the disks that cluster_health names. Reading and chat with loaded models work meanwhile.",
	api.CodeUnconfirmed:    "it may have been done: look with model_status or cluster_overview before you call again.",
	api.CodeNotImplemented: "do it another way; this node can't do it.",
	api.CodeInvalidAPIKey:  "ask the user for a key of the node: `skein mcp --api-key KEY`, or the header Authorization: Bearer KEY.",
}

// refusal makes an error the answer of a tool.
func refusal(err error) *sdk.CallToolResult {
	out := &sdk.CallToolResult{IsError: true}
	text, next := err.Error(), ""
	var known *api.Error
	var unreachable *client.UnreachableError
	var failed *client.FailedError
	var gone *client.GoneError
	switch {
	case errors.As(err, &known):
		next = nextSteps[known.ErrorCode()]
		switch {
		case next != "":
		case known.Status == 429:
			next = "the model has as many requests as it takes: wait a few seconds and call again, or load another replica with load_model."
		case known.Status == 403:
			next = "the key in use may not do this; ask the user for one that may."
		case known.Status >= 500:
			next = "wait a few seconds and call again; if it stays so, call cluster_health and tell the user."
		default:
			next = "correct the arguments and call again."
		}
		if known.RetryAfter > 0 {
			next += fmt.Sprintf(" The node asks for %d s.", known.RetryAfter)
		}
		detail := map[string]any{"status": known.Status, "type": known.Type, "code": known.ErrorCode()}
		if known.Param != nil {
			detail["param"] = *known.Param
		}
		out.Meta = sdk.Meta{"skein.run/error": detail}
	case errors.As(err, &unreachable):
		next = "ask the user to start a node with `skein serve`, or to name one with --host and --port."
	case errors.As(err, &failed):
		next = "read the reason; unload_model takes the failed model back, then load_model may be tried with other settings."
	case errors.As(err, &gone):
		next = "somebody unloaded it; call cluster_overview before you load it again."
	case errors.Is(err, client.ErrCutOff):
		next = "call again; if it stays so, call cluster_health."
	}
	if next != "" {
		text += "\nNext: " + next
	}
	out.Content = []sdk.Content{&sdk.TextContent{Text: text}}
	return out
}
