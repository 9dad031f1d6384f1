package manage

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/view"
)

// reader reads one stream of changes.
type reader struct {
	t       *testing.T
	scanner *bufio.Scanner
	end     func()
}

func open(t *testing.T, url, after string) *reader {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if after != "" {
		req.Header.Set("Last-Event-ID", after)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		t.Fatalf("%d %s", res.StatusCode, res.Header)
	}
	scanner := bufio.NewScanner(res.Body)
	scanner.Buffer(nil, 1<<20)
	end := func() {
		cancel()
		res.Body.Close()
	}
	t.Cleanup(end)
	return &reader{t, scanner, end}
}

// next reads one event; id and name must be those of its data.
func (r *reader) next() api.Event {
	r.t.Helper()
	var id, name string
	for r.scanner.Scan() {
		field, value, _ := strings.Cut(r.scanner.Text(), ": ")
		switch field {
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			var e api.Event
			if err := json.Unmarshal([]byte(value), &e); err != nil {
				r.t.Fatal(err)
			}
			if e.ID != id || e.Type != name || id == "" {
				r.t.Fatalf("id %q, name %q, and in the data %q, %q", id, name, e.ID, e.Type)
			}
			return e
		}
	}
	r.t.Fatalf("the stream ended: %v", r.scanner.Err())
	return api.Event{}
}

func TestEvents(t *testing.T) {
	f := newFake()
	d, err := New(options(f))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	d.Register(mux)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	t.Cleanup(d.Close) // before the server: its streams would hold it
	url := server.URL + "/v1/cluster/events"

	all := open(t, url+"?measurements=true", "")
	models := open(t, url+"?types=model,master", "")
	first := all.next()
	if first.Type != api.EventSnapshot || first.Cluster == nil || len(first.Cluster.Nodes) != 2 || first.Reason != "" {
		t.Fatalf("first %+v", first)
	}
	if e := models.next(); e.Type != api.EventSnapshot {
		t.Fatalf("first of the models %+v", e)
	}
	f.change(func(in *view.Inputs) {
		v := in.Vitals["n2"]
		v.Devices = []cluster.DeviceVitals{{Total: 64 * gb, Available: 10 * gb}}
		in.Vitals["n2"] = v
	})
	measured := all.next()
	if measured.Type != api.EventNode || !measured.Measured || measured.Node.RAMAvailableGB != 10 {
		t.Fatalf("memory changed: %+v", measured)
	}
	f.change(func(in *view.Inputs) {
		in.Master = "n2"
		i := in.State.Instances["i1"]
		i.Releasing = "unloaded"
		in.State.Instances = map[string]cluster.Instance{"i1": i}
		in.State.Wanted = nil
	})
	var types []string
	var last api.Event
	for len(types) < 4 {
		last = all.next()
		types = append(types, last.Type)
	}
	if !slices.Equal(types, []string{api.EventMaster, api.EventNode, api.EventNode, api.EventModel}) || last.Model.Status != api.StatusStopping {
		t.Errorf("then %v, last %+v", types, last)
	}
	if e := models.next(); e.Type != api.EventMaster || *e.MasterNodeID != "n2" {
		t.Errorf("the models' stream: %+v", e)
	}
	if e := models.next(); e.ID != last.ID {
		t.Errorf("the models' stream: %+v", e)
	}
	all.end()

	// Taken up again, by header and by query.
	again := open(t, url, measured.ID)
	if e := again.next(); e.Type != api.EventMaster {
		t.Errorf("after the memory: %+v", e)
	}
	again = open(t, url+"?last_event_id="+first.ID+"&types=model", "")
	if e := again.next(); e.ID != last.ID {
		t.Errorf("after the first: %+v", e)
	}
	again = open(t, url, "other.7")
	if e := again.next(); e.Type != api.EventSnapshot || !strings.Contains(e.Reason, "other.7") {
		t.Errorf("after an id of nobody: %+v", e)
	}
	// When the node stops, streams end, and no new one begins.
	d.Close()
	for again.scanner.Scan() {
		if text := again.scanner.Text(); text != "" {
			t.Errorf("the stream goes on: %s", text)
		}
	}
	if w := call(mux, "GET", "/v1/cluster/events", ""); w.Code != 503 || !strings.Contains(w.Body.String(), "stopping") {
		t.Errorf("when stopped: %d %s", w.Code, w.Body)
	}
}
