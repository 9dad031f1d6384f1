// Package gguf reads and writes the GGUF container that llama.cpp loads models
// from: metadata, tensor directory, split files, and what they mean for memory.
//
// It owns the format, the hyper-parameters in it and the memory estimate that
// follows from them. It is pure: bytes come in through an io.ReaderAt and go
// out through an io.Writer; it must not import net, os, os/exec or log/slog and
// reads no clock. A parsed File or Model is immutable and may be used from any
// goroutine, as far as the io.ReaderAt behind it allows.
//
// Model files are untrusted. Nothing is allocated by a length that a file
// claims before that many bytes are known to be there, and every limit that a
// file breaks is an error that names the cause and the fix.
//
// Format: ggml's docs/gguf.md; what is accepted follows llama.cpp v0.5.0.
package gguf
