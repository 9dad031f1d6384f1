package api

// Where a file of the library comes from.
const (
	SourceBundled = "bundled" // shipped beside the binary
	SourceDir     = "dir"     // found in a --models-dir folder
	SourceAdded   = "added"   // registered by `skein models add`
	SourcePath    = "path"    // not listed: named by its path
	SourceNodes   = "nodes"   // on other nodes of the cluster only
	SourceFetched = "fetched" // a whole copy that the node fetched from another one
)

// LibraryList answers GET /v1/cluster/library.
type LibraryList struct {
	Models    []LibraryEntry `json:"models" nullable:"false" doc:"Model files of the cluster, by name"`
	Timestamp float64        `json:"timestamp" doc:"Unix seconds"`
}

// LibraryEntry is one model of the library: a GGUF file, or the parts of a
// split one.
type LibraryEntry struct {
	Name          string   `json:"name" doc:"File name without .gguf; what the APIs call the model"`
	Paths         []string `json:"paths" nullable:"false" doc:"The file, or all parts in order; empty when other nodes have it"`
	SizeBytes     int64    `json:"size_bytes"`
	SizeGB        float64  `json:"size_gb"`
	Architecture  string   `json:"architecture" example:"llama" doc:"Empty when other nodes have it"`
	Quantization  string   `json:"quantization" example:"Q4_K_M"`
	Parameters    uint64   `json:"parameters" doc:"Number of weights"`
	ContextLength int      `json:"context_length" doc:"Tokens it was trained on; 0: not stated"`
	Source        string   `json:"source" enum:"bundled,dir,added,path,nodes,fetched" doc:"Where the files come from; nodes: other nodes of the cluster have it, and this one has not; fetched: this one has a copy of theirs"`
	Added         float64  `json:"added" doc:"Unix seconds when it was registered; 0: it was not"`
	Modified      float64  `json:"modified" doc:"Unix seconds when the file was last written"`
	Problem       string   `json:"problem,omitempty" doc:"Why the file cannot be used; empty when it can"`
	Nodes         []string `json:"nodes,omitempty" nullable:"false" doc:"Ids of the nodes that have its files, also of those that are away; only in the list"`
	NodeNames     []string `json:"node_names,omitempty" nullable:"false" doc:"Their names, in the same order"`
}

// AddRequest is the body of POST /v1/cluster/library.
type AddRequest struct {
	Paths []string `json:"paths" minItems:"1" maxItems:"1000" nullable:"false" doc:"Absolute paths on the node's machine; any part of a split file stands for all of them"`
}

// AddAnswer is sent once the entries are listed.
type AddAnswer struct {
	Models []LibraryEntry `json:"models" nullable:"false"`
}

// RemoveAnswer answers DELETE /v1/cluster/library/{name}. Files are never
// deleted, only taken off the list.
type RemoveAnswer struct {
	Message string       `json:"message"`
	Model   LibraryEntry `json:"model"`
}

// LibraryModel answers GET /v1/cluster/library/{name}.
type LibraryModel struct {
	LibraryEntry
	ChatTemplate string           `json:"chat_template" doc:"Jinja source; empty: the model has none and gets ChatML"`
	Metadata     []MetadataValue  `json:"metadata" nullable:"false" doc:"Keys of the file in its order; long arrays are summed up"`
	Memory       *MemoryBreakdown `json:"memory,omitempty" doc:"Estimate for the asked context and slots; left out for a file with a problem"`
}

// MetadataValue is one key of a GGUF header.
type MetadataValue struct {
	Key   string `json:"key"`
	Type  string `json:"type" example:"uint32"`
	Value string `json:"value" doc:"As text; arrays longer than a few entries by their length"`
}

// MemoryBreakdown estimates what a model takes when it is loaded.
type MemoryBreakdown struct {
	ContextLength  int     `json:"context_length" doc:"Tokens of each slot"`
	Slots          int     `json:"slots"`
	WeightsBytes   int64   `json:"weights_bytes"`
	KVBytes        int64   `json:"kv_bytes" doc:"Attention caches of all slots"`
	RecurrentBytes int64   `json:"recurrent_bytes" doc:"States of recurrent layers, all slots"`
	ComputeBytes   int64   `json:"compute_bytes" doc:"Buffers of one step"`
	TotalBytes     int64   `json:"total_bytes"`
	TotalGB        float64 `json:"total_gb"`
}
