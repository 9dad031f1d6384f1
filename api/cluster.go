// Package api holds the wire types of skein's management API and the error
// object that all its APIs share: what a program needs to talk to a node, and
// nothing else. It imports nothing of ours and holds no state; internal/httpapi
// and client are its two users, and programs outside this module may be a
// third.
//
// Names are snake_case and flat. Sizes in *_gb fields are GB of 2^30 bytes
// rounded to one decimal; fields in bytes say so in their name. Times are Unix
// seconds with a fraction. Lists and numbers are never null: what a machine
// cannot measure is 0, and named in Node.Unmeasured.
package api

// DefaultPort is where a node's API listens unless --api-port says otherwise.
const DefaultPort = 52415

// Overview answers GET /v1/cluster.
type Overview struct {
	NodeCount           int        `json:"node_count" doc:"Nodes that are online" example:"3"`
	TotalRAMGB          float64    `json:"total_ram_gb" doc:"Memory of the online nodes; of several nodes on one machine it counts once" example:"192"`
	AvailableRAMGB      float64    `json:"available_ram_gb" example:"120.5"`
	UsedRAMGB           float64    `json:"used_ram_gb" example:"71.5"`
	RAMUsedPercent      float64    `json:"ram_used_percent" doc:"0 to 100" example:"37.2"`
	LoadedModelCount    int        `json:"loaded_model_count" doc:"Entries of models that are ready or running" example:"1"`
	ActiveTaskCount     int        `json:"active_task_count" example:"2"`
	ActiveDownloadCount int        `json:"active_download_count" doc:"Downloads that are pending or running" example:"0"`
	Nodes               []Node     `json:"nodes" nullable:"false" doc:"Also those that were lost in the last 10 minutes, as stale"`
	Models              []Model    `json:"models" nullable:"false" doc:"What is loaded, being loaded, or failed"`
	Tasks               []Task     `json:"tasks" nullable:"false" doc:"Requests being worked on, of all API nodes"`
	Downloads           []Download `json:"downloads" nullable:"false"`
	MasterNodeID        string     `json:"master_node_id" doc:"Empty without a live master"`
	Timestamp           float64    `json:"timestamp" doc:"Unix seconds" example:"1764000000.25"`

	TokensPerSecond float64 `json:"tokens_per_second" doc:"What all models generate now, together" example:"41.5"`
}

// Health answers GET /v1/cluster/health, always with 200.
type Health struct {
	Healthy       bool    `json:"healthy" doc:"False without nodes, without a master, or where no node that may lead can write the cluster's log"`
	NodeCount     int     `json:"node_count" example:"3"`
	MasterNodeID  string  `json:"master_node_id" doc:"Empty without a live master"`
	UptimeSeconds float64 `json:"uptime_seconds" doc:"Of the node that answers" example:"3600"`
	Timestamp     float64 `json:"timestamp" doc:"Unix seconds" example:"1764000000.25"`

	Problem  string   `json:"problem,omitempty" doc:"Why it is not healthy, and what to do"`
	Warnings []string `json:"warnings,omitempty" doc:"What should be mended though the cluster works: nodes whose log of the cluster's commands can't be written"`

	StateIndex uint64 `json:"state_index" doc:"Number of the newest event that this node has applied; tokens make none" example:"42"`
	StateHash  string `json:"state_hash" doc:"SHA-256 of the state after it: nodes that agree tell the same"`

	GenerationsResumed int `json:"generations_resumed" doc:"How often generations lost the place where they ran and went on at another, since the start of each node that answers; on quantized weights a greedy text may differ only there" example:"2"`
	GenerationsLost    int `json:"generations_lost" doc:"How often they ended with an error instead" example:"0"`
}

// NodeList answers GET /v1/cluster/nodes.
type NodeList struct {
	NodeCount int     `json:"node_count" doc:"Nodes that are online" example:"3"`
	Nodes     []Node  `json:"nodes" nullable:"false"`
	Timestamp float64 `json:"timestamp" doc:"Unix seconds" example:"1764000000.25"`
}

// States of a node.
const (
	NodeOnline  = "online"
	NodeStale   = "stale"   // gone, for less than ten minutes
	NodeUnknown = "unknown" // there, but nothing is known of it yet
)

