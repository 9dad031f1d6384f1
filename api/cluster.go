// Package api holds the wire types of skein's management API and the error
// object that all its APIs share: what a program needs to talk to a node, and
// nothing else. It imports nothing of ours and holds no state; internal/httpapi
// and client are its two users, and programs outside this module may be a
// third.
//
// Names are snake_case and flat. Sizes in *_gb fields are GB of 2^30 bytes
// rounded to one decimal; fields in bytes say so in their name. Times are Unix
// seconds with a fraction. Lists are never null.
package api

// DefaultPort is where a node's API listens unless --api-port says otherwise.
const DefaultPort = 52415

// Ways in which a model is spread over nodes.
const (
	ShardingPipeline = "pipeline"
	ShardingTensor   = "tensor"
)

// InstanceType is the only kind of instance there is.
const InstanceType = "LlamaCpp"

// States of a model.
const (
	StatusNotLoaded   = "not_loaded"
	StatusDownloading = "downloading"
	StatusLoading     = "loading"
	StatusReady       = "ready"   // loaded, nothing to do
	StatusRunning     = "running" // loaded, generating
	StatusFailed      = "failed"
)

// ClusterModels answers GET /v1/cluster/models.
type ClusterModels struct {
	Loaded      []Model    `json:"loaded" nullable:"false" doc:"Models that are loaded, being loaded, or failed to load"`
	Downloading []Download `json:"downloading" nullable:"false" doc:"Model files being fetched"`
	Timestamp   float64    `json:"timestamp" doc:"Unix seconds"`
}

// Model is one instance of a model: what is loaded, where, in which state.
type Model struct {
	InstanceID     string            `json:"instance_id"`
	ModelID        string            `json:"model_id" doc:"Full id; may contain slashes"`
	ModelName      string            `json:"model_name" doc:"Last path part of the id"`
	Sharding       string            `json:"sharding" enum:"pipeline,tensor"`
	InstanceType   string            `json:"instance_type" doc:"Always LlamaCpp"`
	Nodes          []string          `json:"nodes" nullable:"false" doc:"Node ids"`
	NodeNames      []string          `json:"node_names" nullable:"false" doc:"Friendly names, in the order of nodes"`
	StorageSizeGB  float64           `json:"storage_size_gb"`
	RunnerStatuses map[string]string `json:"runner_statuses" doc:"Status of the runner on each node, by node id"`
	Ready          bool              `json:"ready" doc:"True when ready or running"`
	Status         string            `json:"status" enum:"loading,ready,running,failed"`

	PredictedTokensPerSecond float64 `json:"predicted_tokens_per_second" doc:"Of one stream; 0: no prediction"`
	MeasuredTokensPerSecond  float64 `json:"measured_tokens_per_second" doc:"Of one stream, lately; 0: nothing measured yet"`
	ContextLength            int     `json:"context_length" doc:"Tokens of each slot; 0 until loaded"`
	Slots                    int     `json:"slots" doc:"Requests that run at once; 0 until loaded"`
	MemoryGB                 float64 `json:"memory_gb" doc:"Estimated memory of weights, caches and buffers"`
	Error                    string  `json:"error,omitempty" doc:"Why the status is failed"`
}

// States of a download.
const (
	DownloadPending   = "pending"
	DownloadRunning   = "downloading"
	DownloadCompleted = "completed"
	DownloadFailed    = "failed"
)

// Download is one model file on its way to one node.
type Download struct {
	NodeID          string  `json:"node_id"`
	NodeName        string  `json:"node_name"`
	ModelID         string  `json:"model_id"`
	Status          string  `json:"status" enum:"pending,downloading,completed,failed"`
	DownloadedGB    float64 `json:"downloaded_gb"`
	TotalGB         float64 `json:"total_gb"`
	ProgressPercent float64 `json:"progress_percent"`
	SpeedMBs        float64 `json:"speed_mb_s" doc:"Megabytes (2^20) a second"`
	ETASeconds      float64 `json:"eta_seconds"`
	Error           string  `json:"error" doc:"Empty unless the status is failed"`
}

// LoadRequest is the body of POST /v1/cluster/models/load.
type LoadRequest struct {
	ModelID       string `json:"model_id" minLength:"1" doc:"Model id or short name, without regard to case"`
	MinNodes      int    `json:"min_nodes,omitempty" minimum:"0" doc:"Nodes to spread it over at least; 0 or 1: any"`
	Sharding      string `json:"preferred_sharding,omitempty" enum:"auto,pipeline,tensor" doc:"How to spread it"`
	ContextLength int    `json:"context_length,omitempty" minimum:"0" doc:"Tokens for each slot; 0: the node's default"`
	Slots         int    `json:"slots,omitempty" minimum:"0" maximum:"256" doc:"Requests that run at once; 0: the node's default"`
}

// LoadAnswer says what was decided; the work goes on in the background.
type LoadAnswer struct {
	Message           string            `json:"message"`
	CommandID         string            `json:"command_id"`
	ModelID           string            `json:"model_id"`
	InstanceID        string            `json:"instance_id"`
	Placement         map[string]string `json:"placement" doc:"Role by node id"`
	EstimatedMemoryGB float64           `json:"estimated_memory_gb"`
}

// UnloadAnswer answers DELETE /v1/cluster/models/{name}.
type UnloadAnswer struct {
	Message       string  `json:"message"`
	CommandID     string  `json:"command_id"`
	ModelID       string  `json:"model_id"`
	InstanceID    string  `json:"instance_id"`
	FreedMemoryGB float64 `json:"freed_memory_gb"`
}
