package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/skein-run/skein/api"
)

// ClusterModels gives what is loaded and what is being fetched.
func (c *Client) ClusterModels(ctx context.Context) (api.ClusterModels, error) {
	var out api.ClusterModels
	return out, c.call(ctx, http.MethodGet, "/v1/cluster/models", nil, nil, &out)
}

// Load asks for a model to be loaded; it answers once that is decided, before
// the work is done.
func (c *Client) Load(ctx context.Context, req api.LoadRequest) (api.LoadAnswer, error) {
	var out api.LoadAnswer
	return out, c.call(ctx, http.MethodPost, "/v1/cluster/models/load", nil, req, &out)
}

// Unload asks for a model to be unloaded.
func (c *Client) Unload(ctx context.Context, name string) (api.UnloadAnswer, error) {
	var out api.UnloadAnswer
	return out, c.call(ctx, http.MethodDelete, "/v1/cluster/models/"+escape(name), nil, nil, &out)
}

// Library is the part of the API about model files on the node's disks.
func (c *Client) Library() Library { return Library{c} }

// Library lists, registers and describes model files.
type Library struct{ c *Client }

// List gives the model files the node knows, by name.
func (l Library) List(ctx context.Context) ([]api.LibraryEntry, error) {
	var out api.LibraryList
	err := l.c.call(ctx, http.MethodGet, "/v1/cluster/library", nil, nil, &out)
	return out.Models, err
}

// Add registers files by their absolute paths on the node's machine and
// returns once they are listed.
func (l Library) Add(ctx context.Context, paths []string) ([]api.LibraryEntry, error) {
	var out api.AddAnswer
	err := l.c.call(ctx, http.MethodPost, "/v1/cluster/library", nil, api.AddRequest{Paths: paths}, &out)
	return out.Models, err
}

// Show gives a model's metadata and its memory for contextLength tokens in
// each of slots slots; 0 stands for the node's defaults.
func (l Library) Show(ctx context.Context, name string, contextLength, slots int) (api.LibraryModel, error) {
	query := url.Values{}
	if contextLength > 0 {
		query.Set("context_length", strconv.Itoa(contextLength))
	}
	if slots > 0 {
		query.Set("slots", strconv.Itoa(slots))
	}
	var out api.LibraryModel
	return out, l.c.call(ctx, http.MethodGet, "/v1/cluster/library/"+escape(name), query, nil, &out)
}

// Remove takes a model off the list. Its files stay.
func (l Library) Remove(ctx context.Context, name string) (api.LibraryEntry, error) {
	var out api.RemoveAnswer
	err := l.c.call(ctx, http.MethodDelete, "/v1/cluster/library/"+escape(name), nil, nil, &out)
	return out.Model, err
}

// Alive asks the node whether it is there at all; it needs no key.
func (c *Client) Alive(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/healthz", nil, nil, nil)
}
