package api

// Ways in which a model is spread over nodes.
const (
	ShardingAuto     = "auto" // in requests only
	ShardingPipeline = "pipeline"
	ShardingTensor   = "tensor"
)

// InstanceType is the only kind of instance there is.
const InstanceType = "LlamaCpp"

// States of a model.
const (
	StatusNotLoaded   = "not_loaded"
	StatusDownloading = "downloading" // its bytes travel to the nodes
	StatusLoading     = "loading"
	StatusReady       = "ready"    // loaded, nothing to do
	StatusRunning     = "running"  // loaded, generating
	StatusStopping    = "stopping" // being unloaded
	StatusFailed      = "failed"
)

// ClusterModels answers GET /v1/cluster/models.
type ClusterModels struct {
	Loaded      []Model    `json:"loaded" nullable:"false" doc:"Models that are loaded, being loaded, or failed to load"`
	Downloading []Download `json:"downloading" nullable:"false" doc:"Model files being fetched"`
	Timestamp   float64    `json:"timestamp" doc:"Unix seconds" example:"1764000000.25"`
}

// Model is one instance of a model: what is loaded, where, in which state.
type Model struct {
	InstanceID     string            `json:"instance_id" doc:"Empty while the model has no place"`
	ModelID        string            `json:"model_id" doc:"Full id; may contain slashes" example:"org/Qwen3-30B-GGUF"`
	ModelName      string            `json:"model_name" doc:"Last path part of the id" example:"Qwen3-30B-GGUF"`
	Sharding       string            `json:"sharding" enum:"pipeline,tensor"`
	InstanceType   string            `json:"instance_type" doc:"Always LlamaCpp" example:"LlamaCpp"`
	Nodes          []string          `json:"nodes" nullable:"false" doc:"Node ids"`
	NodeNames      []string          `json:"node_names" nullable:"false" doc:"Friendly names, in the order of nodes"`
	StorageSizeGB  float64           `json:"storage_size_gb" doc:"Of the model's files" example:"18.6"`
	RunnerStatuses map[string]string `json:"runner_statuses" doc:"Status of the runner on each node, by node id: placed, fetching, starting, loading, loaded, connected, ready, running, stopping, stopped, failed, or lost"`
	Ready          bool              `json:"ready" doc:"True when ready or running"`
	Status         string            `json:"status" enum:"downloading,loading,ready,running,stopping,failed"`

	Way                      string  `json:"way" doc:"How it lies on the nodes: whole, pipeline, tensor, or mixed (stages of ranks)" example:"pipeline"`
	PredictedTokensPerSecond float64 `json:"predicted_tokens_per_second" doc:"Of one stream; 0: no prediction" example:"38.2"`
	MeasuredTokensPerSecond  float64 `json:"measured_tokens_per_second" doc:"Of one stream, lately; 0: nothing measured yet" example:"36.9"`
	TokensPerSecond          float64 `json:"tokens_per_second" doc:"Of all its streams together, now" example:"73.1"`
	ContextLength            int     `json:"context_length" doc:"Tokens of each slot" example:"8192"`
	Slots                    int     `json:"slots" doc:"Requests that run at once" example:"4"`
	RunningRequests          int     `json:"running_requests" example:"1"`
	WaitingRequests          int     `json:"waiting_requests" example:"0"`
	MemoryGB                 float64 `json:"memory_gb" doc:"Promised for weights, caches and buffers" example:"20.3"`
	Progress                 string  `json:"progress" doc:"For a person" example:"loading layer 12/48 (25%)"`
	ProgressPercent          float64 `json:"progress_percent" doc:"Of the status that it is in, 0 to 100" example:"25"`
	Shards                   []Shard `json:"shards" nullable:"false" doc:"Its parts, stage after stage"`
	Error                    string  `json:"error,omitempty" doc:"Why it failed, or why it has no place"`
}

