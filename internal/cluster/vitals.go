package cluster

import (
	"time"

	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/ids"
)

// Vitals is what a node tells its peers about itself when they ask: what
// changes all the time and so is never in the log. A pointer that is nil was
// not measured, because the machine or the platform does not tell.
type Vitals struct {
	// At is when it was measured. Who asks puts its own time there, so that
	// clocks need not agree.
	At     time.Time `json:"at"`
	Uptime float64   `json:"uptime"` // of the node, s

	Chip string `json:"chip"` // "Apple M3 Max", "" if unknown
	OS   string `json:"os"`   // "debian 12.5"

	// Devices are the node's memories, by id; "" is the host's own.
	Devices []DeviceVitals `json:"devices"`
	Disk    *Space         `json:"disk,omitempty"` // where models lie

	// Use of the processor's fast and efficient cores, and of the GPUs, in
	// percent. Where cores are all alike they are fast.
	FastCores      *float64 `json:"fast_cores,omitempty"`
	EfficientCores *float64 `json:"efficient_cores,omitempty"`
	GPU            *float64 `json:"gpu,omitempty"`
	Temperature    *float64 `json:"temperature,omitempty"` // of the hottest part, degrees Celsius
	Power          *float64 `json:"power,omitempty"`       // of the machine, W

	Addresses   []string `json:"addresses"`   // IP addresses, without loopback
	Connections []string `json:"connections"` // kinds: "ethernet", "wifi", "thunderbolt", "infiniband"
	Thunderbolt bool     `json:"thunderbolt"` // it has ports for it
	RDMA        bool     `json:"rdma"`

	Shards    []ShardVitals    `json:"shards"`
	Instances []InstanceVitals `json:"instances"` // whose head is here
	Downloads []DownloadVitals `json:"downloads"`
	// Fetched names the models whose files lie here since they were fetched
	// whole, and not since somebody put them there.
	Fetched []string `json:"fetched,omitempty"`
	// Hashing is the model whose files are read for their hashes now.
	Hashing *HashVitals `json:"hashing,omitempty"`
	Tasks   []Task      `json:"tasks"` // of this node's API clients
	// Resumed and Lost count losses of a place by generations of this node's
	// clients since its start: those that went on at another place, and those that
	// ended with an error.
	Resumed int64 `json:"resumed,omitempty"`
	Lost    int64 `json:"lost,omitempty"`

	// LogProblem is why this node can't write the cluster's log; "": it can.
	LogProblem string `json:"log_problem,omitempty"`

	// Refusals are the commands that this node's API refused lately, the newest
	// last.
	Refusals []Refusal `json:"refusals,omitempty"`

	// Links are the lines to peers that this node has measured.
	Links map[ids.Node]placement.Line `json:"links,omitempty"`
}

// DeviceVitals is a memory now.
type DeviceVitals struct {
	ID        string `json:"id"`
	Name      string `json:"name"`      // "NVIDIA GeForce RTX 4090"
	Kind      string `json:"kind"`      // "cpu", "cuda", "metal", "vulkan"
	Total     int64  `json:"total"`     // bytes
	Available int64  `json:"available"` // bytes that are free or easily freed
	Pending   int64  `json:"pending"`   // bytes that shards here were promised and have not taken yet
}

// Space is the room on a disk, bytes.
type Space struct {
	Total int64 `json:"total"`
	Free  int64 `json:"free"`
}

// ShardVitals is how far a shard is in its phase.
type ShardVitals struct {
	Instance string  `json:"instance"`
	Shard    int     `json:"shard"`
	Phase    Phase   `json:"phase"`    // that the numbers are about
	Progress float64 `json:"progress"` // of Loading, in [0, 1]
	// Done and Total are the bytes of Fetching, Speed bytes/s lately.
	Done  int64   `json:"done"`
	Total int64   `json:"total"`
	Speed float64 `json:"speed"`
}

// InstanceVitals is what the head of an instance does.
type InstanceVitals struct {
	Instance string `json:"instance"`
	Running  int    `json:"running"` // generations
	Waiting  int    `json:"waiting"`
	// Stream is how fast one stream was lately, Now what all give together at
	// this moment, in tokens/s.
	Stream float64 `json:"stream"`
	Now    float64 `json:"now"`
	// Chunk and Prefixes tell which prompts begin with what is likely to be
	// cached: the fingerprints of generation/prefix.
	Chunk    int      `json:"chunk"`
	Prefixes []uint32 `json:"prefixes,omitempty"`
}

// DownloadVitals is how far a transfer to this node is.
type DownloadVitals struct {
	Model string  `json:"model"`
	Done  int64   `json:"done"`  // bytes
	Total int64   `json:"total"` // bytes
	Speed float64 `json:"speed"` // bytes/s, lately
}

// HashVitals is how far the hashing of a model's files is.
type HashVitals struct {
	Model string `json:"model"`
	Done  int64  `json:"done"`  // bytes
	Total int64  `json:"total"` // bytes
}

// Task is a request that a node's API works on.
type Task struct {
	ID       string  `json:"id"`
	Type     string  `json:"type"`   // "chat", "completion"
	Status   string  `json:"status"` // "waiting", "running", "resuming"
	Model    string  `json:"model"`
	Instance string  `json:"instance"` // "" while it waits for one
	Age      float64 `json:"age"`      // s since it came in, at Vitals.At
}

// Refusal is a command that an API refused: by the role of its key, since it
// made no sense, or as the master said. The same again is counted.
type Refusal struct {
	Key    string    `json:"key"`  // name
	What   string    `json:"what"` // method and route
	Status int       `json:"status"`
	Code   string    `json:"code,omitempty"`
	Reason string    `json:"reason"` // of the last one
	Count  int       `json:"count"`
	First  time.Time `json:"first"` // by the node's own clock, as Last
	Last   time.Time `json:"last"`
}

// Device gives the vitals of a memory; false if they are not told.
func (v Vitals) Device(id string) (DeviceVitals, bool) {
	for _, d := range v.Devices {
		if d.ID == id {
			return d, true
		}
	}
	return DeviceVitals{}, false
}

// Report is the part that placement needs.
func (v Vitals) Report() Report {
	r := Report{At: v.At, Available: map[string]int64{}, Pending: map[string]int64{}}
	for _, d := range v.Devices {
		r.Available[d.ID], r.Pending[d.ID] = d.Available, d.Pending
	}
	return r
}

// Reports gives those of all nodes.
func Reports(vitals map[ids.Node]Vitals) map[ids.Node]Report {
	out := make(map[ids.Node]Report, len(vitals))
	for id, v := range vitals {
		out[id] = v.Report()
	}
	return out
}
