package client

import (
	"context"
	"net/http"
)

// KnownModel is a model that requests may name: its files are on some node of
// the cluster.
type KnownModel struct {
	ID            string `json:"id"`
	Loaded        bool   `json:"loaded"`
	ContextLength *int   `json:"context_length"` // tokens; nil: not known before the model is loaded
}

// Models lists the models that requests may name, of the whole cluster.
func (c *Client) Models(ctx context.Context) ([]KnownModel, error) {
	var out struct {
		Data []KnownModel `json:"data"`
	}
	err := c.call(ctx, http.MethodGet, "/v1/models", nil, nil, &out)
	return out.Data, err
}
