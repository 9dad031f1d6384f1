package request

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/skein-run/skein/internal/httpapi"
)

// object is a JSON object that is taken apart field by field. Taking a field
// removes it, so what is left in the end was not known. The first thing found
// wrong stays in err; after it every take gives the default.
//
// Null counts as absent everywhere, as with OpenAI. Of duplicate keys the last
// counts. Keys are compared exactly.
type object struct {
	path   string // of the object in the request, "" for the body; for messages to people
	fields map[string]json.RawMessage
	err    *httpapi.Error
}

// parseBody reads a request body, which must be one JSON object in UTF-8.
func parseBody(body []byte) (*object, error) {
	trimmed := bytes.TrimLeft(body, " \t\r\n")
	if len(trimmed) == 0 {
		return nil, httpapi.Invalid("", "invalid_json", "the request body is empty: send a JSON object")
	}
	if !utf8.Valid(body) {
		return nil, httpapi.Invalid("", "invalid_utf8", "the request body is not valid UTF-8 (byte %d): encode text as UTF-8", invalidAt(body))
	}
	o := &object{}
	if err := json.Unmarshal(body, &o.fields); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, httpapi.Invalid("", "invalid_json", "the request body is not valid JSON (byte %d): %v", syntax.Offset, err)
		}
		return nil, httpapi.Invalid("", "invalid_type", "the request body must be a JSON object, not %s", kind(trimmed))
	}
	if o.fields == nil {
		return nil, httpapi.Invalid("", "invalid_type", "the request body must be a JSON object, not null")
	}
	return o, nil
}

// invalidAt is the offset of the first byte that is not UTF-8.
func invalidAt(b []byte) int {
	offset := 0
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		if r == utf8.RuneError && size == 1 {
			break
		}
		b, offset = b[size:], offset+size
	}
	return offset
}

// parseObject reads a value inside the body that must be an object.
func parseObject(path string, raw json.RawMessage) (*object, *httpapi.Error) {
	o := &object{path: path}
	if raw[0] != '{' {
		return nil, wrongType(path, "an object", raw)
	}
	if err := json.Unmarshal(raw, &o.fields); err != nil {
		return nil, httpapi.Invalid(path, "invalid_type", "%s is not a valid object: %v", path, err)
	}
	return o, nil
}

// name is the path of a field, as errors give it: stream_options.include_usage.
func (o *object) name(field string) string {
	if o.path == "" {
		return field
	}
	return o.path + "." + field
}

func (o *object) fail(err *httpapi.Error) {
	if o.err == nil {
		o.err = err
	}
}

// take removes a field and gives its value; ok is false for absent and null.
func (o *object) take(field string) (raw json.RawMessage, ok bool) {
	raw, ok = o.fields[field]
	delete(o.fields, field)
	return raw, ok && o.err == nil && !isNull(raw)
}

func (o *object) number(field string, fallback, low, high float64) float64 {
	raw, ok := o.take(field)
	if !ok {
		return fallback
	}
	name := o.name(field)
	if !isNumber(raw) {
		o.fail(wrongType(name, "a number", raw))
		return fallback
	}
	v, err := strconv.ParseFloat(string(raw), 64)
	// An error is a number beyond float64; it comes with an infinity.
	if err != nil || v < low || v > high || math.IsNaN(v) {
		code := "decimal_above_max_value"
		if v < low {
			code = "decimal_below_min_value"
		}
		o.fail(httpapi.Invalid(name, code, "%s must be between %g and %g, not %s", name, low, high, Clip(raw)))
		return fallback
	}
	return v
}

// integer gives the value and whether there was one.
func (o *object) integer(field string, fallback, low, high int64) (int64, bool) {
	raw, ok := o.take(field)
	if !ok {
		return fallback, false
	}
	v, err := parseInteger(o.name(field), raw, low, high)
	if err != nil {
		o.fail(err)
		return fallback, false
	}
	return v, true
}

func parseInteger(name string, raw json.RawMessage, low, high int64) (int64, *httpapi.Error) {
	if !isNumber(raw) {
		return 0, wrongType(name, "an integer", raw)
	}
	v, err := strconv.ParseInt(string(raw), 10, 64)
	outside, below := v < low || v > high, v < low
	if err != nil {
		f, _ := strconv.ParseFloat(string(raw), 64) // beyond float64 it is an infinity
		if f == math.Trunc(f) && math.Abs(f) <= 1<<53 {
			v = int64(f) // 4e1 and 40.0 are integers too
			outside, below = v < low || v > high, v < low
		} else if f != math.Trunc(f) {
			return 0, httpapi.Invalid(name, "invalid_type", "%s must be an integer, not %s", name, Clip(raw))
		} else {
			outside, below = true, f < 0
		}
	}
	if outside {
		if below {
			return 0, httpapi.Invalid(name, "integer_below_min_value", "%s must be at least %d, not %s", name, low, Clip(raw))
		}
		return 0, httpapi.Invalid(name, "integer_above_max_value", "%s must be at most %d, not %s", name, high, Clip(raw))
	}
	return v, nil
}

func (o *object) boolean(field string, fallback bool) bool {
	raw, ok := o.take(field)
	if !ok {
		return fallback
	}
	switch string(raw) {
	case "true":
		return true
	case "false":
		return false
	}
	o.fail(wrongType(o.name(field), "true or false", raw))
	return fallback
}

// text gives a string of at most limit bytes and whether there was one.
func (o *object) text(field string, limit int) (string, bool) {
	raw, ok := o.take(field)
	if !ok {
		return "", false
	}
	name := o.name(field)
	s, err := parseString(name, raw)
	if err == nil && len(s) > limit {
		err = httpapi.Invalid(name, "string_above_max_length", "%s must have at most %d bytes, not %d", name, limit, len(s))
	}
	if err != nil {
		o.fail(err)
		return "", false
	}
	return s, true
}

func parseString(name string, raw json.RawMessage) (string, *httpapi.Error) {
	if raw[0] != '"' {
		return "", wrongType(name, "a string", raw)
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", httpapi.Invalid(name, "invalid_type", "%s is not a valid string: %v", name, err)
	}
	return s, nil
}

func parseArray(name string, raw json.RawMessage) ([]json.RawMessage, *httpapi.Error) {
	if raw[0] != '[' {
		return nil, wrongType(name, "an array", raw)
	}
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil {
		return nil, httpapi.Invalid(name, "invalid_type", "%s is not a valid array: %v", name, err)
	}
	return items, nil
}

func wrongType(name, wanted string, raw json.RawMessage) *httpapi.Error {
	return httpapi.Invalid(name, "invalid_type", "%s must be %s, not %s", name, wanted, kind(raw))
}

func missing(name, hint string) *httpapi.Error {
	return httpapi.Invalid(name, "missing_required_parameter", "%s is missing: %s", name, hint)
}

func unsupported(name, format string, args ...any) *httpapi.Error {
	return httpapi.Invalid(name, "unsupported_parameter", "%s %s", name, fmt.Sprintf(format, args...))
}

// kind names the type of a JSON value.
func kind(raw []byte) string {
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

func isNull(raw json.RawMessage) bool { return string(raw) == "null" }

func isNumber(raw json.RawMessage) bool { return kind(raw) == "a number" }

// Clip shortens a value that is quoted in a message.
func Clip[T ~string | ~[]byte](value T) string {
	const limit = 40
	if len(value) <= limit {
		return string(value)
	}
	return strings.ToValidUTF8(string(value[:limit]), "") + "..."
}
