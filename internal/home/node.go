package home

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/shirou/gopsutil/v4/process"
)

// Node is the content of the address file: where the node of this SKEIN_HOME
// answers. It holds a key to it, so the file is readable by its owner only.
type Node struct {
	PID     int       `json:"pid"`
	API     string    `json:"api"` // base URL a client on this machine can dial: "http://127.0.0.1:52415"
	Started time.Time `json:"started"`
	Version string    `json:"version"`           // of the skein binary
	APIKey  string    `json:"api_key,omitempty"` // that the node accepts from its own machine until it stops
}

// ErrNoNode means that there is no address file: no node runs for this home.
var ErrNoNode = errors.New("no node is running")

// StaleError means that the address file is left from a node that is gone.
type StaleError struct {
	Node Node
	File string
}

func (e *StaleError) Error() string {
	return fmt.Sprintf("the node that wrote %s (process %d) is no longer running", e.File, e.Node.PID)
}

// Taken is the error of a second node on this home, nil if the one that runs is
// process pid or there is none.
func (h Home) Taken(pid int) error {
	if old, err := h.ReadNode(); err == nil && old.PID != pid {
		return fmt.Errorf("a node is already running for %s at %s (process %d); stop it, or set %s to another folder",
			h.dir, old.API, old.PID, Env)
	}
	return nil
}

// WriteNode publishes the address of the calling node. It refuses when another
// process that is still alive has published one: two nodes on one home would
// overwrite each other's files.
func (h Home) WriteNode(n Node) error {
	if err := h.Taken(n.PID); err != nil {
		return err
	}
	if err := h.Ensure(); err != nil {
		return err
	}
	data, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the address file: %w", err)
	}
	// Replaced by rename, so that a command that reads it meanwhile sees the
	// old or the new one. CreateTemp gives mode 0600.
	f, err := os.CreateTemp(h.dir, ".node-*.json")
	if err != nil {
		return fmt.Errorf("write the address file: %w; set %s to a folder you may write to", err, Env)
	}
	defer os.Remove(f.Name()) // fails, as it should, once renamed
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the address file: %w", err)
	}
	if err := os.Rename(f.Name(), h.NodeFile()); err != nil {
		return fmt.Errorf("write the address file: %w", err)
	}
	return nil
}

// ReadNode gives the address of the running node: ErrNoNode when there is no
// file, a *StaleError when the process that wrote it is gone. Whether the node
// answers is for the caller to find out: a process id may have been reused.
func (h Home) ReadNode() (Node, error) {
	data, err := os.ReadFile(h.NodeFile())
	if errors.Is(err, fs.ErrNotExist) {
		return Node{}, ErrNoNode
	}
	if err != nil {
		return Node{}, fmt.Errorf("read the address file: %w", err)
	}
	var n Node
	if err := json.Unmarshal(data, &n); err != nil || n.PID <= 0 || n.API == "" {
		return Node{}, fmt.Errorf("%s is not an address file; remove it and restart the node", filepath.Clean(h.NodeFile()))
	}
	alive, err := process.PidExists(int32(n.PID))
	if err != nil {
		return Node{}, fmt.Errorf("look for process %d: %w", n.PID, err)
	}
	if !alive {
		return Node{}, &StaleError{Node: n, File: h.NodeFile()}
	}
	return n, nil
}

// RemoveNode removes the address file if it is the one that process pid wrote.
func (h Home) RemoveNode(pid int) error {
	data, err := os.ReadFile(h.NodeFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove the address file: %w", err)
	}
	var n Node
	if err := json.Unmarshal(data, &n); err == nil && n.PID != pid {
		return nil
	}
	if err := os.Remove(h.NodeFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the address file: %w", err)
	}
	return nil
}
