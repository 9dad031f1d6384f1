package openai

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/skein-run/skein/internal/httpapi"
)

// modelObject is OpenAI's model, and two fields of our own.
type modelObject struct {
	ID      string `json:"id"`
	Object  string `json:"object"` // "model"
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`

	Loaded        bool `json:"loaded"`
	ContextLength *int `json:"context_length"` // null: not known before the model is loaded
}

func objectOf(m Model) modelObject {
	o := modelObject{ID: m.ID, Object: "model", Created: m.Created, OwnedBy: m.OwnedBy, Loaded: m.Loaded}
	if m.ContextLength > 0 {
		o.ContextLength = &m.ContextLength
	}
	return o
}

func (a *API) models(w http.ResponseWriter, r *http.Request) {
	all, err := a.options.Engine.Models(r.Context())
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	list := struct {
		Object string        `json:"object"`
		Data   []modelObject `json:"data"`
	}{Object: "list", Data: []modelObject{}}
	for _, m := range all {
		list.Data = append(list.Data, objectOf(m))
	}
	a.answer(w, r, list)
}

func (a *API) model(w http.ResponseWriter, r *http.Request) {
	id := strings.TrimRight(r.PathValue("id"), "/")
	if id == "" {
		a.models(w, r)
		return
	}
	m, err := a.options.Engine.Model(r.Context(), id)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	a.answer(w, r, objectOf(m))
}

// answer sends a whole JSON response.
func (a *API) answer(w http.ResponseWriter, r *http.Request, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	a.send(w, body)
}

func (a *API) send(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	// A client that hung up needs no answer.
	_, _ = w.Write(append(body, '\n'))
}

var _ httpapi.Dialect = (*API)(nil)
