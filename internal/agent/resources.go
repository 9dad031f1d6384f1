package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
)

const (
	jsonType     = "application/json"
	nodePrefix   = "skein://nodes/"
	modelsPrefix = "skein://models/"
)

// oneModel is the resource of one model.
type oneModel struct {
	Status    api.ModelStatus `json:"status"`
	Instances []api.Model     `json:"instances"`
}

// addResources registers the state as documents.
func (s *server) addResources() {
	for _, r := range []struct {
		uri, title, description string
		read                    func(ctx context.Context, c *client.Client) (any, error)
	}{
		{"skein://cluster", "Cluster overview", "All of the cluster; the same as the tool cluster_overview", func(ctx context.Context, c *client.Client) (any, error) { return c.Overview(ctx) }},
		{"skein://health", "Cluster health", "The same as the tool cluster_health", func(ctx context.Context, c *client.Client) (any, error) { return c.Health(ctx) }},
		{"skein://nodes", "Nodes", "The machines; the same as the tool list_nodes", func(ctx context.Context, c *client.Client) (any, error) { return c.Nodes(ctx) }},
		{"skein://models", "Models", "What is loaded and what can be; the same as the tool list_models", func(ctx context.Context, c *client.Client) (any, error) { return listModels(ctx, c) }},
	} {
		_, name, _ := strings.Cut(r.uri, "://")
		s.mcp.AddResource(&sdk.Resource{URI: r.uri, Name: name, Title: r.title, Description: r.description, MIMEType: jsonType},
			s.reading(func(ctx context.Context, c *client.Client, _ string) (any, error) { return r.read(ctx, c) }))
	}
	s.mcp.AddResourceTemplate(&sdk.ResourceTemplate{
		URITemplate: nodePrefix + "{node}", Name: "node", Title: "One node", MIMEType: jsonType,
		Description: "One machine, by its id, a prefix of it, or its friendly name",
	}, s.reading(func(ctx context.Context, c *client.Client, uri string) (any, error) {
		ref, err := nameIn(uri, nodePrefix)
		if err != nil {
			return nil, err
		}
		return c.Node(ctx, ref)
	}))
	s.mcp.AddResourceTemplate(&sdk.ResourceTemplate{
		URITemplate: modelsPrefix + "{+model_id}", Name: "model", Title: "One model", MIMEType: jsonType,
		Description: "Status and instances of one model, by its full id, which may contain slashes, or the last part of it",
	}, s.reading(func(ctx context.Context, c *client.Client, uri string) (any, error) {
		name, err := nameIn(uri, modelsPrefix)
		if err != nil {
			return nil, err
		}
		out := oneModel{Instances: []api.Model{}}
		if out.Status, err = c.ModelStatus(ctx, name); err != nil {
			return nil, err
		}
		if !out.Status.Found && out.Status.Error != "" {
			return nil, api.NewError(http.StatusNotFound, api.CodeModelNotFound, "", out.Status.Error)
		}
		all, err := c.ClusterModels(ctx)
		for _, m := range all.Loaded {
			if m.ModelID == out.Status.ModelID {
				out.Instances = append(out.Instances, m)
			}
		}
		return out, err
	}))
}

// nameIn is what a URI has after its prefix.
func nameIn(uri, prefix string) (string, error) {
	name, err := url.PathUnescape(strings.TrimPrefix(uri, prefix))
	if err != nil || name == "" {
		return "", api.NewError(http.StatusUnprocessableEntity, api.CodeInvalidValue, "uri", fmt.Sprintf("%q names nothing after %s", uri, prefix))
	}
	return name, nil
}

// reading answers the read of a resource with a document.
func (s *server) reading(read func(ctx context.Context, c *client.Client, uri string) (any, error)) sdk.ResourceHandler {
	return func(ctx context.Context, req *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
		var text []byte
		err := s.with(ctx, func(ctx context.Context, c *client.Client) error {
			doc, err := read(ctx, c, req.Params.URI)
			if err != nil {
				return err
			}
			text, err = json.Marshal(doc)
			return err
		})
		if err != nil {
			return nil, unreadable(err)
		}
		out := &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{{URI: req.Params.URI, MIMEType: jsonType, Text: string(text)}}}
		out.CacheScope = "private" // a key may have been needed
		return out, nil
	}
}

// unreadable is the protocol's error of a resource, with the API's message.
func unreadable(err error) error {
	code := int64(jsonrpc.CodeInternalError)
	var known *api.Error
	if errors.As(err, &known) && known.Status < http.StatusInternalServerError {
		code = jsonrpc.CodeInvalidParams // the protocol's code of a resource that is not there, too
	}
	return &jsonrpc.Error{Code: code, Message: err.Error()}
}
