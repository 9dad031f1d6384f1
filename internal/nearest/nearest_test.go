package nearest

import (
	"strings"
	"testing"
)

func TestOf(t *testing.T) {
	names := []string{"models-dir", "slots", "SmolLM2-135M-Instruct.Q4_1", "skein-demo", "/bye"}
	for word, want := range map[string]string{
		"model-dir":                    "models-dir",
		"slot":                         "slots",
		"SLOTS":                        "slots",
		"smollm2":                      "SmolLM2-135M-Instruct.Q4_1",
		"smollm2-135m-instuct.q4_1":    "SmolLM2-135M-Instruct.Q4_1",
		"skien-demo":                   "skein-demo",
		"/by":                          "/bye",
		"quite-another":                "",
		"":                             "",
		strings.Repeat("a", maxWord+1): "",
	} {
		if got := Of(word, names); got != want {
			t.Errorf("Of(%q) = %q, want %q", word, got, want)
		}
	}
	if got := Of("ab", []string{"cd"}); got != "" {
		t.Errorf("a word with no letter in common is offered: %q", got)
	}
}
