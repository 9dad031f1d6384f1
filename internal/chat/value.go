package chat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/dop251/goja"
)

// Item is one entry of a Dict.
type Item struct {
	Key   string
	Value any
}

// Dict is a dictionary whose entries a template sees in this order.
type Dict []Item

// maxValueDepth bounds how deeply lists and dictionaries may nest.
const maxValueDepth = 100

// value makes a template value of a Go value: nil, bool, string, integers,
// floats, json.Number, json.RawMessage (keeping the order of its keys), []any,
// []string, Dict, and map[string]any (its keys sorted, since a Go map has no
// order).
func (v *vm) value(x any, depth int) (goja.Value, error) {
	if depth > maxValueDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", maxValueDepth)
	}
	rt, self := v.runtime, goja.Undefined()
	switch x := x.(type) {
	case nil:
		return v.makeNone(self)
	case bool:
		return v.makeBoolean(self, rt.ToValue(x))
	case string:
		return v.makeString(self, rt.ToValue(x))
	case int:
		return v.makeInteger(self, rt.ToValue(x))
	case int64:
		return v.makeInteger(self, rt.ToValue(x))
	case float64:
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return nil, errors.New("numbers must be finite")
		}
		if x == math.Trunc(x) && math.Abs(x) < 1<<53 {
			return v.makeInteger(self, rt.ToValue(int64(x)))
		}
		return v.makeFloat(self, rt.ToValue(x))
	case json.Number:
		if n, err := strconv.ParseInt(x.String(), 10, 64); err == nil {
			return v.makeInteger(self, rt.ToValue(n))
		}
		f, err := x.Float64()
		if err != nil {
			return nil, fmt.Errorf("number %q: %w", x, err)
		}
		return v.makeFloat(self, rt.ToValue(f))
	case json.RawMessage:
		decoded, err := decodeOrdered(x)
		if err != nil {
			return nil, err
		}
		return v.value(decoded, depth)
	case []string:
		items := make([]any, len(x))
		for i, s := range x {
			items[i] = s
		}
		return v.value(items, depth)
	case []any:
		items := make([]any, len(x))
		for i, item := range x {
			value, err := v.value(item, depth+1)
			if err != nil {
				return nil, err
			}
			items[i] = value
		}
		return v.makeList(self, rt.NewArray(items...))
	case map[string]any:
		dict := make(Dict, 0, len(x))
		for key, item := range x {
			dict = append(dict, Item{key, item})
		}
		slices.SortFunc(dict, func(a, b Item) int { return bytes.Compare([]byte(a.Key), []byte(b.Key)) })
		return v.value(dict, depth)
	case Dict:
		keys := make([]any, len(x))
		values := make([]any, len(x))
		for i, item := range x {
			value, err := v.value(item.Value, depth+1)
			if err != nil {
				return nil, err
			}
			keys[i], values[i] = item.Key, value
		}
		return v.makeDict(self, rt.NewArray(keys...), rt.NewArray(values...))
	}
	return nil, fmt.Errorf("a value of type %T cannot be given to a template", x)
}

// decodeOrdered reads JSON into []any, Dict and scalars.
func decodeOrdered(raw []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	value, err := decodeValue(d, 0)
	if err != nil {
		return nil, fmt.Errorf("read JSON: %w", err)
	}
	if d.More() {
		return nil, errors.New("read JSON: something follows the value")
	}
	return value, nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	if depth > maxValueDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", maxValueDepth)
	}
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return token, nil
	}
	list, dict := []any{}, Dict{}
	for d.More() {
		if delim == '{' {
			key, err := d.Token()
			if err != nil {
				return nil, err
			}
			value, err := decodeValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			// The decoder guarantees that keys are strings.
			dict = append(dict, Item{key.(string), value})
			continue
		}
		value, err := decodeValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	if _, err := d.Token(); err != nil { // the closing bracket
		return nil, err
	}
	if delim == '{' {
		return dict, nil
	}
	return list, nil
}
