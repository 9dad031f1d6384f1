package home

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// idLength is that of rand.Text, 130 bits in base 32.
const idLength = 26

// NodeID gives the node's id. It is made at the first call and kept: a node
// that came back under another id would be a stranger to its cluster.
func (h Home) NodeID() (string, error) {
	file := filepath.Join(h.dir, "node_id")
	b, err := os.ReadFile(file)
	if err == nil {
		id := strings.TrimSpace(string(b))
		if len(id) != idLength {
			return "", fmt.Errorf("%s holds no node id (%d characters instead of %d); remove it to get a new one", file, len(id), idLength)
		}
		return id, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read node id: %w", err)
	}
	id := rand.Text()
	// Exclusive: of two nodes that start at once on a fresh home, one wins.
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("another node of %s is starting; stop it, or set %s to another folder", h.dir, Env)
	}
	if err != nil {
		return "", fmt.Errorf("write node id: %w", err)
	}
	_, err = f.WriteString(id + "\n")
	if err = errors.Join(err, f.Close()); err != nil {
		// Half an id would be refused for ever.
		return "", errors.Join(fmt.Errorf("write node id: %w", err), os.Remove(file))
	}
	return id, nil
}
