//go:build unix

package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// roleRow is a row of the table of roles in docs/cluster.md, or a pair.
type roleRow struct {
	flags string
	roles []string // besides master
	says  string   // at the start
}

// roleTable has every flag and every pair.
func roleTable() []roleRow {
	const never, copies, noEffect = "never master", "only keeps a copy", "no effect"
	return []roleRow{
		{"", []string{"api", "candidate", "downloads", "worker"}, ""},
		{"--no-master", []string{"api", "downloads", "worker"}, ""},
		{"--no-api", []string{"downloads", "worker"}, "--no-api"},
		{"--no-worker", []string{"api", "candidate"}, ""},
		{"--no-downloads", []string{"api", "candidate", "worker"}, ""},
		{"--force-master", []string{"api", "candidate", "downloads", "worker"}, ""},
		{"--no-master --force-master", []string{"api", "downloads", "worker"}, never},
		{"--no-api --force-master", []string{"downloads", "worker"}, never},
		{"--no-master --no-api", []string{"downloads", "worker"}, "--no-api"},
		{"--no-master --no-worker", []string{"api"}, ""},
		{"--no-master --no-downloads", []string{"api", "worker"}, ""},
		{"--no-api --no-worker", nil, "--no-api"},
		{"--no-api --no-downloads", []string{"worker"}, "--no-api"},
		{"--force-master --no-worker", []string{"api", "candidate"}, ""},
		{"--force-master --no-downloads", []string{"api", "candidate", "worker"}, ""},
		{"--no-worker --no-downloads", []string{"api", "candidate"}, noEffect},
		{"--no-master --no-api --no-worker", nil, copies},
	}
}

// Each row of the table of roles and each pair, as a process that joins a
// cluster: what others see of it, what it says, and whether it leads.
func TestRoleTable(t *testing.T) {
	first := member(t, nil, options{})
	together(t, first)
	for _, row := range roleTable() {
		t.Run(strings.ReplaceAll(row.flags, " ", ","), func(t *testing.T) {
			n := member(t, first, options{args: strings.Fields(row.flags)})
			var got []string
			eventually(t, "the node to be known", func() bool {
				var list struct {
					Nodes []struct {
						ID      string   `json:"node_id"`
						Version string   `json:"version"` // "": it is alive and has not said yet what it is
						Roles   []string `json:"roles"`
					} `json:"nodes"`
				}
				first.read("/v1/cluster/nodes", &list)
				for _, x := range list.Nodes {
					if x.ID == n.id() && x.Version != "" {
						got = slices.DeleteFunc(x.Roles, func(r string) bool { return r == "master" })
						slices.Sort(got)
						return true
					}
				}
				return false
			})
			if !slices.Equal(got, row.roles) {
				t.Errorf("it has the roles %v, want %v", got, row.roles)
			}
			contains(t, n.stdout.String()+n.stderr.String(), row.says)
			if hasAPI := n.url != ""; hasAPI != slices.Contains(row.roles, "api") {
				t.Errorf("it has an API: %v", hasAPI)
			}
			if strings.Contains(row.flags, "--force-master") && slices.Contains(row.roles, "candidate") {
				eventually(t, "the forced node to lead", func() bool { return first.master() == n.id() })
			} else if slices.Contains(row.roles, "candidate") {
				if got := first.master(); got != first.id() {
					t.Errorf("a mere join made %s the master", got)
				}
			} else {
				r := first.post("/v1/cluster/master", fmt.Sprintf(`{"node_id":%q}`, n.id()))
				if r.status != http.StatusConflict || first.master() != first.id() {
					t.Errorf("promoted: status %d: %s; %s leads", r.status, r.body, first.master())
				}
			}
			n.stop()
			eventually(t, "the first node to lead alone", func() bool { return first.master() == first.id() && len(first.online()) == 1 })
		})
	}
}
