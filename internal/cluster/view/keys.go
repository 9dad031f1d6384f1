package view

import (
	"cmp"
	"slices"
	"time"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster"
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

// Audit lists who gave the last commands, oldest first.
func (v *View) Audit() api.AuditList {
	out := api.AuditList{Audit: []api.Audit{}, Timestamp: v.Timestamp()}
	for _, a := range v.in.State.Audit {
		out.Audit = append(out.Audit, audited(a))
	}
	return out
}

func audited(a cluster.Audit) api.Audit {
	return api.Audit{Timestamp: seconds(a.At), Key: a.By, NodeID: string(a.Via), CommandID: a.Command, What: a.What, Result: a.Result}
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
	return out
}

// seconds is a time as the API writes it.
func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
