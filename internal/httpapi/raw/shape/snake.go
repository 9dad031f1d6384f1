package shape

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
)

// SnakeCase writes a value with its fields in snake_case, as exo does in
// streams. Keys that are ids or tags stay as they are.
func SnakeCase(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, t := range []reflect.Type{reflect.TypeFor[Instance](), reflect.TypeFor[Shard](), reflect.TypeFor[Card]()} {
		fieldNames(t, names)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return nil, err
	}
	return json.Marshal(renamed(tree, names))
}

// fieldNames collects the JSON names of a struct and of those in it.
func fieldNames(t reflect.Type, into map[string]bool) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		fieldNames(t.Elem(), into)
	case reflect.Struct:
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			into[name] = true
			fieldNames(t.Field(i).Type, into)
		}
	}
}

func renamed(v any, names map[string]bool) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, x := range v {
			if names[key] {
				key = Snake(key)
			}
			out[key] = renamed(x, names)
		}
		return out
	case []any:
		for i := range v {
			v[i] = renamed(v[i], names)
		}
	}
	return v
}
