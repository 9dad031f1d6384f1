// Package chat turns conversations into prompts and produced bytes into text.
//
// A Template is a model's chat template (Jinja, as GGUF files carry it),
// compiled once and rendered by the library @huggingface/jinja inside the
// JavaScript engine goja. A Decoder takes the bytes of generated tokens and
// gives answer text and reasoning text, without stop strings and always in
// whole UTF-8 characters, the same whatever the tokens' borders are.
//
// The package is part of the pure core: it imports no net, os, exec or slog,
// and it reads no clock and no randomness; the time that a template may print
// is an argument, and what bounds a hostile template is a count of steps.
// Template is safe for use by any number of goroutines; a Decoder belongs to
// one.
//
// It is used by internal/generation, and may be used by the API edges for the
// same purposes. It must not import either.
package chat
