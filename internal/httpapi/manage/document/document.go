// Package document completes the OpenAPI 3.1 description of the API, of which
// the framework has collected parameters, bodies and answers, and renders it
// for programs and for people: who may call an operation, every status that it
// answers with and why, examples, and forms that generators of clients take.
//
// It works on the description alone, once, while routes are mounted; it imports
// no other package of ours than httpapi, for the roles of routes.
package document

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/skein-run/skein/internal/httpapi"
)

// Names of the two ways to send a key.
const (
	bearer = "bearer"
	apiKey = "apiKey"
)

// tags are the groups of operations, in the order of the page.
var tags = []*huma.Tag{
	{Name: "cluster", Description: "The cluster, its nodes and who leads"},
	{Name: "models", Description: "Loading, unloading and swapping models"},
	{Name: "inference", Description: "Asking models, with OpenAI's requests and answers"},
	{Name: "library", Description: "The model files that a node knows"},
	{Name: "keys", Description: "Keys of the API"},
}

// Schemas is where the schemas of types are collected, by the types' names.
func Schemas() huma.Registry {
	return huma.NewMapRegistry("#/components/schemas/", func(t reflect.Type, hint string) string {
		name := huma.DefaultSchemaNamer(t, hint)
		if name == "ModelStatus" {
			// Generators call the type of Model.status so.
			return name + "Answer"
		}
		return name
	})
}

// Complete fills in what holds for all operations. errors is the schema of
// every answer that is no success.
func Complete(o *huma.OpenAPI, errors *huma.Schema) {
	// The framework lists its own form of errors too, which is never sent.
	schemas := o.Components.Schemas.Map()
	delete(schemas, "ErrorModel")
	delete(schemas, "ErrorDetail")

	o.Tags = tags
	o.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		bearer: {Type: "http", Scheme: "bearer", Description: "A key of 'skein keys add' or --api-key"},
		apiKey: {Type: "apiKey", In: "header", Name: "x-api-key", Description: "The same key, as Anthropic's clients send it"},
	}
	for _, op := range Operations(o) {
		secure(op)
		addStatuses(op, errors)
		if op.RequestBody != nil {
			op.RequestBody.Required = true
			for _, media := range op.RequestBody.Content {
				addExample(o, media)
			}
		}
		for _, p := range op.Parameters {
			if p.Example == nil && p.Schema != nil && len(p.Schema.Examples) > 0 {
				p.Example = p.Schema.Examples[0]
			}
		}
		for status, r := range op.Responses {
			for kind, media := range r.Content {
				switch code, _ := strconv.Atoi(status); {
				case status == "default" || code >= 400:
					media.Example = exampleOfError(code)
				case kind == stream:
					asEvents(o, media)
				default:
					addExample(o, media)
				}
			}
		}
	}
	open(o)
}

// Operations lists all operations by path and method.
func Operations(o *huma.OpenAPI) []*huma.Operation {
	var out []*huma.Operation
	for path, item := range o.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Delete} {
			if op != nil {
				op.Path = path
				out = append(out, op)
			}
		}
	}
	slices.SortFunc(out, func(a, b *huma.Operation) int { return strings.Compare(a.Path+" "+a.Method, b.Path+" "+b.Method) })
	return out
}

// secure says which role a key needs. Who is on the node's machine needs none
// as long as there is no key at all: that is the last alternative.
func secure(op *huma.Operation) {
	role, key := httpapi.RoleOf(op.Method, op.Path)
	if !key {
		op.Security = []map[string][]string{}
		return
	}
	roles := []string{}
	if role != "" {
		roles = append(roles, role)
	}
	op.Security = []map[string][]string{{bearer: roles}, {apiKey: roles}, {}}
}

