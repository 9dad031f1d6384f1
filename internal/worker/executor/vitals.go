package executor

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/plan"
	"github.com/skein-run/skein/internal/supervise"
)

// VitalsPath is where a node answers with its vitals, VitalsPattern what
// http.ServeMux mounts VitalsHandler with.
const (
	VitalsPath    = "/vitals"
	VitalsPattern = "GET " + VitalsPath
)

// VitalsHandler answers members of the cluster with this node's vitals, as
// JSON. A node without an Executor has vitals too.
func VitalsHandler(member func(*http.Request) bool, vitals func(context.Context) (cluster.Vitals, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !member(r) {
			http.Error(w, "vitals are for members of the cluster", http.StatusForbidden)
			return
		}
		v, err := vitals(r.Context())
		var b []byte
		if err == nil {
			b, err = json.Marshal(v)
		}
		if err != nil {
			http.Error(w, "the vitals can't be told: "+err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(b) // a client that is gone needs no answer
	})
}

// Pending is what shards here were promised of each device, and have not taken
// yet, bytes.
func (e *Executor) Pending() map[string]int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pending()
}

// Fill puts what this node's shards do into its vitals; Devices must be there,
// for what is pending of them.
func (e *Executor) Fill(v *cluster.Vitals) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	pending := e.pending()
	for i := range v.Devices {
		v.Devices[i].Pending += pending[v.Devices[i].ID]
	}
	for _, k := range sortedKeys(e.shards) {
		s := e.shards[k]
		i, mine := s.placed()
		if !mine {
			continue
		}
		x := cluster.ShardVitals{Instance: k.Instance, Shard: k.Shard, Phase: i.Shards[k.Shard].Phase}
		switch {
		case s.local.Doing == plan.Fetch:
			x.Phase, x.Done, x.Total, x.Speed = cluster.Fetching, s.done, s.total, s.fetched.PerSecond(now)
			if s.total > 0 {
				x.Progress = float64(s.done) / float64(s.total)
			}
		case s.local.Doing == plan.Load:
			x.Phase = cluster.Loading
			if state := s.member.State(); state.Phase == supervise.Loading {
				x.Progress = state.Progress
			}
		}
		v.Shards = append(v.Shards, x)
		if s.serving != nil {
			v.Instances = append(v.Instances, cluster.InstanceVitals{
				Instance: k.Instance, Running: min(s.open, i.Slots), Waiting: max(0, s.open-i.Slots), Stream: s.stream, Now: s.tokens.PerSecond(now),
				Chunk: s.info.ChunkTokens, Prefixes: s.cached.Known(),
			})
		}
	}
}
