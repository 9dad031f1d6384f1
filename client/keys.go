package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/skein-run/skein/api"
)

// Keys lists the keys of the cluster, without their secrets.
func (c *Client) Keys(ctx context.Context) (api.KeyList, error) {
	var out api.KeyList
	return out, c.call(ctx, http.MethodGet, "/v1/cluster/keys", nil, nil, &out)
}

// AddKey makes a key. The answer has its secret, which nobody can show again.
func (c *Client) AddKey(ctx context.Context, req api.AddKeyRequest) (api.AddKeyAnswer, error) {
	var out api.AddKeyAnswer
	return out, c.command(ctx, http.MethodPost, "/v1/cluster/keys", nil, req, &out)
}

// RevokeKey ends a key.
func (c *Client) RevokeKey(ctx context.Context, name string) (api.RevokeKeyAnswer, error) {
	var out api.RevokeKeyAnswer
	return out, c.command(ctx, http.MethodDelete, "/v1/cluster/keys/"+url.PathEscape(name), nil, nil, &out)
}

// Audit lists the last commands and who gave them, oldest first.
func (c *Client) Audit(ctx context.Context) (api.AuditList, error) {
	var out api.AuditList
	return out, c.call(ctx, http.MethodGet, "/v1/cluster/audit", nil, nil, &out)
}
