package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/skein-run/skein/api"
)

// A wait ends with the instance that was made, not with one that was there
// before, and says how it failed or that it went.
func TestWait(t *testing.T) {
	model := func(instance, status string) api.Model {
		return api.Model{ModelID: "m", InstanceID: instance, Status: status, Ready: status == api.StatusReady, Error: map[string]string{api.StatusFailed: "no disk"}[status]}
	}
	snapshot := func(models ...api.Model) api.Event {
		return api.Event{Type: api.EventSnapshot, Cluster: &api.Overview{Models: models}}
	}
	change := func(kind string, m api.Model) api.Event {
		return api.Event{Type: api.EventModel, Change: kind, Model: &m}
	}
	old, other := model("old", api.StatusReady), api.Model{ModelID: "n", InstanceID: "x", Status: api.StatusFailed}
	for name, c := range map[string]struct {
		instance string
		events   []api.Event
		shown    int    // times that progress is told
		ready    string // the instance; "": the error
		err      string
	}{
		"ready at once":          {"old", []api.Event{snapshot(old)}, 1, "old", ""},
		"the new one":            {"new", []api.Event{snapshot(old, other), change(api.ChangeAdded, model("new", api.StatusLoading)), change(api.ChangeChanged, model("new", api.StatusReady))}, 2, "new", ""},
		"any without a place":    {"", []api.Event{snapshot(model("", api.StatusLoading)), change(api.ChangeAdded, model("a", api.StatusReady))}, 2, "a", ""},
		"failed":                 {"new", []api.Event{snapshot(), change(api.ChangeAdded, model("new", api.StatusFailed))}, 1, "", "m failed: no disk"},
		"another way after that": {"new", []api.Event{snapshot(model("new", api.StatusLoading)), change(api.ChangeAdded, model("next", api.StatusReady))}, 2, "next", ""},
		"gone":                   {"new", []api.Event{snapshot(model("new", api.StatusLoading)), change(api.ChangeRemoved, model("new", api.StatusStopping))}, 1, "", "m was unloaded while it was waited for"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for _, e := range c.events {
				data, err := json.Marshal(e)
				if err != nil {
					t.Error(err)
				}
				fmt.Fprintf(w, "data: %s\n\n", data)
			}
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}))
		client, err := New(Options{BaseURL: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		shown := 0
		m, err := client.Wait(t.Context(), WaitOptions{Model: "m", Instance: c.instance, Progress: func(api.Model) error { shown++; return nil }})
		if m.InstanceID != c.ready || c.err == "" && err != nil || c.err != "" && (err == nil || err.Error() != c.err) || shown != c.shown {
			t.Errorf("%s: %+v, %v, shown %d times", name, m, err, shown)
		}
		stop := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		_, err = client.Wait(ctx, WaitOptions{Model: "n?", Progress: func(api.Model) error { return nil }, Lost: func(error) error { return nil }, Instance: func() string { cancel(stop); return "" }()})
		if !errors.Is(err, stop) {
			t.Errorf("%s: cancelled: %v", name, err)
		}
		client.Close()
		server.Close()
	}
}
