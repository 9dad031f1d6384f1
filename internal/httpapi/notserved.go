package httpapi

import "strings"

// notServed says of paths that clients of other servers look for what they are
// and what to use instead: the nearest of our own paths would be no help. What is
// said of a path holds for those below it too.
var notServed = []struct{ path, what string }{
	{"/v1/embeddings", "embeddings are not made by this node"},
	{"/v1/rerank", "reranking is not done by this node"},
	{"/v1/responses", "OpenAI's Responses API is not served yet; use POST /v1/chat/completions"},
	{"/v1/messages", "Anthropic's API is not served yet; use POST /v1/chat/completions"},
	{"/v1/audio", "speech and audio are not served by this node"},
	{"/v1/images", "images are not made by this node"},
	{"/v1/moderations", "moderation is not done by this node"},
	{"/v1/files", "files are not kept by this node"},
	{"/v1/batches", "batches are not served by this node; send the requests one by one, it works on several at once"},
	{"/v1/assistants", "assistants are not served by this node; use POST /v1/chat/completions"},
	{"/v1/threads", "threads are not kept by this node; use POST /v1/chat/completions"},
	{"/v1/fine_tuning", "models are not trained by this node"},
	{"/api", "Ollama's API is not served yet; use OpenAI's: base URL /v1, POST /v1/chat/completions"},
	{"/ollama", "Ollama's API is not served yet; use OpenAI's: base URL /v1, POST /v1/chat/completions"},
	{"/health", "GET /healthz tells whether the node is alive, GET /readyz whether it takes requests, GET /v1/cluster/health how the cluster is"},
	{"/version", "GET /v1/cluster/nodes tells the version of each node"},
	{"/props", "llama-server's own endpoints are not served; GET /v1/models and GET /v1/cluster/models tell of models"},
	{"/slots", "llama-server's own endpoints are not served; GET /v1/cluster tells what is running"},
	{"/completion", "llama-server's own endpoints are not served; use POST /v1/completions"},
	{"/infill", "llama-server's own endpoints are not served; use POST /v1/completions"},
	{"/tokenize", "llama-server's own endpoints are not served; the usage of an answer tells the numbers of tokens"},
	{"/detokenize", "llama-server's own endpoints are not served"},
	{"/embedding", "embeddings are not made by this node"},
}

// unserved gives the sentence about a path, "" when there is none.
func unserved(path string) string {
	path = strings.TrimRight(path, "/")
	for _, n := range notServed {
		if path == n.path || strings.HasPrefix(path, n.path+"/") {
			return n.what
		}
	}
	return ""
}
