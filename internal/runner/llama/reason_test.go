package llama

import "testing"

func TestReason(t *testing.T) {
	for cause, want := range map[string]string{
		"llama_model_load: error loading model: unknown model architecture: 'x'; llama_model_load_from_file_impl: failed to load model": "unknown model architecture: 'x' (llama.cpp " + Version + " does not have it: a later release of skein may; until then use another model)",
		"llama_model_load: error loading model: missing tensor 'a'; llama_model_load_from_file_impl: failed to load model":              "missing tensor 'a'",
		"llama_model_load_from_file_impl: failed to load model":                                                                         "failed to load model",
		"the library gave no reason": "the library gave no reason",
		"":                           "",
	} {
		if got := reason(cause); got != want {
			t.Errorf("%q is told as %q, want %q", cause, got, want)
		}
	}
}
