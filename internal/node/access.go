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
	o := access.Options{Local: n.token, Anyone: c.InsecureNoAuth, Cluster: n.keys}
	for i, k := range c.APIKeys {
		n.weigh(fmt.Sprintf("api-key-%d", i+1), k)
		o.Keys = append(o.Keys, access.Key{Role: cluster.RoleManage, Secret: k})
	}
	for _, k := range c.NamedKeys {
		n.weigh(k.Name, k.Secret)
		o.Keys = append(o.Keys, access.Key{Name: k.Name, Role: cluster.Role(k.Role), Secret: k.Secret})
	}
	return o
}

// shortKey is below how many characters a key may be guessed: nothing counts
// guesses.
const shortKey = 16

// weigh warns of a key that is easy to guess.
func (n *Node) weigh(name, secret string) {
	if len(secret) < shortKey && !n.opts.Private {
		n.log.Warn(fmt.Sprintf("an API key has fewer than %d characters and may be guessed; 'openssl rand -base64 24' makes a better one", shortKey), "key", name)
	}
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

// keys are those of the cluster as this node knows them.
func (n *Node) keys() map[string]cluster.Key {
	if n.control == nil {
		return nil
	}
	s, _ := n.control.Cluster().State()
	return s.Keys
}

// checkExposure refuses to serve a network without a key by accident. A key of
// the cluster that may manage will do: where there is any key, or none, nobody
// else gets in without one. A node that joins and does not know of it yet can't
// tell.
func checkExposure(c config.Serve, keys map[string]cluster.Key) error {
	if len(c.APIKeys) > 0 || len(c.NamedKeys) > 0 || c.InsecureNoAuth || c.Cluster.NoAPI || shards.IsLoopback(c.APIHost) {
		return nil
	}
	for _, k := range keys {
		if k.Role == cluster.RoleManage {
			return nil
		}
	}
	return fmt.Errorf("--api-host %s can be reached from other machines, and no key protects it; give one with --api-key (or SKEIN_API_KEY), start on 127.0.0.1 and make one with 'skein keys add NAME --role manage', or say --insecure-no-auth", c.APIHost)
}
