package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/skein-run/skein/api"
)

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

// FullName gives the full name of a model that any node of the cluster has. An
// unknown one is an *api.Error with status 404 that says what there is.
func (c *Client) FullName(ctx context.Context, model string) (string, error) {
	var m struct {
		ID string `json:"id"`
	}
	if err := c.call(ctx, http.MethodGet, "/v1/models/"+url.PathEscape(model), nil, nil, &m); err != nil {
		return "", err
	}
	return m.ID, nil
}
