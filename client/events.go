package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/skein-run/skein/api"
)

// Waiting between attempts to connect to a stream of changes again.
const (
	followFirst = 200 * time.Millisecond
	followMost  = 5 * time.Second
)

// FollowOptions say what to follow.
type FollowOptions struct {
	After        string   // go on after the event of this id; "": begin with a snapshot
	Types        []string // of api.Event..., without snapshots, which always come; nil: all
	Measurements bool     // also when only memory, use or speed changed
	// Lost is told when the connection broke, before it is made again; may be
	// nil. Its error ends the following.
	Lost func(err error) error
}

// Follow hands the changes of the cluster to emit, in order and from the
// calling goroutine, until ctx ends, emit gives an error, or the node refuses.
// A broken connection is made again, and goes on where it broke; what can't be
// made up for is a new snapshot.
func (c *Client) Follow(ctx context.Context, o FollowOptions, emit func(api.Event) error) error {
	wait := followFirst
	for {
		var stop error
		err := c.follow(ctx, o, func(e api.Event) error {
			o.After, wait = e.ID, followFirst
			stop = emit(e)
			return stop
		})
		switch {
		case stop != nil:
			return stop
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		if !passing(err) {
			return err
		}
		if o.Lost != nil {
			if err := o.Lost(err); err != nil {
				return err
			}
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, followMost)
	}
}

// passing tells that a stream may be had again: the connection broke, or the
// node stops or starts.
func passing(err error) bool {
	var unreachable *UnreachableError
	var refused *api.Error
	return errors.As(err, &unreachable) || errors.Is(err, ErrCutOff) || errors.As(err, &refused) && refused.Status == http.StatusServiceUnavailable
}

// follow reads one connection to its end, which is an error.
func (c *Client) follow(ctx context.Context, o FollowOptions, emit func(api.Event) error) error {
	query := url.Values{}
	if len(o.Types) > 0 {
		query.Set("types", strings.Join(o.Types, ","))
	}
	if o.Measurements {
		query.Set("measurements", "true")
	}
	header := http.Header{}
	if o.After != "" {
		header.Set("Last-Event-ID", o.After)
	}
	res, err := c.sendWith(ctx, header, http.MethodGet, "/v1/cluster/events", query, nil, "text/event-stream")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if kind := res.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/event-stream") {
		return api.NewError(http.StatusNotImplemented, "", "", fmt.Sprintf("%s answered with %q instead of a stream; is it a skein node of this version?", c.base, kind))
	}
	err = readEvents(res.Body, func(data []byte) error {
		var e api.Event
		if err := json.Unmarshal(data, &e); err != nil {
			return fmt.Errorf("read a change of the cluster: %w", err)
		}
		return emit(e)
	})
	if err == nil {
		err = ErrCutOff // the node stops
	}
	return err
}
