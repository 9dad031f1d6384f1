package manage

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/skein-run/skein/internal/httpapi"
)

//go:embed docs.html
var docsTemplate string

// serveDocument renders the OpenAPI document, and a page of it for people, and
// mounts both. The page needs no script and nothing from elsewhere.
func (d *Dialect) serveDocument(mux httpapi.Mux, m mount) {
	// The framework lists its own form of errors too, which is never sent.
	schemas := m.OpenAPI().Components.Schemas.Map()
	delete(schemas, "ErrorModel")
	delete(schemas, "ErrorDetail")
	document, err := json.Marshal(m.OpenAPI())
	if err != nil {
		panic(fmt.Sprintf("manage: the API's own description cannot be written: %v", err))
	}
	var page bytes.Buffer
	if err := template.Must(template.New("docs").Parse(docsTemplate)).Execute(&page, describeAPI(m.OpenAPI())); err != nil {
		panic(fmt.Sprintf("manage: the page about the API cannot be written: %v", err))
	}
	serve := func(pattern, contentType string, body []byte) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
			_, _ = w.Write(body) // a client that hung up needs no answer
		})
	}
	serve("GET /openapi.json", "application/json", document)
	serve("GET /docs", "text/html; charset=utf-8", page.Bytes())
}

// apiPage is what the page shows.
type apiPage struct {
	Title, Version, Description string
	Groups                      []apiGroup
}

type apiGroup struct {
	Name       string
	Operations []apiOperation
}

type apiOperation struct {
	Method, Path, ID, Summary, Description string
	Parameters, Request, Answer            []apiField
	AnswerType                             string
	Errors                                 []string
}

type apiField struct {
	Name, Where, Type, Doc, Example string
	Required                        bool
}

func describeAPI(o *huma.OpenAPI) apiPage {
	page := apiPage{Title: o.Info.Title, Version: o.Info.Version, Description: o.Info.Description}
	byGroup := map[string]*apiGroup{}
	for path, item := range o.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Delete} {
			if op == nil {
				continue
			}
			g := byGroup[op.Tags[0]]
			if g == nil {
				g = &apiGroup{Name: op.Tags[0]}
				byGroup[op.Tags[0]] = g
			}
			g.Operations = append(g.Operations, describeOperation(o, path, op))
		}
	}
	for _, g := range byGroup {
		slices.SortFunc(g.Operations, func(a, b apiOperation) int { return strings.Compare(a.Path+a.Method, b.Path+b.Method) })
		page.Groups = append(page.Groups, *g)
	}
	slices.SortFunc(page.Groups, func(a, b apiGroup) int { return strings.Compare(a.Name, b.Name) })
	return page
}

func describeOperation(o *huma.OpenAPI, path string, op *huma.Operation) apiOperation {
	out := apiOperation{Method: op.Method, Path: path, ID: op.OperationID, Summary: op.Summary, Description: op.Description}
	for _, p := range op.Parameters {
		f := describeField(p.Name, p.Schema, p.Required)
		f.Where, f.Doc = p.In, p.Description
		out.Parameters = append(out.Parameters, f)
	}
	if op.RequestBody != nil {
		out.Request = describeSchema(o, op.RequestBody.Content["application/json"].Schema)
	}
	for status, r := range op.Responses {
		if status != "200" {
			if status != "default" {
				out.Errors = append(out.Errors, status+" "+r.Description)
			}
			continue
		}
		for contentType, media := range r.Content {
			out.AnswerType, out.Answer = contentType, describeSchema(o, media.Schema)
		}
	}
	slices.Sort(out.Errors)
	return out
}

// describeSchema lists the fields of an object.
func describeSchema(o *huma.OpenAPI, s *huma.Schema) []apiField {
	if s == nil {
		return nil
	}
	if s.Ref != "" {
		s = o.Components.Schemas.SchemaFromRef(s.Ref)
	}
	var out []apiField
	for name, property := range s.Properties {
		out = append(out, describeField(name, property, slices.Contains(s.Required, name)))
	}
	slices.SortFunc(out, func(a, b apiField) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func describeField(name string, s *huma.Schema, required bool) apiField {
	f := apiField{Name: name, Type: typeOf(s), Doc: s.Description, Required: required}
	if len(s.Examples) > 0 {
		if b, err := json.Marshal(s.Examples[0]); err == nil {
			f.Example = string(b)
		}
	}
	return f
}

func typeOf(s *huma.Schema) string {
	switch {
	case s.Ref != "":
		return s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
	case s.Items != nil:
		return "list of " + typeOf(s.Items)
	case len(s.Enum) > 0:
		var words []string
		for _, e := range s.Enum {
			words = append(words, fmt.Sprint(e))
		}
		return strings.Join(words, " | ")
	}
	return s.Type
}