// addStatuses adds the statuses that follow from what an operation takes.
func addStatuses(op *huma.Operation, errors *huma.Schema) {
	var also []int
	if len(op.Security) > 0 {
		also = append(also, http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests, http.StatusServiceUnavailable)
	}
	if op.RequestBody != nil {
		also = append(also, http.StatusBadRequest, http.StatusRequestEntityTooLarge)
	}
	for _, status := range also {
		key := strconv.Itoa(status)
		if op.Responses[key] == nil {
			op.Responses[key] = &huma.Response{}
		}
	}
	for key, r := range op.Responses {
		status, _ := strconv.Atoi(key)
		if status < 400 && key != "default" {
			continue
		}
		r.Description = meaning(status)
		r.Content = map[string]*huma.MediaType{"application/json": {Schema: errors}}
		switch status {
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			r.Headers = map[string]*huma.Param{"Retry-After": {Description: "Seconds after which another try may do", Schema: &huma.Schema{Type: huma.TypeInteger}}}
		case http.StatusUnauthorized:
			r.Headers = map[string]*huma.Param{"WWW-Authenticate": {Description: "How to send a key", Schema: &huma.Schema{Type: huma.TypeString}}}
		}
	}
}

// stream is the type of answers that come event by event.
const stream = "text/event-stream"

// asEvents makes the schema of an event's data, in JSON, into that of the event,
// as OpenAPI 3.2 and tools of today read it.
func asEvents(o *huma.OpenAPI, media *huma.MediaType) {
	data, err := json.Marshal(example(o, media.Schema, 0))
	if err != nil {
		panic(fmt.Sprintf("document: an example cannot be written: %v", err)) // of strings and numbers
	}
	media.Example = "data: " + string(data) + "\n\n"
	schema := &huma.Schema{Type: huma.TypeString, Extensions: map[string]any{"contentMediaType": "application/json", "contentSchema": media.Schema}}
	if last, ok := media.Extensions[httpapi.LastData]; ok {
		media.Example = media.Example.(string) + fmt.Sprintf("data: %s\n\n", last)
		schema = &huma.Schema{Type: huma.TypeString, AnyOf: []*huma.Schema{schema, {Type: huma.TypeString, Enum: []any{last}}}}
	}
	media.Schema = &huma.Schema{
		Type: huma.TypeObject, Description: "One event", Required: []string{"data"},
		Properties: map[string]*huma.Schema{
			"id":    {Type: huma.TypeString},
			"event": {Type: huma.TypeString, Description: "Its kind"},
			"data":  schema,
		},
	}
}

// statuses says what each status means, with the codes of its errors and a
// message as an example.
var statuses = map[int]struct{ meaning, code, param, message string }{
	http.StatusBadRequest:            {"The body is no JSON of the right form, or names what can't be used", "invalid_body", "", "unexpected end of JSON input"},
	http.StatusUnauthorized:          {"No key, or one that is unknown, revoked or expired", "invalid_api_key", "", "no API key was given: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"},
	http.StatusForbidden:             {"The key has another role, or a page of another origin asks", "insufficient_role", "", "POST /v1/cluster/models/load needs a key with the role manage, and the key ci has the role read"},
	http.StatusNotFound:              {"There is none of that name; the message lists what there is", "model_not_found", "model_id", "there is no model 'nothing'; there are: org/Qwen3-30B-GGUF"},
	http.StatusConflict:              {"The cluster does not allow it as it is, or a name is ambiguous; code tells which", "model_already_loaded", "model_id", "org/Qwen3-30B-GGUF is loaded already; ask for replicas: 2 to have one more"},
	http.StatusRequestEntityTooLarge: {"The body is larger than the node reads", "request_too_large", "", "the request body is larger than the 16777216 bytes (16.0 MB) that this node reads: send less text"},
	http.StatusUnprocessableEntity:   {"A field or parameter is outside what the schema allows; param names it", "invalid_value", "min_nodes", "validation failed: min_nodes: expected number >= 0"},
	http.StatusTooManyRequests:       {"A limit of the key, or the queue of the model, is reached", "rate_limit_exceeded", "", "the key ci may send 60 requests a minute to this node: try again in 2 s"},
	http.StatusInternalServerError:   {"A mistake of the node; its log says more", "internal_error", "", "internal error; the node's log says more"},
	http.StatusServiceUnavailable:    {"Not now: the node stops, there is no master, or the outcome is not known; code tells which", "no_master", "", "there is no master: start a node that may lead"},
	http.StatusInsufficientStorage:   {"Memory or disk do not suffice; the message has the numbers", "insufficient_memory", "", "Need 45.0 GB, have 30.0 GB. Loaded: Qwen3-30B (20.0 GB). Unload a model to free memory."},
	0:                                {"Any other error, in the same form", "internal_error", "", "internal error; the node's log says more"},
}

