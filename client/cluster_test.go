package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/api"
)

func refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(api.ErrorResponse{Error: *api.NewError(status, code, "", "no")})
}

// A command that nobody could order is sent again under the same id; any other
// refusal stands.
func TestPatience(t *testing.T) {
	var keys, codes []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		if len(codes) > 0 {
			code := codes[0]
			codes = codes[1:]
			refuse(w, 503, code)
			return
		}
		fmt.Fprint(w, `{"model_id":"m"}`)
	}))
	defer server.Close()
	client := func(patience time.Duration) *Client {
		c, err := New(Options{BaseURL: server.URL, Patience: patience})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	codes = []string{api.CodeNoMaster, api.CodeUnconfirmed}
	if out, err := client(time.Minute).Load(t.Context(), api.LoadRequest{ModelID: "m"}); err != nil || out.ModelID != "m" || len(keys) != 3 || keys[0] == "" || keys[0] != keys[2] {
		t.Errorf("%+v, %v, keys %q", out, err, keys)
	}
	var refused *api.Error
	for patience, code := range map[time.Duration]string{time.Minute: api.CodeUnavailable, 0: api.CodeNoMaster} {
		keys, codes = nil, []string{code}
		if _, err := client(patience).Unload(t.Context(), "m", DefaultDrain); !errors.As(err, &refused) || refused.ErrorCode() != code || len(keys) != 1 {
			t.Errorf("patience %v, %s: %v after %d tries", patience, code, err, len(keys))
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	codes = slices.Repeat([]string{api.CodeNoMaster}, 1000)
	stopping := client(time.Hour)
	stopping.http.Transport = cancelAfter{http.DefaultTransport, func() { cancel(cause) }}
	if _, err := stopping.Promote(ctx, "n"); !errors.Is(err, cause) {
		t.Errorf("when cancelled: %v", err)
	}
}

// cancelAfter calls then once an answer's headers are there.
type cancelAfter struct {
	http.RoundTripper
	then func()
}

func (c cancelAfter) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := c.RoundTripper.RoundTrip(r.WithContext(context.WithoutCancel(r.Context())))
	if err == nil {
		c.then()
	}
	return res, err
}

func TestFollow(t *testing.T) {
	// What each connection does, in turn.
	var asked []string
	script := []func(w http.ResponseWriter){
		func(w http.ResponseWriter) { refuse(w, 503, api.CodeUnavailable) },
		func(w http.ResponseWriter) {
			fmt.Fprint(w, "retry: 1000\n\nid: e.1\nevent: snapshot\ndata: {\"id\":\"e.1\",\"type\":\"snapshot\",\"cluster\":{\"node_count\":3}}\n\n: keep-alive\n\n")
			fmt.Fprint(w, "data: {\"id\":\"e.2\",\"type\":\"model\",\"model\":{\"model_id\":\"m\"}}\n\ndata: {\"half")
		},
		func(w http.ResponseWriter) { fmt.Fprint(w, "data: {\"id\":\"e.3\",\"type\":\"master\"}\n\n") },
		func(w http.ResponseWriter) { refuse(w, 401, api.CodeInvalidAPIKey) },
	}
	c := node(t, "", func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RawQuery+" after "+r.Header.Get("Last-Event-ID"))
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		script[len(asked)-1](w)
	})
	var ids []string
	lost := 0
	err := c.Follow(t.Context(), FollowOptions{Types: []string{"model", "master"}, Measurements: true, Lost: func(error) error { lost++; return nil }}, func(e api.Event) error {
		ids = append(ids, e.ID)
		if e.Type == api.EventSnapshot && e.Cluster.NodeCount != 3 {
			t.Errorf("snapshot %+v", e)
		}
		return nil
	})
	var refused *api.Error
	if !errors.As(err, &refused) || refused.Status != 401 || !slices.Equal(ids, []string{"e.1", "e.2", "e.3"}) || lost != 3 {
		t.Errorf("%v, events %q, lost %d", err, ids, lost)
	}
	query := "measurements=true&types=model%2Cmaster after "
	if want := []string{query, query, query + "e.2", query + "e.3"}; !slices.Equal(asked, want) {
		t.Errorf("asked %q", asked)
	}
}

// What ends a following, beside refusals.
func TestFollowEnds(t *testing.T) {
	enough := errors.New("enough")
	text := "data: {\"id\":\"e.1\",\"type\":\"master\"}\n\n"
	kind := "text/event-stream"
	c := node(t, "", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		fmt.Fprint(w, text)
	})
	if err := c.Follow(t.Context(), FollowOptions{}, func(api.Event) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("emit ends it: %v", err)
	}
	quiet := func(api.Event) error { return nil }
	if err := c.Follow(t.Context(), FollowOptions{Lost: func(error) error { return enough }}, quiet); !errors.Is(err, enough) {
		t.Errorf("Lost ends it: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	if err := c.Follow(ctx, FollowOptions{}, func(api.Event) error { cancel(enough); return nil }); !errors.Is(err, enough) {
		t.Errorf("the context ends it: %v", err)
	}
	text = "data: nonsense\n\n"
	if err := c.Follow(t.Context(), FollowOptions{}, quiet); err == nil || errors.Is(err, ErrCutOff) {
		t.Errorf("nonsense: %v", err)
	}
	kind = "text/html"
	if err := c.Follow(t.Context(), FollowOptions{}, quiet); err == nil {
		t.Error("a page is no stream")
	}
}
