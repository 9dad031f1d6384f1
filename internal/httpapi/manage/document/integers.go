package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
)

// Unmarshal reads JSON as encoding/json does, and takes 40.0 and 4e1 for the
// integers that they are in JSON schemas, as some clients write them.
func Unmarshal(data []byte, v any) error {
	err := json.Unmarshal(data, v)
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) || !strings.HasPrefix(wrong.Value, "number ") {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		return err
	}
	whole, marshalErr := json.Marshal(integers(value))
	if marshalErr != nil {
		return err
	}
	return json.Unmarshal(whole, v)
}

// maxInteger is up to where a float64 has every integer.
const maxInteger = 1 << 53

// integers writes whole numbers without a fraction and an exponent.
func integers(value any) any {
	switch v := value.(type) {
	case json.Number:
		f, err := v.Float64()
		if err == nil && f == math.Trunc(f) && math.Abs(f) <= maxInteger {
			return json.Number(strconv.FormatInt(int64(f), 10))
		}
	case []any:
		for i := range v {
			v[i] = integers(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = integers(v[name])
		}
	}
	return value
}
