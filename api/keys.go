package api

// Roles of keys.
const (
	RoleChat   = "chat"
	RoleRead   = "read"
	RoleManage = "manage"
)

// Key is a key that all nodes of the cluster accept. Its secret is told once,
// when it is made.
type Key struct {
	Name              string  `json:"name" example:"ci"`
	Role              string  `json:"role" enum:"chat,read,manage"`
	CreatedAt         float64 `json:"created_at" doc:"Unix seconds"`
	CreatedBy         string  `json:"created_by" doc:"The key that made it; open: no key was needed; local: a command on the node's own machine"`
	ExpiresAt         float64 `json:"expires_at" doc:"Unix seconds; 0: never"`
	Expired           bool    `json:"expired"`
	RequestsPerMinute int     `json:"requests_per_minute" doc:"At each node; 0: no limit"`
	Concurrent        int     `json:"concurrent" doc:"Open requests at each node; 0: no limit"`
}

// KeyList is the answer of GET /v1/cluster/keys.
type KeyList struct {
	Keys      []Key   `json:"keys" nullable:"false"`
	Timestamp float64 `json:"timestamp"`
}

// AddKeyRequest is the body of POST /v1/cluster/keys.
type AddKeyRequest struct {
	Name              string  `json:"name" maxLength:"64" pattern:"^[a-z0-9][a-z0-9._-]*$" patternDescription:"a-z, 0-9, '.', '_' and '-', beginning with a letter or digit" doc:"Of a-z, 0-9, '.', '_' and '-'" example:"ci"`
	Role              string  `json:"role" enum:"chat,read,manage" doc:"chat: inference; read: to look at everything but keys; manage: everything"`
	ExpiresSeconds    float64 `json:"expires_seconds,omitempty" minimum:"0" maximum:"315360000" doc:"How long it is worth something; 0: until it is revoked"`
	RequestsPerMinute int     `json:"requests_per_minute,omitempty" minimum:"0" maximum:"1000000" doc:"What it may ask each node for; 0: no limit"`
	Concurrent        int     `json:"concurrent,omitempty" minimum:"0" maximum:"1000000" doc:"How many of its requests a node has open at once; 0: no limit"`
}

// AddKeyAnswer tells the secret, once.
type AddKeyAnswer struct {
	Message   string `json:"message"`
	CommandID string `json:"command_id"`
	Key       Key    `json:"key"`
	Secret    string `json:"secret" doc:"Send it as 'Authorization: Bearer SECRET'; nobody can show it again" example:"sk-skein-..."`
	Copies    int    `json:"copies" doc:"Nodes on whose disks the command lies"`
}

// RevokeKeyAnswer is the answer of DELETE /v1/cluster/keys/{key}.
type RevokeKeyAnswer struct {
	Message   string `json:"message"`
	CommandID string `json:"command_id"`
	Name      string `json:"name"`
	Copies    int    `json:"copies"`
}

// Audit tells who gave a command.
type Audit struct {
	Timestamp float64 `json:"timestamp" doc:"Unix seconds, by the master's clock; of a refusal, the last of its kind by its node's clock"`
	Key       string  `json:"key" doc:"Name of the key; config:NAME: one of a node's configuration; local: a command on the node's own machine; open: no key was needed"`
	NodeID    string  `json:"node_id" doc:"The node that took it"`
	CommandID string  `json:"command_id" doc:"Empty of what was refused"`
	What      string  `json:"what" example:"load org/Model-GGUF" doc:"Of what was refused: its method and route"`
	Result    string  `json:"result" doc:"done, or why not"`
	Count     int     `json:"count" example:"1" doc:"How many: refusals of one kind are counted while no minute passes without one, and told at the 1st, 2nd, 4th, 8th"`
}

// AuditList is the answer of GET /v1/cluster/audit, oldest first.
type AuditList struct {
	Audit     []Audit `json:"audit" nullable:"false"`
	Timestamp float64 `json:"timestamp"`
}
