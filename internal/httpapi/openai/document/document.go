// Package document describes the OpenAI dialect for the API's OpenAPI document:
// its operations, with the fields of requests and answers that it takes and
// gives. docs/openai-api.md is the contract with all limits; here are shapes,
// as a generator of clients needs them.
//
// The types are written down for the description alone: package openai decodes
// and encodes without them. A test of package clients holds the two together by
// sending what the document allows and comparing what comes back with it.
package document

import (
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/skein-run/skein/internal/httpapi"
)

const tag = "inference"

// Describe adds the operations to a document.
func Describe(o *huma.OpenAPI) {
	schema := func(t reflect.Type) *huma.Schema { return o.Components.Schemas.Schema(t, true, t.Name()) }
	add := func(method, path, id, summary, text string, statuses ...string) *huma.Operation {
		op := &huma.Operation{Method: method, Path: path, OperationID: id, Summary: summary, Description: text, Tags: []string{tag}, Responses: map[string]*huma.Response{"default": {}}}
		for _, s := range statuses {
			op.Responses[s] = &huma.Response{}
		}
		return op
	}
	answers := func(op *huma.Operation, t reflect.Type) {
		op.Responses["200"] = &huma.Response{Description: "OK", Content: map[string]*huma.MediaType{"application/json": {Schema: schema(t)}}}
	}
	streams := func(op *huma.Operation, t reflect.Type) {
		op.Responses["200"].Content["text/event-stream"] = &huma.MediaType{Schema: schema(t), Extensions: map[string]any{httpapi.LastData: "[DONE]"}}
	}
	takes := func(op *huma.Operation, t reflect.Type) {
		op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: schema(t)}}}
	}

	list := add(http.MethodGet, "/v1/models", "list-openai-models", "What can be asked for, loaded or not", "", "400")
	list.Parameters = []*huma.Param{{Name: "status", In: "query", Description: "Only models whose files are on a node that is online",
		Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{"downloaded"}, Examples: []any{"downloaded"}}}}
	answers(list, reflect.TypeFor[ModelList]())
	o.AddOperation(list)

	one := add(http.MethodGet, "/v1/models/{model}", "get-openai-model", "One model that can be asked for", "", "404", "409")
	one.Parameters = []*huma.Param{{Name: "model", In: "path", Required: true, Description: "Model name, full or its last part, without regard to case; may contain slashes",
		Schema: &huma.Schema{Type: huma.TypeString, Examples: []any{"org/Qwen3-30B-GGUF"}}}}
	answers(one, reflect.TypeFor[OpenAIModel]())
	o.AddOperation(one)

	const failures = "A model that is not loaded is loaded first. With stream the answer comes in events, the last one has the data [DONE]. "
	chat := add(http.MethodPost, "/v1/chat/completions", "create-chat-completion", "Ask a model, with the messages so far",
		failures+"A field that is null counts as left out, and one that is not listed here is ignored, unless OpenAI defines it and it would change the answer. All parameters: docs/openai-api.md.",
		"404", "409", "500", "507")
	takes(chat, reflect.TypeFor[ChatCompletionRequest]())
	answers(chat, reflect.TypeFor[ChatCompletion]())
	streams(chat, reflect.TypeFor[ChatCompletionChunk]())
	nullable(o, "ChatChoice", "logprobs")
	nullable(o, "ChatCompletionChunk", "usage")
	o.AddOperation(chat)

	completion := add(http.MethodPost, "/v1/completions", "create-completion", "Let a model go on with a text", failures+"All parameters: docs/openai-api.md.", "404", "409", "500", "507")
	takes(completion, reflect.TypeFor[CompletionRequest]())
	answers(completion, reflect.TypeFor[Completion]())
	streams(completion, reflect.TypeFor[CompletionChunk]())
	nullable(o, "CompletionChoice", "logprobs")
	nullable(o, "CompletionChunk", "usage")
	o.AddOperation(completion)

	// What is not listed is let pass.
	for _, t := range []reflect.Type{reflect.TypeFor[ChatCompletionRequest](), reflect.TypeFor[CompletionRequest](), reflect.TypeFor[ChatMessage](), reflect.TypeFor[ChatTool](), reflect.TypeFor[ChatFunction](), reflect.TypeFor[ChatCall](), reflect.TypeFor[ChatCallFunction](), reflect.TypeFor[StreamOptions]()} {
		o.Components.Schemas.SchemaFromRef(schema(t).Ref).AdditionalProperties = nil
	}
}

// nullable writes an object that may be null in place, since a reference can't
// say so without a union.
func nullable(o *huma.OpenAPI, owner, field string) {
	properties := o.Components.Schemas.Map()[owner].Properties
	s := *o.Components.Schemas.SchemaFromRef(properties[field].Ref)
	s.Nullable, s.AdditionalProperties, s.Description = true, nil, properties[field].Description
	properties[field] = &s
}
