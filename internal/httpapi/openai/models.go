package openai

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/httpapi/openai/request"
)

// modelObject is OpenAI's model, and more: two fields of our own, and those
// that exo's clients read.
type modelObject struct {
	ID      string `json:"id"`
	Object  string `json:"object"` // "model"
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`

	Loaded        bool `json:"loaded"`
	ContextLength *int `json:"context_length"` // before the model is loaded: what it was trained for; null: not known

	HuggingFaceID    string   `json:"hugging_face_id"` // the name again
	Name             string   `json:"name"`            // its last part
	Description      string   `json:"description"`
	Tags             []string `json:"tags"`
	StorageSize      int64    `json:"storage_size_megabytes"` // of 2^20 bytes
	SupportsTensor   bool     `json:"supports_tensor"`
	Tasks            []string `json:"tasks"`
	IsCustom         bool     `json:"is_custom"`
	Family           string   `json:"family"`
	Quantization     string   `json:"quantization"`
	BaseModel        string   `json:"base_model"`
	Capabilities     []string `json:"capabilities"`
	ReasoningDialect string   `json:"reasoning_dialect"`
}

func objectOf(m Model) modelObject {
	o := modelObject{
		ID: m.ID, Object: "model", Created: m.Created, OwnedBy: m.OwnedBy, Loaded: m.Loaded,
		HuggingFaceID: m.ID, Name: m.ID[strings.LastIndexByte(m.ID, '/')+1:], Tags: []string{}, StorageSize: (m.Facts.Bytes + 1<<19) >> 20,
		SupportsTensor: m.Facts.Tensor, Tasks: []string{"TextGeneration"}, IsCustom: m.Facts.Added, Family: m.Facts.Family, Quantization: m.Facts.Quantization,
		BaseModel: m.Facts.Base, Capabilities: []string{"text"}, ReasoningDialect: "none",
	}
	if n := cmp.Or(m.ContextLength, m.Facts.TrainedContext); n > 0 {
		o.ContextLength = &n
	}
	if slices.Contains(m.TemplateVariables, "enable_thinking") {
		o.Capabilities = append(o.Capabilities, "thinking", "thinking_toggle")
	}
	return o
}

func (a *API) models(w http.ResponseWriter, r *http.Request) {
	status := r.URL.Query().Get("status")
	if status != "" && status != "downloaded" {
		a.refuse(w, r, httpapi.Invalid("status", "invalid_value", "status can be downloaded, not %q: leave it out to list all models", request.Clip([]byte(status))))
		return
	}
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
		if status != "" && m.Facts.Missing {
			continue
		}
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

// ModelObject is a model as GET /models lists it, for dialects that show it
// elsewhere. Errors are *generation.Error.
func (a *API) ModelObject(ctx context.Context, name string) (json.RawMessage, error) {
	m, err := a.options.Engine.Model(ctx, name)
	if err != nil {
		return nil, err
	}
	return json.Marshal(objectOf(m))
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
