package document

import (
	"encoding/json"
	"errors"
	"testing"
)

// Numbers are integers by their value, as in JSON schemas, and others stay
// refused.
func TestUnmarshal(t *testing.T) {
	type body struct {
		N    int      `json:"n"`
		F    float64  `json:"f"`
		List []int    `json:"list"`
		Sub  *body    `json:"sub"`
		Text string   `json:"text"`
		Any  any      `json:"any"`
		Raw  []string `json:"raw"`
	}
	for text, want := range map[string]string{
		`{"n":3,"f":2.5}`: `{"n":3,"f":2.5,"list":null,"sub":null,"text":"","any":null,"raw":null}`,
		`{"n":89.0,"f":30.0,"text":"1.0","any":2.5}`:          `{"n":89,"f":30,"list":null,"sub":null,"text":"1.0","any":2.5,"raw":null}`,
		`{"n":4e1,"list":[1.0,2],"sub":{"n":-0.0},"f":1e300}`: `{"n":40,"f":1e+300,"list":[1,2],"sub":{"n":0,"f":0,"list":null,"sub":null,"text":"","any":null,"raw":null},"text":"","any":null,"raw":null}`,
		`{"n":2.5}`:                "",
		`{"n":1e30}`:               "",
		`{"n":9007199254740994.0}`: "",
		`{"n":"3"}`:                "",
		`{"n":3.0,"raw":[1.0]}`:    "",
		`{"n":3.0`:                 "",
	} {
		var got body
		err := Unmarshal([]byte(text), &got)
		if (err != nil) != (want == "") {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if b, _ := json.Marshal(got); want != "" && string(b) != want {
			t.Errorf("%s: %s, want %s", text, b, want)
		}
	}
	var wrong *json.UnmarshalTypeError
	if err := Unmarshal([]byte(`{"n":2.5}`), &body{}); !errors.As(err, &wrong) || wrong.Field != "n" {
		t.Errorf("the error names no field: %v", err)
	}
}
