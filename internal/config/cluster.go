package config

import (
	"path/filepath"
	"strings"
	"time"
)

// Cluster is how a node takes part in a cluster.
type Cluster struct {
	Join       []string // gossip addresses, host or host:port
	Secret     string
	SecretFile string // absolute; "": none
	Namespace  string
	PeerHost   string // "": all interfaces
	Advertise  string // "": chosen
	PeerPort   int
	GossipPort int
	// PortsGiven tells that somebody named a port: another is not taken then.
	PortsGiven  bool
	NoDiscovery bool

	NoMaster    bool
	ForceMaster bool
	NoAPI       bool
	NoWorker    bool
	NoDownloads bool

	ResumeTries   int
	ResumeTimeout time.Duration
}

// Candidate tells whether the node may be master: a master without an API
// would leave the cluster unreachable.
func (c Cluster) Candidate() bool { return !c.NoMaster && !c.NoAPI }

// Forced tells whether it is to be master before others.
func (c Cluster) Forced() bool { return c.ForceMaster && c.Candidate() }

// Notes say in one line each what flags mean together where they contradict.
func (c Cluster) Notes() []string {
	var out []string
	switch {
	case c.ForceMaster && c.NoMaster:
		out = append(out, "--no-master wins over --force-master: this node is never master")
	case c.ForceMaster && c.NoAPI:
		out = append(out, "--no-api wins over --force-master: a node without an API is never master")
	}
	if c.NoAPI && c.NoWorker && c.NoMaster {
		out = append(out, "with --no-api, --no-worker and --no-master this node only keeps a copy of the cluster's state")
	}
	if c.NoDownloads && c.NoWorker {
		out = append(out, "--no-downloads has no effect with --no-worker: such a node runs no models")
	}
	return out
}

// cluster reads the options of this part.
func (r resolver) cluster() Cluster {
	given := func(name string) bool { return r.values[name].kind != "default" }
	c := Cluster{
		Secret:        r.text("secret"),
		Namespace:     r.text("namespace"),
		PeerHost:      r.text("peer-host"),
		Advertise:     r.text("advertise"),
		PeerPort:      r.number("peer-port"),
		GossipPort:    r.number("gossip-port"),
		PortsGiven:    given("peer-port") || given("gossip-port"),
		NoDiscovery:   r.bool("no-discovery"),
		NoMaster:      r.bool("no-master"),
		ForceMaster:   r.bool("force-master"),
		NoAPI:         r.bool("no-api"),
		NoWorker:      r.bool("no-worker"),
		NoDownloads:   r.bool("no-downloads"),
		ResumeTries:   r.number("resume-tries"),
		ResumeTimeout: time.Duration(r.number("resume-timeout")) * time.Second,
	}
	if f := r.text("secret-file"); f != "" {
		if abs, err := filepath.Abs(f); err == nil {
			f = abs
		}
		c.SecretFile = f
	}
	for _, v := range r.list("join") {
		for part := range strings.SplitSeq(v, ",") { // addresses hold no commas
			if part = strings.TrimSpace(part); part != "" {
				c.Join = append(c.Join, part)
			}
		}
	}
	return c
}