func meaning(status int) string {
	s, ok := statuses[status]
	if !ok {
		// A status that is documented needs a row above: this is a mistake here.
		panic(fmt.Sprintf("document: nothing is said of status %d", status))
	}
	return s.meaning
}

// exampleOfError is the body of an error.
func exampleOfError(status int) any {
	s := statuses[status]
	e := httpapi.Error{Status: status, Message: s.message, Code: s.code, Param: s.param, Type: httpapi.TypeInvalidRequest}
	switch {
	case status == http.StatusUnauthorized:
		e.Type = httpapi.TypeAuthentication
	case status == http.StatusForbidden:
		e.Type = httpapi.TypePermission
	case status == http.StatusTooManyRequests:
		e.Type = httpapi.TypeRateLimit
	case status == 0 || status >= http.StatusInternalServerError:
		e.Type = httpapi.TypeServer
	}
	return &e
}

// addExample gives a body an example, made of those of its fields.
func addExample(o *huma.OpenAPI, media *huma.MediaType) {
	if media.Example == nil && media.Schema != nil {
		media.Example = example(o, media.Schema, 0)
	}
}

// maxDepth ends examples of schemas that contain themselves.
const maxDepth = 8

// example makes a value that fits a schema, of the examples of its fields.
// Lists have one entry, maps are empty; fields that may be left out and have no
// example are.
func example(o *huma.OpenAPI, s *huma.Schema, depth int) any {
	if s.Ref != "" {
		s = o.Components.Schemas.SchemaFromRef(s.Ref)
	}
	switch {
	case len(s.Examples) > 0:
		return s.Examples[0]
	case s.Default != nil:
		return s.Default
	case len(s.Enum) > 0:
		return s.Enum[0]
	case s.Nullable || depth > maxDepth:
		return nil
	}
	switch s.Type {
	case huma.TypeObject:
		out := map[string]any{}
		for name, p := range s.Properties {
			if slices.Contains(s.Required, name) || len(p.Examples) > 0 {
				out[name] = example(o, p, depth+1)
			}
		}
		return out
	case huma.TypeArray:
		if s.Items == nil {
			return []any{}
		}
		return []any{example(o, s.Items, depth+1)}
	case huma.TypeString:
		return ""
	case huma.TypeBoolean:
		return false
	case huma.TypeInteger, huma.TypeNumber:
		return 0
	}
	return nil
}

// open lets answers have fields that the document does not know: they may be
// added in later versions, and a client made from this one must go on working.
// Requests stay closed, since a field that is not known is refused.
func open(o *huma.OpenAPI) {
	closed := map[string]bool{}
	var close func(s *huma.Schema)
	close = func(s *huma.Schema) {
		if s == nil {
			return
		}
		if s.Ref != "" {
			if closed[s.Ref] {
				return
			}
			closed[s.Ref] = true
			s = o.Components.Schemas.SchemaFromRef(s.Ref)
		}
		close(s.Items)
		for _, p := range s.Properties {
			close(p)
		}
	}
	for _, op := range Operations(o) {
		if op.RequestBody != nil {
			for _, media := range op.RequestBody.Content {
				close(media.Schema)
			}
		}
	}
	const prefix = "#/components/schemas/"
	for name, s := range o.Components.Schemas.Map() {
		if no, ok := s.AdditionalProperties.(bool); ok && !no && !closed[prefix+name] {
			s.AdditionalProperties = nil
		}
	}
}

// JSON writes the description in OpenAPI 3.1.
func JSON(o *huma.OpenAPI) ([]byte, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("write the API's description: %w", err)
	}
	return b, nil
}

// JSON30 writes it in OpenAPI 3.0.3, for tools that know no other.
func JSON30(o *huma.OpenAPI) ([]byte, error) {
	b, err := o.Downgrade()
	if err != nil {
		return nil, fmt.Errorf("write the API's description in OpenAPI 3.0: %w", err)
	}
	return b, nil
}
