package document

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

//go:embed page.html
var pageTemplate string

// Page renders the description for people. It needs no script and nothing from
// elsewhere.
func Page(o *huma.OpenAPI) ([]byte, error) {
	var page bytes.Buffer
	t, err := template.New("page").Parse(pageTemplate)
	if err == nil {
		err = t.Execute(&page, describeAPI(o))
	}
	if err != nil {
		return nil, fmt.Errorf("write the page about the API: %w", err)
	}
	return page.Bytes(), nil
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
	Role                                   string // of a key, once there is one; "": any
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
	for _, op := range Operations(o) {
		g := byGroup[op.Tags[0]]
		if g == nil {
			g = &apiGroup{Name: op.Tags[0]}
			byGroup[op.Tags[0]] = g
		}
		g.Operations = append(g.Operations, describeOperation(o, op))
	}
	for _, t := range o.Tags {
		if g := byGroup[t.Name]; g != nil {
			page.Groups = append(page.Groups, *g)
		}
	}
	return page
}

func describeOperation(o *huma.OpenAPI, op *huma.Operation) apiOperation {
	out := apiOperation{Method: op.Method, Path: op.Path, ID: op.OperationID, Summary: op.Summary, Description: op.Description}
	if len(op.Security) > 0 {
		out.Role = strings.Join(op.Security[0][bearer], ", ")
	}
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
			if len(r.Content) > 1 && contentType == stream {
				continue // the same piece by piece
			}
			schema := media.Schema
			if contentType == stream {
				schema, _ = schema.Properties["data"].Extensions["contentSchema"].(*huma.Schema)
			}
			out.AnswerType, out.Answer = contentType, describeSchema(o, schema)
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
