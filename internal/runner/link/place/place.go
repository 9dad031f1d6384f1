// Package place tells where a shard runs, and which others run on the same machine:
// whether such a one lives the system knows (package liveness).
//
// It must not import the rest of the link.
package place

import "os"

// Place says where a shard runs; JSON. Two of the same Machine can look at each
// other's processes, and no network is between them that could be cut.
type Place struct {
	Machine string `json:"machine"` // "": that can't be told
	Process int    `json:"process"`
}

// Here is this process.
func Here() Place { return Place{Machine: machine(), Process: os.Getpid()} }

// Near gives the process at p if it is another one on the same machine, else 0.
func (p Place) Near(own Place) int {
	if p.Machine == "" || p.Machine != own.Machine || p.Process == own.Process || p.Process <= 0 {
		return 0
	}
	return p.Process
}
