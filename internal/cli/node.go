package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
	"github.com/skein-run/skein/internal/buildinfo"
	"github.com/skein-run/skein/internal/config"
	"github.com/skein-run/skein/internal/home"
)

// aliveTimeout bounds the wait for a node on this machine to say that it is
// there; a node answers this without work.
const aliveTimeout = 5 * time.Second

// masterTimeout is how long a command waits for the cluster to have a master;
// an election takes a second or two.
const masterTimeout = 5 * time.Second

// resolve reads the configuration of a node: file, environment and the given
// flags. file is "" for the default place.
func (a *app) resolve(where home.Home, file string, flags map[string][]string) (config.Serve, []config.Setting, error) {
	path, asked := file, true
	if path == "" {
		path = a.Getenv("SKEIN_CONFIG")
	}
	if path == "" {
		path, asked = where.ConfigFile(), false
	}
	read, err := config.Load(path, asked)
	if err != nil {
		return config.Serve{}, nil, err
	}
	return config.Resolve(config.Sources{Flags: flags, Getenv: a.Getenv, File: read})
}

// flagOr gives a flag's value, or else that of its variable.
func (a *app) flagOr(value, variable string) string {
	if value != "" {
		return value
	}
	return a.Getenv(variable)
}

// connect finds the node to talk to: the one that --host and --port name, or
// else the one that runs for SKEIN_HOME. It gives nil when neither is there.
func (a *app) connect(ctx context.Context) (*client.Client, error) {
	host, port := a.flagOr(a.host, "SKEIN_HOST"), a.flagOr(a.port, "SKEIN_PORT")
	key := a.flagOr(a.apiKey, "SKEIN_API_KEY")
	// The variable may list the keys that a node accepts; any of them will do.
	key, _, _ = strings.Cut(key, ",")
	if host != "" || port != "" {
		address, err := nodeAddress(host, port)
		if err != nil {
			return nil, err
		}
		if key == "" {
			key = a.ownKey(address)
		}
		return a.dial(address, key)
	}
	where, err := a.home()
	if err != nil {
		return nil, err
	}
	node, err := where.ReadNode()
	var stale *home.StaleError
	switch {
	case errors.Is(err, home.ErrNoNode):
		return nil, nil
	case errors.As(err, &stale):
		a.note("%v; its address file is removed", stale)
		return nil, where.RemoveNode(stale.Node.PID)
	case err != nil:
		return nil, err
	}
	if key == "" {
		key = node.APIKey
	}
	c, err := a.dial(node.API, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where.NodeFile(), err)
	}
	// The process id may have been given to another program since.
	alive, cancel := context.WithTimeout(ctx, aliveTimeout)
	defer cancel()
	var unreachable *client.UnreachableError
	if err := c.Alive(alive); errors.As(err, &unreachable) {
		a.note("the node that wrote %s (process %d) does not answer at %s; its address file is removed", where.NodeFile(), node.PID, node.API)
		return nil, where.RemoveNode(node.PID)
	} else if err != nil {
		if ctx.Err() == nil && alive.Err() != nil {
			return nil, fmt.Errorf("the node at %s (process %d) takes connections but does not answer; stop it and start it again", node.API, node.PID)
		}
		return nil, err
	}
	return c, nil
}

// ownKey is the key of the node of this SKEIN_HOME if that is at the address;
// no other node gets it.
func (a *app) ownKey(address string) string {
	where, err := a.home()
	if err != nil {
		return ""
	}
	node, err := where.ReadNode()
	if err != nil || strings.TrimSuffix(address, "/") != node.API {
		return ""
	}
	return node.APIKey
}

func (a *app) dial(address, key string) (*client.Client, error) {
	return client.New(client.Options{BaseURL: address, APIKey: key, UserAgent: "skein/" + buildinfo.Read().Version, Patience: masterTimeout})
}

// nodeAddress makes a base URL of what the user named.
func nodeAddress(host, port string) (string, error) {
	if host == "" {
		host = "127.0.0.1"
	}
	if strings.Contains(host, "://") {
		if port != "" {
			return "", fmt.Errorf("--host is a whole URL (%s), so leave --port away", host)
		}
		return host, nil
	}
	if port == "" {
		port = strconv.Itoa(api.DefaultPort)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("--port must be a whole number from 1 to 65535, not %q", port)
	}
	return "http://" + net.JoinHostPort(strings.Trim(host, "[]"), port), nil
}

// explain adds the way out to an error of a node that was named but is not
// there, or that asks for a key.
func explain(err error) error {
	var unreachable *client.UnreachableError
	if errors.As(err, &unreachable) {
		return fmt.Errorf("%w; start one with 'skein serve', or name another with --host and --port", err)
	}
	var refused *api.Error
	if errors.As(err, &refused) && refused.Status == 401 && !strings.Contains(refused.Message, "--api-key") {
		return fmt.Errorf("%w; give its key with --api-key or SKEIN_API_KEY", err)
	}
	return err
}
