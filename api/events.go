package api

// Kinds of events of GET /v1/cluster/events.
const (
	EventSnapshot = "snapshot" // the whole overview: first on a stream that does not resume
	EventNode     = "node"
	EventModel    = "model"
	EventTask     = "task"
	EventDownload = "download"
	EventMaster   = "master"
	EventAudit    = "audit" // who gave a command
)

// Changes that an event tells of.
const (
	ChangeAdded   = "added"
	ChangeChanged = "changed"
	ChangeRemoved = "removed"
)

// Event is one change of the cluster. On the wire its id is the id of the
// server-sent event, its type the event's name, and the rest its data.
type Event struct {
	ID   string `json:"id" doc:"Send it as Last-Event-ID to go on after this event" example:"k3x9.17"`
	Type string `json:"type" enum:"snapshot,node,model,task,download,master,audit"`
	// Change is empty in snapshots.
	Change string `json:"change,omitempty" enum:"added,changed,removed"`
	// Measured: only measurements changed (memory, use, speed); such events are
	// sent when they are asked for.
	Measured  bool    `json:"measured,omitempty" doc:"Only measurements changed, such as memory, use and speed"`
	Timestamp float64 `json:"timestamp" doc:"Unix seconds" example:"1764000000.25"`
	Reason    string  `json:"reason,omitempty" doc:"Of a snapshot: why the stream could not go on after the id that was given"`

	// One of these, by Type; of what was removed, as it was last.
	Cluster      *Overview `json:"cluster,omitempty"`
	Node         *Node     `json:"node,omitempty"`
	Model        *Model    `json:"model,omitempty"`
	Task         *Task     `json:"task,omitempty"`
	Download     *Download `json:"download,omitempty"`
	Audit        *Audit    `json:"audit,omitempty"`
	MasterNodeID *string   `json:"master_node_id,omitempty" doc:"Empty: there is no master any more"`
}
