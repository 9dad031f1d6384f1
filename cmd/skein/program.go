package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/skein-run/skein/internal/buildinfo"
	"github.com/skein-run/skein/internal/cli"
	"github.com/skein-run/skein/internal/cli/shardcmd"
	"github.com/skein-run/skein/internal/config"
	"github.com/skein-run/skein/internal/node"
	"github.com/skein-run/skein/internal/node/shards"
	"github.com/skein-run/skein/internal/node/texts"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/internal/runner/wire"
)

// program joins the commands with nodes and runners of this executable.
type program struct{ executable string }

// serve runs a node in the foreground until ctx ends.
func (p program) serve(ctx context.Context, o cli.ServeOptions) error {
	n, err := node.New(node.Options{
		Home: o.Home, Config: o.Config, Executable: p.executable, Version: buildinfo.Read().Version,
		Logger: logger(o.Config, o.Stderr),
	})
	if err != nil {
		return err
	}
	if err := n.Start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop before it was up
		}
		return err
	}
	if !o.Config.Quiet {
		greet(o.Stdout, n.URL(), n.Models(), o.Settings, o.Config)
	}
	select {
	case <-ctx.Done():
	case <-n.Failed():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), node.DrainTime)
	defer cancel()
	go func() {
		select {
		case <-o.Force:
			cancel()
		case <-drain.Done():
		}
	}()
	if !o.Config.Quiet && ctx.Err() != nil {
		fmt.Fprintf(o.Stderr, "stopping; running requests get %v, Ctrl-C again stops at once\n", node.DrainTime)
	}
	return errors.Join(n.Stop(drain), n.Err())
}

// local runs a node inside this process for one command.
func (p program) local(ctx context.Context, o cli.LocalOptions) (cli.LocalNode, error) {
	c := o.Config
	c.Quiet = !c.Verbose
	n, err := node.New(node.Options{
		Home: o.Home, Config: c, Executable: p.executable, Version: buildinfo.Read().Version,
		Logger: logger(c, o.Stderr), Files: o.Files, Private: true,
	})
	if err != nil {
		return cli.LocalNode{}, err
	}
	if err := n.Start(ctx); err != nil {
		return cli.LocalNode{}, err
	}
	return cli.LocalNode{API: n.URL(), Stop: func() error {
		now, cancel := context.WithCancel(context.Background())
		cancel() // its only client is this command, which is done
		return n.Stop(now)
	}}, nil
}

// shards does the work of `skein shard`.
func (p program) shards(o cli.ShardOptions) (shardcmd.Host, error) {
	return &shards.Host{
		Executable: p.executable, Version: buildinfo.Read().Version, Home: o.Home,
		Logger: logger(config.Serve{Verbose: o.Verbose, Quiet: o.Quiet}, o.Stderr),
	}, nil
}

// runner is the hidden subcommand of a node's children.
func (p program) runner(_ context.Context, args []string) int {
	switch {
	case len(args) == 0:
		return runner.Main(buildinfo.Read().Version)
	case len(args) == 1 && args[0] == "--probe":
		return withSpec(func(spec wire.EngineSpec) int { return runner.Probe(spec, os.Stdout) })
	case len(args) == 1 && args[0] == "--bench":
		return withSpec(func(spec wire.BenchSpec) int { return runner.Bench(spec) })
	}
	fmt.Fprintln(os.Stderr, "E skein runner is started by a node, not by hand")
	return cli.ExitUsage
}

// withSpec reads a subcommand's input, one JSON object on stdin.
func withSpec[T any](run func(T) int) int {
	var spec T
	if err := json.NewDecoder(os.Stdin).Decode(&spec); err != nil {
		fmt.Fprintf(os.Stderr, "E read the request on stdin: %v\n", err)
		return cli.ExitUsage
	}
	return run(spec)
}

// logger writes what a person at the terminal should see: problems, and with
// -v the whole story.
func logger(c config.Serve, w io.Writer) *slog.Logger {
	level := slog.LevelWarn
	switch {
	case c.Verbose:
		level = slog.LevelDebug
	case c.Quiet:
		level = slog.LevelError
	}
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// greet says, in at most seven lines, where the node is and what to do next.
func greet(w io.Writer, url string, models []texts.Model, settings []config.Setting, c config.Serve) {
	model, about := "MODEL", "no model is loaded yet: the first request for one loads it ('skein models list' names them)"
	if len(models) > 0 {
		m := models[0]
		model, about = m.Name, fmt.Sprintf("model %s, %d slots of %d tokens", m.Name, m.Slots, m.Context)
		if len(models) > 1 {
			about += fmt.Sprintf(" (and %d more)", len(models)-1)
		}
		if m.Warning != "" {
			about += "; " + m.Warning
		}
	}
	auth := ""
	if len(c.APIKeys)+len(c.NamedKeys) > 0 {
		auth = ` -H "Authorization: Bearer $SKEIN_API_KEY"`
	}
	if url == "" {
		fmt.Fprintf(w, "skein works for its cluster and serves no API here (--no-api): %s\n", about)
	} else {
		fmt.Fprintf(w, "skein serves the OpenAI API at %s/v1: %s\n", url, about)
		fmt.Fprintf(w, "  try:  curl %s/v1/chat/completions%s -d '{\"model\": %q, \"messages\": [{\"role\": \"user\", \"content\": \"What is Skein?\"}]}'\n", url, auth, model)
		fmt.Fprintf(w, "  chat: %s run\n", programName())
		addrs, _ := net.InterfaceAddrs() // without them the line is left out
		if there := elsewhere(c.APIHost, url, addrs); there != "" {
			fmt.Fprintf(w, "  from other machines: %s/v1\n", there)
		}
	}
	if changed := changedSettings(settings); changed != "" {
		fmt.Fprintf(w, "  with: %s\n", changed)
	}
	fmt.Fprintf(w, "  stop: Ctrl-C\n") // last: who waits for it has seen the rest
}

// programName is how the user called this program.
func programName() string {
	if len(os.Args) > 0 && os.Args[0] != "" {
		return os.Args[0]
	}
	return "skein"
}

// changedSettings lists the effective values that are not defaults.
func changedSettings(settings []config.Setting) string {
	var out []string
	for _, s := range settings {
		if s.Source != "default" {
			out = append(out, s.Name+"="+s.Value)
		}
	}
	return strings.Join(out, " ")
}
