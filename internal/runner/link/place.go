package link

import "os"

// place says where a shard runs; JSON. Two of the same Machine can look at each
// other's processes, and no network is between them that could be cut.
type place struct {
	Machine string `json:"machine"` // "": that can't be told
	Process int    `json:"process"`
}

func here() place { return place{Machine: machine(), Process: os.Getpid()} }

// near gives the process at p if it is another one on the same machine, else 0.
func (p place) near(own place) int {
	if p.Machine == "" || p.Machine != own.Machine || p.Process == own.Process || p.Process <= 0 {
		return 0
	}
	return p.Process
}
