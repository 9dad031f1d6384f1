package peerhttp

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-run/skein/internal/replica"
)

// TestHugeCommand: one that is larger than any is refused before it is read.
func TestHugeCommand(t *testing.T) {
	f := &fake{}
	c := serve(t, f)
	huge := replica.Command{ID: "x", Kind: "load", Body: json.RawMessage(`"` + strings.Repeat("y", maxBody) + `"`)}
	if _, err := c.Submit(t.Context(), "n", huge); err == nil || f.got.ID != "" {
		t.Errorf("it was taken: %v", err)
	}
	if _, err := c.Submit(t.Context(), "n", replica.Command{ID: "z"}); err != nil || f.got.ID != "z" {
		t.Errorf("the next one: %v", err)
	}
}

// trickle answers a byte a second, for ever.
type trickle struct{}

func (trickle) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: drops{r.Context()}, Request: r}, nil
}

type drops struct{ ctx context.Context }

func (d drops) Read(b []byte) (int, error) {
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-t.C:
		b[0] = ' '
		return 1, nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

func (drops) Close() error { return nil }

var _ io.ReadCloser = drops{}

// TestAnswersSlowlyForEver: the caller's time is the limit, and what became of
// the command is not known.
func TestAnswersSlowlyForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Client{HTTP: &http.Client{Transport: trickle{}}}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		_, err := c.Submit(ctx, "n", replica.Command{ID: "x"})
		if !errors.Is(err, replica.ErrUnconfirmed) || time.Since(began) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}
