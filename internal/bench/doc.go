// Package bench measures servers that speak OpenAI's API, from outside, as a
// client sees them: time to the first token, gaps between tokens, tokens a
// second of several streams together, and what is left behind after many
// cancelled requests. It also starts the servers that it measures, ours and
// llama-server, as children on free loopback ports, so that both sides of a
// comparison get the same model, slots, threads and clients in one run.
//
// It must not know the node, the engine or the runner: what it needs of them
// is handed in. Its callers are the commands of internal/cli. A function that
// measures is called from one goroutine at a time, and joins all it starts
// before it returns; two measurements at once would measure each other.
//
// Durations are in seconds and rates in tokens a second, both as float64,
// since they end in tables and JSON.
package bench