// Shard is the part of an instance that one runner holds.
type Shard struct {
	NodeID          string  `json:"node_id"`
	NodeName        string  `json:"node_name" example:"studio"`
	Device          string  `json:"device" doc:"Empty: the machine's own memory" example:"CUDA0"`
	Role            string  `json:"role" doc:"whole, or its stage and rank" example:"stage 1/2, layers 0-23"`
	Status          string  `json:"status" example:"loading"`
	Progress        string  `json:"progress" doc:"For a person" example:"fetching 3.1/4.2 GB (74%)"`
	ProgressPercent float64 `json:"progress_percent" doc:"Of the status that it is in, 0 to 100" example:"74"`
	MemoryGB        float64 `json:"memory_gb" doc:"Promised to it" example:"10.1"`
	Error           string  `json:"error,omitempty"`
}

// ModelStatus answers GET /v1/cluster/models/{name}/status, with 200 also when
// the model is not loaded.
type ModelStatus struct {
	ModelID    string   `json:"model_id" example:"org/Qwen3-30B-GGUF"`
	Found      bool     `json:"found" doc:"It is loaded, being loaded, being fetched, or failed"`
	Status     string   `json:"status" enum:"not_loaded,downloading,loading,ready,running,stopping,failed"`
	Ready      bool     `json:"ready" doc:"True when ready or running"`
	Progress   string   `json:"progress" doc:"For a person" example:"loading layer 12/48 (25%)"`
	Nodes      []string `json:"nodes" nullable:"false" doc:"Friendly names"`
	InstanceID string   `json:"instance_id" doc:"Of the replica that is furthest"`
	Error      string   `json:"error" doc:"Why it failed, or that there is no such model; empty otherwise"`

	ProgressPercent float64 `json:"progress_percent" doc:"0 to 100" example:"25"`
	Replicas        int     `json:"replicas" doc:"How many are wanted" example:"1"`
	ReadyReplicas   int     `json:"ready_replicas" example:"0"`
}

// States of a download.
const (
	DownloadPending   = "pending"
	DownloadRunning   = "downloading"
	DownloadCompleted = "completed"
	DownloadFailed    = "failed"
)

// Download is a model's files on their way to one node.
type Download struct {
	NodeID          string  `json:"node_id"`
	NodeName        string  `json:"node_name" example:"studio"`
	ModelID         string  `json:"model_id" example:"org/Qwen3-30B-GGUF"`
	Status          string  `json:"status" enum:"pending,downloading,completed,failed"`
	DownloadedGB    float64 `json:"downloaded_gb" example:"3.1"`
	TotalGB         float64 `json:"total_gb" example:"4.2"`
	ProgressPercent float64 `json:"progress_percent" doc:"0 to 100" example:"73.8"`
	SpeedMBs        float64 `json:"speed_mb_s" doc:"Megabytes (2^20) a second" example:"110.4"`
	ETASeconds      float64 `json:"eta_seconds" doc:"0 when not known" example:"10"`
	Error           string  `json:"error" doc:"Empty unless the status is failed"`
}

// LoadRequest is the body of POST /v1/cluster/models/load.
type LoadRequest struct {
	ModelID string `json:"model_id" minLength:"1" maxLength:"1000" doc:"Full id or short name, without regard to case" example:"Qwen3-30B-GGUF"`
	LoadOptions
	DryRun   bool `json:"dry_run,omitempty" doc:"Say what would be done, and do nothing"`
	Replicas int  `json:"replicas,omitempty" minimum:"0" maximum:"64" doc:"How many are wanted in total; 0: 1" example:"1"`
}

// LoadOptions say how a model is to be placed.
type LoadOptions struct {
	MinNodes      int      `json:"min_nodes,omitempty" minimum:"0" maximum:"100000" doc:"Nodes to spread it over at least; 0: 1" example:"1"`
	Sharding      string   `json:"preferred_sharding,omitempty" enum:"auto,pipeline,tensor" doc:"How to spread it, if it is spread" example:"auto"`
	NodeIDs       []string `json:"node_ids,omitempty" maxItems:"1000" nullable:"false" doc:"Nodes that must hold a part, by id, prefix or friendly name" example:"[\"studio\"]"`
	ContextLength int      `json:"context_length,omitempty" minimum:"0" maximum:"1073741824" doc:"Tokens of each slot; 0: the cluster's default" example:"8192"`
	Slots         int      `json:"slots,omitempty" minimum:"0" maximum:"256" doc:"Requests that run at once; 0: the cluster's default" example:"4"`
}

