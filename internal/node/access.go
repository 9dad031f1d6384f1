package node

import (
	"fmt"
	"net"
	"strings"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/config"
	"github.com/skein-run/skein/internal/httpapi/access"
	"github.com/skein-run/skein/internal/node/shards"
)

// access is who may do what at this node's API. A node that publishes its
// address makes a token, new with each start, for commands on this machine:
// they work however many keys there are.
func (n *Node) access() access.Options {
	c := n.opts.Config
	if !n.opts.Private {
		n.token = access.NewSecret()
	}
	o := access.Options{Local: n.token, Anyone: c.InsecureNoAuth}
	for _, k := range c.APIKeys {
		o.Keys = append(o.Keys, access.Key{Role: cluster.RoleManage, Secret: k})
	}
	for _, k := range c.NamedKeys {
		o.Keys = append(o.Keys, access.Key{Name: k.Name, Role: cluster.Role(k.Role), Secret: k.Secret})
	}
	return o
}

// hosts are the names that a loopback request may be for: those that the
// configuration allows, the one it listens on, and the machine's own.
func (n *Node) hosts() []string {
	out := append([]string{}, n.opts.Config.AllowHosts...)
	if h := n.opts.Config.APIHost; net.ParseIP(h) == nil {
		out = append(out, h)
	}
	if n.name != n.id && n.name != "" {
		name := strings.TrimSuffix(n.name, ".local")
		out = append(out, name, name+".local")
	}
	return out
}

// checkExposure refuses to serve a network without a key by accident.
func checkExposure(c config.Serve) error {
	if len(c.APIKeys) > 0 || len(c.NamedKeys) > 0 || c.InsecureNoAuth || shards.IsLoopback(c.APIHost) {
		return nil
	}
	return fmt.Errorf("--api-host %s can be reached from other machines, and no key protects it; give one with --api-key (or SKEIN_API_KEY), stay on 127.0.0.1, or say --insecure-no-auth", c.APIHost)
}
