package client

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/skein-run/skein/api"
)

// Overview gives all of the cluster.
func (c *Client) Overview(ctx context.Context) (api.Overview, error) {
	var out api.Overview
	return out, c.call(ctx, http.MethodGet, "/v1/cluster", nil, nil, &out)
}

// Health tells whether the cluster has nodes and a master.
func (c *Client) Health(ctx context.Context) (api.Health, error) {
	var out api.Health
	return out, c.call(ctx, http.MethodGet, "/v1/cluster/health", nil, nil, &out)
}

// Nodes lists the machines.
func (c *Client) Nodes(ctx context.Context) (api.NodeList, error) {
	var out api.NodeList
	return out, c.call(ctx, http.MethodGet, "/v1/cluster/nodes", nil, nil, &out)
}

// Node gives one machine by its id, a prefix of the id, or its friendly name.
func (c *Client) Node(ctx context.Context, ref string) (api.Node, error) {
	var out api.Node
	return out, c.call(ctx, http.MethodGet, "/v1/cluster/nodes/"+url.PathEscape(ref), nil, nil, &out)
}

// NodeID is the id of the node that answers.
func (c *Client) NodeID(ctx context.Context) (string, error) {
	var out string
	return out, c.call(ctx, http.MethodGet, "/node_id", nil, nil, &out)
}

// ClusterModels gives what is loaded and what is being fetched.
func (c *Client) ClusterModels(ctx context.Context) (api.ClusterModels, error) {
	var out api.ClusterModels
	return out, c.call(ctx, http.MethodGet, "/v1/cluster/models", nil, nil, &out)
}

// ModelStatus tells how far a model is; also of one that is not loaded.
func (c *Client) ModelStatus(ctx context.Context, name string) (api.ModelStatus, error) {
	var out api.ModelStatus
	return out, c.call(ctx, http.MethodGet, "/v1/cluster/models/"+escape(name)+"/status", nil, nil, &out)
}

// Load asks for a model to be loaded; it answers once that is decided, before
// the work is done.
func (c *Client) Load(ctx context.Context, req api.LoadRequest) (api.LoadAnswer, error) {
	var out api.LoadAnswer
	return out, c.command(ctx, http.MethodPost, "/v1/cluster/models/load", nil, req, &out)
}

// Swap asks for one model to be unloaded and another to be loaded, as one
// decision.
func (c *Client) Swap(ctx context.Context, req api.SwapRequest) (api.SwapAnswer, error) {
	var out api.SwapAnswer
	return out, c.command(ctx, http.MethodPost, "/v1/cluster/models/swap", nil, req, &out)
}

// DefaultDrain lets the node choose how long open requests may go on.
const DefaultDrain = time.Duration(-1)

// Unload asks for all replicas of a model to be unloaded. Open requests may go
// on for drain.
func (c *Client) Unload(ctx context.Context, name string, drain time.Duration) (api.UnloadAnswer, error) {
	query := url.Values{}
	if drain >= 0 {
		query.Set("drain_seconds", strconv.FormatFloat(drain.Seconds(), 'f', -1, 64))
	}
	var out api.UnloadAnswer
	return out, c.command(ctx, http.MethodDelete, "/v1/cluster/models/"+escape(name), query, nil, &out)
}

// Promote hands the lead of the cluster to a node.
func (c *Client) Promote(ctx context.Context, node string) (api.PromoteAnswer, error) {
	var out api.PromoteAnswer
	return out, c.command(ctx, http.MethodPost, "/v1/cluster/master", nil, api.PromoteRequest{NodeID: node}, &out)
}

// Drain moves everything off a node and gives it nothing new.
func (c *Client) Drain(ctx context.Context, node string) (api.DrainAnswer, error) {
	var out api.DrainAnswer
	return out, c.command(ctx, http.MethodPost, "/v1/cluster/nodes/"+url.PathEscape(node)+"/drain", nil, nil, &out)
}

// Resume lets a drained node take new work.
func (c *Client) Resume(ctx context.Context, node string) (api.DrainAnswer, error) {
	var out api.DrainAnswer
	return out, c.command(ctx, http.MethodPost, "/v1/cluster/nodes/"+url.PathEscape(node)+"/resume", nil, nil, &out)
}

// command sends a command under an id of its own. While the cluster has no
// master, or did not confirm it, the same command is sent again, for as long as
// Options.Patience: with one id it is done once, however often it arrives.
func (c *Client) command(ctx context.Context, method, path string, query url.Values, in, out any) error {
	header := http.Header{"Idempotency-Key": {rand.Text()}}
	end := time.Now().Add(c.patience)
	for {
		err := c.callWith(ctx, header, method, path, query, in, out)
		var refused *api.Error
		if !errors.As(err, &refused) || refused.ErrorCode() != api.CodeNoMaster && refused.ErrorCode() != api.CodeUnconfirmed {
			return err
		}
		wait := min(time.Until(end), time.Second/4)
		if wait <= 0 {
			return err
		}
		if stop := pause(ctx, wait); stop != nil {
			return stop
		}
	}
}

// pause waits, and gives the reason if ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
