// Package load is the client that package bench measures with: it sends
// requests to a server of OpenAI's API, one or many at a time, notes when each
// text arrived, and turns that into times to the first token, rates and gaps.
// It reads streams first and understands them afterwards, so that the client
// takes as little as it can from the server on the same machine.
//
// It must not know which server it talks to, and starts none. One measurement
// runs at a time; each joins what it starts before it returns.
//
// Durations are in seconds and rates in tokens a second, both as float64,
// since they end in tables and JSON.
package load
