// Package runner is the child process that holds one model: it loads
// llama.cpp, runs the step loop with continuous batching, and speaks
// internal/runner/wire with its node over stdin and stdout.
//
// It is a process of its own because a failed assertion in the library aborts
// it, and nothing else. It ends when its stdin ends, so it never outlives its
// node. One goroutine, locked to its OS thread, owns the library's context;
// all others talk to it through the loop's mailbox. Only cmd/skein's hidden
// subcommand may start it; it must not import the node's packages.
//
// A runner may also be one shard of a model (member): then the same goroutine
// joins the group when the node says so, works in it for one epoch after
// another (package shard), and keeps its weights in between. The head of a
// group runs the step loop as the runner of a whole model does.
package runner