// LoadAnswer says what was decided; the work goes on in the background.
type LoadAnswer struct {
	Message           string            `json:"message" example:"loading Qwen3-30B-GGUF on studio"`
	CommandID         string            `json:"command_id" doc:"The Idempotency-Key, or one of the node's"`
	ModelID           string            `json:"model_id" example:"org/Qwen3-30B-GGUF"`
	InstanceID        string            `json:"instance_id" doc:"Empty for a dry run, and while there is no place"`
	Placement         map[string]string `json:"placement" doc:"Role by node id"`
	EstimatedMemoryGB float64           `json:"estimated_memory_gb" example:"20.3"`

	PredictedTokensPerSecond float64       `json:"predicted_tokens_per_second" doc:"Of one stream" example:"38.2"`
	Explanation              string        `json:"explanation" doc:"Why it is placed so, and what else there was"`
	Alternatives             []Alternative `json:"alternatives" nullable:"false" doc:"Other ways that were considered"`
	ContextLength            int           `json:"context_length" doc:"Tokens of each slot" example:"8192"`
	Slots                    int           `json:"slots" example:"4"`
	DryRun                   bool          `json:"dry_run" doc:"Nothing was done"`
	Copies                   int           `json:"copies" doc:"Nodes on whose disks the command lies; 0 for a dry run" example:"2"`
}

// Alternative is a way to place a model that was not taken.
type Alternative struct {
	Way                      string   `json:"way" enum:"whole,pipeline,tensor,mixed,replicas"`
	Nodes                    []string `json:"nodes" nullable:"false" doc:"Node ids"`
	PredictedTokensPerSecond float64  `json:"predicted_tokens_per_second" doc:"Of one stream; 0 if it can't be done"`
	Why                      string   `json:"why" doc:"What speaks against it; empty if it is only slower"`
}

// SwapRequest is the body of POST /v1/cluster/models/swap.
type SwapRequest struct {
	UnloadModelID string `json:"unload_model_id" minLength:"1" maxLength:"1000" doc:"What to unload; full id or short name" example:"Qwen3-30B-GGUF"`
	LoadModelID   string `json:"load_model_id" minLength:"1" maxLength:"1000" doc:"What to load instead" example:"gpt-oss-20b-GGUF"`
	LoadOptions
	DryRun       bool     `json:"dry_run,omitempty" doc:"Say what would be done, and do nothing"`
	DrainSeconds *float64 `json:"drain_seconds,omitempty" minimum:"0" maximum:"86400" doc:"How long open requests of the old model may go on; left out: 30" example:"30"`
}

// SwapAnswer says what was decided; the work goes on in the background.
type SwapAnswer struct {
	Message               string  `json:"message"`
	UnloadCommandID       string  `json:"unload_command_id"`
	LoadCommandID         string  `json:"load_command_id"`
	UnloadedModel         string  `json:"unloaded_model" doc:"Full id"`
	LoadedModel           string  `json:"loaded_model" doc:"Full id"`
	FreedMemoryGB         float64 `json:"freed_memory_gb" example:"20.3"`
	EstimatedLoadMemoryGB float64 `json:"estimated_load_memory_gb" example:"14.1"`

	InstanceID               string            `json:"instance_id" doc:"Of the new model; empty for a dry run"`
	Placement                map[string]string `json:"placement" doc:"Role by node id"`
	PredictedTokensPerSecond float64           `json:"predicted_tokens_per_second"`
	Explanation              string            `json:"explanation"`
	DryRun                   bool              `json:"dry_run" doc:"Nothing was done"`
	Copies                   int               `json:"copies" doc:"Nodes on whose disks the command lies; 0 for a dry run" example:"2"`
}

// UnloadAnswer answers DELETE /v1/cluster/models/{name}.
type UnloadAnswer struct {
	Message       string  `json:"message"`
	CommandID     string  `json:"command_id"`
	ModelID       string  `json:"model_id"`
	InstanceID    string  `json:"instance_id" doc:"The first, if there are several"`
	FreedMemoryGB float64 `json:"freed_memory_gb" example:"20.3"`

	InstanceIDs []string `json:"instance_ids" nullable:"false" doc:"All replicas"`
	Copies      int      `json:"copies" doc:"Nodes on whose disks the command lies" example:"2"`
}
