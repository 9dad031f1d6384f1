// Package bench compares and wears servers as their clients see them, through
// package load. It starts the servers, ours and llama-server, as children on
// free loopback ports, so that both sides of a comparison get the same model,
// slots, threads and clients in one run.
//
// It must not know the node, the engine or the runner: what it needs of them
// is handed in as a Host. Its callers are the commands of internal/cli, from
// one goroutine; two measurements at once would measure each other. Whatever
// is started is stopped and joined before a function returns.
package bench
