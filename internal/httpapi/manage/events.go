package manage

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/httpapi/manage/feed"
)

// eventKeepAlive is the longest silence of a stream of changes.
const eventKeepAlive = 15 * time.Second

const eventsDoc = `Server-sent events, one for each change of a node, a model, a task, a download, or the master,
and for each command that somebody gave. The data of each is an Event. A stream begins with the event "snapshot", the whole overview, unless it goes on after Last-Event-ID; if that id is
no longer known, the snapshot says so in "reason". Silence is broken by comments.`

// eventKinds are what the parameter types may list.
var eventKinds = []string{api.EventNode, api.EventModel, api.EventTask, api.EventDownload, api.EventMaster, api.EventAudit}

func (d *Dialect) registerEvents(m mount, r *routes) {
	schema := m.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[api.Event](), true, "Event")
	text := &huma.Schema{Type: huma.TypeString}
	o := m.operation(http.MethodGet, "/v1/cluster/events", "follow-events", "cluster", "Follow the changes of the cluster", http.StatusUnprocessableEntity, http.StatusServiceUnavailable)
	o.Description = eventsDoc
	o.Parameters = []*huma.Param{
		{Name: "Last-Event-ID", In: "header", Description: "Go on after the event of this id", Schema: text},
		{Name: "last_event_id", In: "query", Description: "The same, for clients that cannot set headers", Schema: text},
		{Name: "types", In: "query", Description: "Only these, separated by commas: " + strings.Join(eventKinds, ", "), Schema: text},
		{Name: "measurements", In: "query", Description: "Also when only memory, use or speed changed", Schema: &huma.Schema{Type: huma.TypeBoolean}},
	}
	o.Responses["200"] = &huma.Response{Description: "OK", Content: map[string]*huma.MediaType{"text/event-stream": {Schema: schema}}}
	m.OpenAPI().AddOperation(&o)
	r.Mux.HandleFunc("GET /v1/cluster/events", d.events)
}

// selection is which events a client wants.
type selection struct {
	types    []string // nil: all
	measured bool
}

func (s selection) wants(e api.Event) bool {
	return e.Type == api.EventSnapshot || (s.types == nil || slices.Contains(s.types, e.Type)) && (s.measured || !e.Measured)
}

func selectionOf(r *http.Request) (selection, error) {
	var s selection
	q := r.URL.Query()
	refuse := func(param, message string) error {
		return &httpapi.Error{Status: http.StatusUnprocessableEntity, Type: httpapi.TypeInvalidRequest, Code: api.CodeInvalidValue, Param: param, Message: message}
	}
	if given := q.Get("measurements"); given != "" {
		var err error
		if s.measured, err = strconv.ParseBool(given); err != nil {
			return s, refuse("measurements", "measurements must be true or false")
		}
	}
	if given := q.Get("types"); given != "" {
		for t := range strings.SplitSeq(given, ",") {
			if !slices.Contains(eventKinds, t) {
				return s, refuse("types", "types must be of "+strings.Join(eventKinds, ", "))
			}
			s.types = append(s.types, t)
		}
	}
	return s, nil
}

// events answers GET /v1/cluster/events.
func (d *Dialect) events(w http.ResponseWriter, r *http.Request) {
	selected, err := selectionOf(r)
	if err != nil {
		httpapi.WriteError(w, err)
		return
	}
	after := r.Header.Get("Last-Event-ID")
	if after == "" {
		after = r.URL.Query().Get("last_event_id")
	}
	stream, err := d.feed.Follow(r.Context(), after)
	if errors.Is(err, feed.ErrClosed) {
		err = httpapi.ErrStopping
	}
	if err != nil {
		var known *failure
		if errors.As(fail(err, ""), &known) {
			err = known.body
		}
		httpapi.WriteError(w, err)
		return
	}
	defer stream.Close()
	out := httpapi.NewEventStream(w, eventKeepAlive)
	defer out.End()
	// Headers go out at once, also where no event is due for long.
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		return
	}
	if out.Send([]byte("retry: 1000\n\n")) != nil {
		return
	}
	for {
		events, err := stream.Next(r.Context())
		if err != nil {
			return // the client is gone, or the node stops
		}
		var text []byte
		for _, e := range events {
			if selected.wants(e) {
				text = appendEvent(text, e)
			}
		}
		if len(text) > 0 && out.Send(text) != nil {
			return
		}
	}
}

// appendEvent writes an event as it is sent.
func appendEvent(text []byte, e api.Event) []byte {
	data, err := json.Marshal(e)
	if err != nil {
		// Views hold numbers and strings only: this is a mistake in them.
		panic(fmt.Sprintf("manage: encode event %s: %v", e.ID, err))
	}
	text = append(text, "id: "+e.ID+"\nevent: "+e.Type+"\ndata: "...)
	text = append(text, data...)
	return append(text, "\n\n"...)
}
