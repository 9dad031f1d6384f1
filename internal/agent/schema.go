package agent

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/skein-run/skein/api"
)

// schema is a JSON schema made from a Go type and its tags (doc, minimum,
// enum, ...), the same ones that the OpenAPI document is made from. Written at
// start only.
type schema struct {
	registry huma.Registry
	root     *huma.Schema
	text     json.RawMessage
}

// schemaOf makes the schema of a struct. What it refers to lies in $defs.
// Examples are for those who write arguments: answers go without, since each
// client reads all schemas when it starts.
func schemaOf(t reflect.Type, examples bool) (*schema, error) {
	r := huma.NewMapRegistry("#/$defs/", huma.DefaultSchemaNamer)
	s := &schema{registry: r, root: r.Schema(t, false, t.Name())}
	if !examples {
		for _, d := range r.Map() {
			for _, p := range d.Properties {
				p.Examples, p.Format = nil, ""
			}
		}
	}
	data, err := json.Marshal(s.root)
	if err != nil {
		return nil, fmt.Errorf("schema of %v: %w", t, err)
	}
	whole := map[string]any{}
	if err := json.Unmarshal(data, &whole); err != nil {
		return nil, fmt.Errorf("schema of %v: %w", t, err)
	}
	others := map[string]*huma.Schema{}
	for name, d := range r.Map() {
		if d != s.root {
			others[name] = d
		}
	}
	if len(others) > 0 {
		whole["$defs"] = others
	}
	if s.text, err = json.Marshal(whole); err != nil {
		return nil, fmt.Errorf("schema of %v: %w", t, err)
	}
	return s, nil
}

// decode reads the arguments of a call into out, a pointer to the schema's
// type. An argument that is null counts as left out. Errors are *api.Error.
func (s *schema) decode(arguments json.RawMessage, out any) error {
	refuse := func(param, format string, args ...any) error {
		return api.NewError(422, api.CodeInvalidValue, param, fmt.Sprintf(format, args...))
	}
	given := map[string]any{}
	if len(arguments) > 0 {
		// Some clients send null for none.
		if err := json.Unmarshal(arguments, &given); err != nil {
			return refuse("", "the arguments must be a JSON object")
		}
	}
	if given == nil {
		given = map[string]any{}
	}
	for name, v := range given {
		if _, known := s.root.Properties[name]; !known {
			return refuse(name, "there is no argument %q; there are: %s", name, s.names())
		}
		if v == nil {
			delete(given, name)
		}
	}
	var res huma.ValidateResult
	huma.Validate(s.registry, s.root, huma.NewPathBuffer([]byte{}, 0), huma.ModeWriteToServer, given, &res)
	var findings []string
	param := ""
	for _, err := range res.Errors {
		text := err.Error()
		if d, ok := err.(huma.ErrorDetailer); ok {
			detail := d.ErrorDetail()
			if text = detail.Message; detail.Location != "" {
				param, text = detail.Location, detail.Location+": "+text
			}
		}
		findings = append(findings, text)
	}
	if len(findings) > 0 {
		return refuse(param, "%s", strings.Join(findings, "; "))
	}
	data, err := json.Marshal(given)
	if err == nil {
		err = json.Unmarshal(data, out)
	}
	if err != nil {
		return refuse("", "the arguments can't be read: %v", err)
	}
	return nil
}

// names lists the arguments that there are.
func (s *schema) names() string {
	var names []string
	for name := range s.root.Properties {
		names = append(names, name)
	}
	if len(names) == 0 {
		return "none"
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
