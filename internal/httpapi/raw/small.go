package raw

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/httpapi/raw/shape"
)

// state answers GET /state, and what lies at a path in it.
func (d *Dialect) state(w http.ResponseWriter, r *http.Request) error {
	in, err := d.o.Cluster.Snapshot(r.Context())
	if err != nil {
		return err
	}
	s := shape.StateOf(in, d.o.Node)
	var path []string
	if p := strings.Trim(r.PathValue("path"), "/"); p != "" {
		path = strings.Split(p, "/")
	}
	v, ok, err := s.At(path)
	switch {
	case err != nil:
		return err
	case !ok:
		return notFound(fmt.Sprintf("there is nothing at %s in the state", quoted(strings.Join(path, "."))))
	}
	return answer(w, v)
}

// events answers with the log that is kept, as one array.
func (d *Dialect) events(w http.ResponseWriter, r *http.Request) error {
	begun := false
	err := d.o.Cluster.Events(r.Context(), func(e cluster.Event) error {
		b, err := event(e)
		if err != nil {
			return err
		}
		lead := byte(',')
		if !begun {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Cache-Control", "no-store")
			begun, lead = true, '['
		}
		_, err = w.Write(append([]byte{lead}, b...))
		return err
	})
	switch {
	case err != nil && begun:
		panic(http.ErrAbortHandler) // half an array must not look like a whole one
	case err != nil:
		return err
	case !begun:
		return answer(w, []any{})
	}
	_, _ = w.Write([]byte("]\n")) // a client that hung up needs no answer
	return nil
}

// event wraps an event as exo does: an object whose one key is the kind, in
// words without blanks. Its fields are the change's own and these.
func event(e cluster.Event) ([]byte, error) {
	change, err := json.Marshal(e.Change)
	if err != nil {
		return nil, fmt.Errorf("write event %d: %w", e.Index, err)
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(change, &fields); err != nil {
		return nil, fmt.Errorf("write event %d: %w", e.Index, err)
	}
	fields["event_id"] = fmt.Appendf(nil, `"%d"`, e.Index)
	when, err := json.Marshal(e.At.UTC())
	if err != nil {
		return nil, fmt.Errorf("write event %d: %w", e.Index, err)
	}
	fields["when"] = when
	name := ""
	for word := range strings.SplitSeq(cluster.KindOf(e.Change), "_") {
		name += strings.ToUpper(word[:1]) + word[1:]
	}
	return json.Marshal(map[string]any{name: fields})
}

// onboarding tells whether it was done, and with POST that it is.
func (d *Dialect) onboarding(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodPost {
		if err := d.o.Onboarding.Finish(); err != nil {
			return err
		}
	}
	done, err := d.o.Onboarding.Done()
	if err != nil {
		return err
	}
	return answer(w, map[string]bool{"completed": done})
}

func (d *Dialect) featureFlags(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, map[string]bool{"disaggregation": false})
}

func (d *Dialect) links(w http.ResponseWriter, _ *http.Request) error { return answer(w, []any{}) }

func (d *Dialect) noLinks(http.ResponseWriter, *http.Request) error {
	return notFound("prompts and answers are not computed on different instances here, so that there are no links between them (feature flag disaggregation: false)")
}

// images lists those that were made, which none are.
func (d *Dialect) images(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, map[string][]any{"data": {}})
}

func (d *Dialect) traces(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, map[string][]any{"traces": {}})
}

func (d *Dialect) noTrace(_ http.ResponseWriter, r *http.Request) error {
	return notFound(fmt.Sprintf("there is no trace %s: nothing is traced here", quoted(r.PathValue("task"))))
}

func (d *Dialect) deleteTraces(w http.ResponseWriter, r *http.Request) error {
	o, err := body(w, r)
	if err != nil {
		return err
	}
	names := []string{}
	if err := o.Need("", "taskIds", "a list of strings", &names); err != nil {
		return err
	}
	return answer(w, map[string][]string{"deleted": {}, "notFound": names})
}

// cancel ends a request by the id of its answer, on whichever node it is. One
// of another key is answered as one that is not there, so that nobody learns
// what others ask.
func (d *Dialect) cancel(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	found, silent := d.o.Commands.Cancel(r.Context(), id)
	if found {
		return answer(w, map[string]string{"message": "cancelled", "command_id": id})
	}
	message := fmt.Sprintf("there is no open request %s: it has ended, or never was (the id is that of the answer)", quoted(id))
	if c, ok := httpapi.CallerOf(r.Context()); ok && !c.May(httpapi.NeedManage) {
		message = fmt.Sprintf("key %s has no open request %s: it has ended, or is of another key, or never was (the id is that of the answer)", c.Name, quoted(id))
	}
	if silent > 0 {
		message += fmt.Sprintf("; %d nodes did not say whether they have it", silent)
	}
	return notFound(message)
}