// Node is a machine of the cluster, or one of several nodes on a machine.
type Node struct {
	NodeID           string   `json:"node_id" example:"3fa1c2d4e5f60718"`
	FriendlyName     string   `json:"friendly_name" doc:"Name of the machine; where several nodes have the same, with the beginning of the id: studio-3fa1" example:"studio"`
	Chip             string   `json:"chip" example:"Apple M3 Max"`
	OSVersion        string   `json:"os_version" example:"darwin 15.1"`
	RAMTotalGB       float64  `json:"ram_total_gb" example:"64"`
	RAMAvailableGB   float64  `json:"ram_available_gb" example:"40.2"`
	RAMUsedGB        float64  `json:"ram_used_gb" example:"23.8"`
	RAMUsedPercent   float64  `json:"ram_used_percent" doc:"0 to 100" example:"37.2"`
	DiskTotalGB      float64  `json:"disk_total_gb" doc:"Of the disk where models lie" example:"926.4"`
	DiskAvailableGB  float64  `json:"disk_available_gb" example:"512"`
	GPUUsagePercent  float64  `json:"gpu_usage_percent" doc:"0 to 100" example:"12.5"`
	CPUPUsagePercent float64  `json:"cpu_p_usage_percent" doc:"Of the fast cores, 0 to 100; where all are alike, of all" example:"8"`
	CPUEUsagePercent float64  `json:"cpu_e_usage_percent" doc:"Of the efficient cores, 0 to 100" example:"3.1"`
	TemperatureC     float64  `json:"temperature_c" example:"45"`
	PowerWatts       float64  `json:"power_watts" example:"22.5"`
	IPAddresses      []string `json:"ip_addresses" nullable:"false" example:"[\"192.168.1.20\"]"`
	ConnectionTypes  []string `json:"connection_types" nullable:"false" doc:"Such as ethernet, wifi, thunderbolt" example:"[\"ethernet\"]"`
	HasThunderbolt   bool     `json:"has_thunderbolt"`
	RDMAEnabled      bool     `json:"rdma_enabled"`
	LoadedModels     []string `json:"loaded_models" nullable:"false" doc:"Short names" example:"[\"Qwen3-30B\"]"`
	Status           string   `json:"status" enum:"online,stale,unknown"`
	SecondsSinceSeen float64  `json:"seconds_since_seen" example:"0.4"`
	IsMaster         bool     `json:"is_master"`
	IsCandidate      bool     `json:"is_candidate" doc:"It may become master"`
	Roles            []string `json:"roles" nullable:"false" doc:"Of master, candidate, api, worker, downloads" example:"[\"candidate\",\"api\",\"worker\",\"downloads\"]"`
	Draining         bool     `json:"draining" doc:"It gets nothing new"`
	Accelerators     []Device `json:"accelerators" nullable:"false" doc:"Devices with memory of their own, or that share the machine's"`
	Version          string   `json:"version" example:"0.6.0"`
	UptimeSeconds    float64  `json:"uptime_seconds" example:"3600"`
	Unmeasured       []string `json:"unmeasured" nullable:"false" doc:"Names of the numeric fields that this machine cannot measure; they are 0" example:"[\"power_watts\"]"`
	ReservedMemoryGB float64  `json:"reserved_memory_gb" doc:"Promised to the models on this node, in all memories" example:"20.3"`
}

// Device is an accelerator.
type Device struct {
	ID                string  `json:"id" example:"CUDA0"`
	Name              string  `json:"name" example:"NVIDIA GeForce RTX 4090"`
	Kind              string  `json:"kind" example:"cuda"`
	MemoryTotalGB     float64 `json:"memory_total_gb" example:"24"`
	MemoryAvailableGB float64 `json:"memory_available_gb" example:"20.5"`
}

// Task is a request that an API node works on.
type Task struct {
	TaskID     string  `json:"task_id"`
	TaskType   string  `json:"task_type" example:"chat"`
	Status     string  `json:"status" example:"running"`
	ModelID    string  `json:"model_id"`
	InstanceID string  `json:"instance_id" doc:"Empty while it waits for one"`
	NodeID     string  `json:"node_id" doc:"The API node whose client asked"`
	AgeSeconds float64 `json:"age_seconds" doc:"Since it came in" example:"1.5"`
}

// PromoteRequest is the body of POST /v1/cluster/master.
type PromoteRequest struct {
	NodeID string `json:"node_id" minLength:"1" maxLength:"200" doc:"The new master, by id, unambiguous prefix of the id, or friendly name" example:"studio"`
}

// PromoteAnswer is sent when the lead was handed over.
type PromoteAnswer struct {
	Message      string `json:"message"`
	CommandID    string `json:"command_id"`
	MasterNodeID string `json:"master_node_id" doc:"The master now"`
	PreviousID   string `json:"previous_master_node_id" doc:"The master before; empty if there was none"`
}

// DrainAnswer answers POST /v1/cluster/nodes/{id}/drain and /resume.
type DrainAnswer struct {
	Message   string   `json:"message"`
	CommandID string   `json:"command_id"`
	NodeID    string   `json:"node_id"`
	Draining  bool     `json:"draining" doc:"What it is now"`
	Moving    []string `json:"moving" nullable:"false" doc:"Short names of the models that leave the node"`
	Copies    int      `json:"copies" doc:"Nodes on whose disks the command lies" example:"2"`
}
