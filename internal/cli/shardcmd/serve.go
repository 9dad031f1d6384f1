package shardcmd

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/cli/command"
)

func newServe(e Env) *cobra.Command {
	var o ServeOptions
	cmd := &cobra.Command{
		Use:   "serve --listen HOST:PORT [flags]",
		Short: "Offer this machine for shards",
		Long: `Offer this machine for shards: 'skein shard check', 'skein shard bench' and
'skein serve --local-shards' on another machine use it with --on HOST:PORT. A
shard whose model file is not here is fetched from that machine, its part only,
and kept in SKEIN_HOME/slices.

Whoever connects may run models here. With --tls-cert, --tls-key and --tls-ca
both sides must show a certificate of the authority, and the links between
shards are encrypted likewise; without them only loopback addresses are
listened on, unless --insecure-no-auth is said.

Ctrl-C ends the shards that run here.`,
		Example: `  skein shard serve --listen 127.0.0.1:0
  skein shard serve --listen 10.0.0.2:7700 --tls-cert me.pem --tls-key me.key --tls-ca ca.pem`,
		Args: exact(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Listen == "" {
				return &command.ExitError{Code: CodeError, Err: errors.New("say where to listen: --listen HOST:PORT, such as 127.0.0.1:0")}
			}
			if err := checkFiles(o.Certificate, o.Key, o.CA); err != nil {
				return err
			}
			host, err := e.Host(true)
			if err != nil {
				return err
			}
			if o.EngineDir, err = e.EngineDir(o.EngineDir); err != nil {
				return err
			}
			o.Model = e.Models
			o.Ready = func(address string) { fmt.Fprintf(e.Stdout, "skein offers this machine for shards at %s\n", address) }
			return host.Serve(cmd.Context(), o)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.Listen, "listen", "", "`HOST:PORT` to listen on; port 0: any free one")
	fs.StringVar(&o.Advertise, "advertise", "", "`HOST` by which other machines reach the shards here; default: the one of --listen, or that a connection came to")
	fs.StringVar(&o.Certificate, "tls-cert", "", "certificate of this machine; PEM `FILE`")
	fs.StringVar(&o.Key, "tls-key", "", "its key; PEM `FILE`")
	fs.StringVar(&o.CA, "tls-ca", "", "authority of the certificates that may connect; PEM `FILE`")
	fs.BoolVar(&o.InsecureNoAuth, "insecure-no-auth", false, "listen on any address without TLS")
	fs.StringVar(&o.EngineDir, "engine-dir", "", "look for the llama.cpp libraries in `DIR` only [SKEIN_ENGINE_DIR]")
	return cmd
}
