package view

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"
	"time"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/ids"
)

// Keys lists the keys, by name, without anything that is secret.
func (v *View) Keys() api.KeyList {
	out := api.KeyList{Keys: []api.Key{}, Timestamp: v.Timestamp()}
	for _, k := range v.in.State.Keys {
		out.Keys = append(out.Keys, v.Key(k))
	}
	slices.SortFunc(out.Keys, func(a, b api.Key) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Key is one in the API's words.
func (v *View) Key(k cluster.Key) api.Key {
	out := api.Key{
		Name: k.Name, Role: string(k.Role), CreatedAt: seconds(k.Created), CreatedBy: k.By, Expired: k.Expired(v.in.Now),
		RequestsPerMinute: k.PerMinute, Concurrent: k.Concurrent,
	}
	if !k.Expires.IsZero() {
		out.ExpiresAt = seconds(k.Expires)
	}
	return out
}

// Audit lists who gave the last commands, and who was refused one lately, oldest
// first.
func (v *View) Audit() api.AuditList {
	out := api.AuditList{Audit: []api.Audit{}, Timestamp: v.Timestamp()}
	for _, a := range v.in.State.Audit {
		out.Audit = append(out.Audit, audited(a))
	}
	for id, vitals := range v.in.Vitals {
		for _, r := range vitals.Refusals {
			out.Audit = append(out.Audit, refused(id, r))
		}
	}
	slices.SortStableFunc(out.Audit, func(a, b api.Audit) int { return cmp.Compare(a.Timestamp, b.Timestamp) })
	return out
}

func audited(a cluster.Audit) api.Audit {
	return api.Audit{Timestamp: seconds(a.At), Key: a.By, NodeID: string(a.Via), CommandID: a.Command, What: a.What, Result: a.Result, Count: 1}
}

func refused(at ids.Node, r cluster.Refusal) api.Audit {
	return api.Audit{Timestamp: seconds(r.Last), Key: r.Key, NodeID: string(at), What: r.What, Result: "refused: " + r.Reason, Count: r.Count}
}

// newAudits are those of next that old has not. A log that lost to another one
// may have other commands at the same places.
func newAudits(old, next *View) []api.Event {
	type place struct {
		index   uint64
		command string
	}
	known := map[place]bool{}
	for _, a := range old.in.State.Audit {
		known[place{a.Index, a.Command}] = true
	}
	var out []api.Event
	for _, a := range next.in.State.Audit {
		if !known[place{a.Index, a.Command}] {
			x := audited(a)
			out = append(out, api.Event{Type: api.EventAudit, Change: api.ChangeAdded, Audit: &x})
		}
	}
	return append(out, newRefusals(old, next)...)
}

// newRefusals are those that old has not, and those that have become twice as
// many: who is refused as fast as it can is told of a few times.
func newRefusals(old, next *View) []api.Event {
	type kind struct {
		node            ids.Node
		key, what, code string
		first           int64
	}
	kindOf := func(id ids.Node, r cluster.Refusal) kind { return kind{id, r.Key, r.What, r.Code, r.First.UnixNano()} }
	known := map[kind]int{}
	for id, v := range old.in.Vitals {
		for _, r := range v.Refusals {
			known[kindOf(id, r)] = r.Count
		}
	}
	var out []api.Event
	for _, id := range slices.Sorted(maps.Keys(next.in.Vitals)) {
		for _, r := range next.in.Vitals[id].Refusals {
			before, ok := known[kindOf(id, r)]
			change := api.ChangeAdded
			if ok {
				change = api.ChangeChanged
			}
			if !ok || bits.Len(uint(r.Count)) > bits.Len(uint(before)) {
				x := refused(id, r)
				out = append(out, api.Event{Type: api.EventAudit, Change: change, Audit: &x})
			}
		}
	}
	return out
}

// seconds is a time as the API writes it.
func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
