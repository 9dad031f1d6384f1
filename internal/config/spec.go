// Package config turns the flags, environment variables and configuration file
// of `skein serve` into one checked struct. Every option stands once in a
// table, from which its flag, its variable, its key in the file and its help
// come; a value is taken from the flag, else the environment, else the file,
// else the default.
//
// It imports bytesize and nothing else of ours. Resolution happens once, in
// the goroutine of the command; the result is a plain value. Below
// internal/cli nobody else reads the environment.
package config

import (
	"strings"

	"github.com/spf13/pflag"
)

// Kind is the type of an option's value.
type Kind int

// Kinds of values.
const (
	String Kind = iota
	Int         // between Min and Max
	Size        // bytes, written "512MB" or "1GB"
	Bool
	Choice // one of Choices
)

// Option is one row of the table.
type Option struct {
	Name       string // flag and key in the file: "models-dir"
	Short      string // one-letter flag, "" for none
	Kind       Kind
	Repeatable bool // a list in the file, comma-separated in the environment
	Secret     bool // never printed
	Default    string
	Choices    []string // for Choice
	Min, Max   int      // for Int, both inclusive
	Argument   string   // what the help calls the value: "DIR"
	Help       string
}

// Env is the option's environment variable: "SKEIN_MODELS_DIR".
func (o Option) Env() string {
	return "SKEIN_" + strings.ToUpper(strings.ReplaceAll(o.Name, "-", "_"))
}

// Table gives the options of `skein serve` in the order of its help.
func Table() []Option {
	return []Option{
		{Name: "models-dir", Repeatable: true, Argument: "DIR", Help: "look for .gguf files in `DIR` and below; repeatable"},
		{Name: "load", Repeatable: true, Argument: "NAME", Help: "load model `NAME` at start; repeatable"},
		{Name: "slots", Kind: Int, Default: "4", Min: 1, Max: 256, Help: "requests a model answers at once"},
		{Name: "context", Kind: Int, Default: "0", Min: 0, Max: 1 << 24, Help: "tokens of each slot; 0: the model's own, at most 8192, less when memory asks"},
		{Name: "queue", Kind: Int, Default: "64", Min: 0, Max: 1 << 20, Help: "requests that may wait for a slot; more get status 429"},
		{Name: "threads", Kind: Int, Default: "0", Min: 0, Max: 4096, Help: "processor threads of a model; 0: chosen from the machine"},
		{Name: "gpu-layers", Kind: Int, Default: "-1", Min: -1, Max: 1 << 20, Help: "layers kept on the GPU, the output head being one; -1: as many as fit; 0: the GPU is not used"},
		{Name: "cache-memory", Kind: Size, Default: "1GB", Argument: "SIZE", Help: "host memory for prompts that may come again, such as 512MB; 0: none"},
		{Name: "prefix-reuse", Kind: Choice, Default: "exact", Choices: []string{"exact", "longest", "off"}, Help: "reuse of computed prompts: exact (same text for a repeated request), longest (faster, rounding may differ) or off"},
		{Name: "local-shards", Argument: "PxT", Help: "serve every model in P stages of T ranks, each a process, such as 2x1; one that cannot be cut so is served whole"},
		{Name: "on", Argument: "HOST:PORT,...", Help: "run the shards of --local-shards on machines that run 'skein shard serve', in turn; local: this one"},
		{Name: "shard-tls-cert", Argument: "FILE", Help: "certificate to show to the machines of --on; PEM `FILE`"},
		{Name: "shard-tls-key", Argument: "FILE", Help: "its key; PEM `FILE`"},
		{Name: "shard-tls-ca", Argument: "FILE", Help: "authority of the certificates of the machines of --on; PEM `FILE`"},
		{Name: "shard-activations", Kind: Choice, Default: "f32", Choices: []string{"f32", "f16"}, Help: "how activations travel between the shards of --local-shards: f32, or f16 in half the bytes, which is not exact"},
		{Name: "api-host", Default: "127.0.0.1", Argument: "ADDRESS", Help: "address to listen on"},
		{Name: "api-port", Kind: Int, Default: "52415", Min: 0, Max: 65535, Help: "port to listen on; 0: any free one"},
		{Name: "api-key", Repeatable: true, Secret: true, Argument: "KEY", Help: "key that clients must send, may do everything; repeatable; one is needed on any address but loopback"},
		{Name: "named-key", Repeatable: true, Secret: true, Argument: "KEY", Help: "NAME:ROLE:KEY, a key with a name for audits and a role: chat, read or manage; repeatable"},
		{Name: "insecure-no-auth", Kind: Bool, Help: "serve on any address without a key"},
		{Name: "allow-origin", Repeatable: true, Argument: "ORIGIN", Help: "let browser pages of `ORIGIN` call the API, such as http://localhost:3000; repeatable"},
		{Name: "allow-host", Repeatable: true, Argument: "NAME", Help: "serve loopback requests for host `NAME` without a key, such as a proxy's on this machine; repeatable"},
		{Name: "join", Repeatable: true, Argument: "HOST[:PORT]", Help: "join the cluster of the node at `HOST[:PORT]` (its gossip port); repeatable; tried for ever"},
		{Name: "secret", Secret: true, Argument: "TEXT", Help: "what all nodes of the cluster know and nobody else: encrypts and guards what passes between them"},
		{Name: "secret-file", Argument: "FILE", Help: "read the secret from `FILE`"},
		{Name: "namespace", Default: "default", Argument: "NAME", Help: "see nodes of the same `NAME` only"},
		{Name: "peer-host", Argument: "ADDRESS", Help: "address to listen on for other nodes; default: all"},
		{Name: "advertise", Argument: "HOST", Help: "address that other nodes are told to call; default: chosen"},
		{Name: "peer-port", Kind: Int, Default: "52414", Min: 0, Max: 65535, Help: "port for other nodes' calls; 0: any free one, as when the default is taken"},
		{Name: "gossip-port", Kind: Int, Default: "52413", Min: 0, Max: 65535, Help: "port for membership, TCP and UDP; 0: any free one, as when the default is taken"},
		{Name: "no-discovery", Kind: Bool, Help: "do not look for nodes by multicast, nor answer those that do"},
		{Name: "no-master", Kind: Bool, Help: "never be master; wins over --force-master"},
		{Name: "force-master", Kind: Bool, Help: "be master before any other candidate; of no effect with --no-master or --no-api"},
		{Name: "no-api", Kind: Bool, Help: "serve no API; such a node can't be master either"},
		{Name: "no-worker", Kind: Bool, Help: "run no models here: coordinate and serve the API only"},
		{Name: "no-downloads", Kind: Bool, Help: "fetch no models: run only those whose files are here"},
		{Name: "resume-tries", Kind: Int, Default: "3", Min: 0, Max: 100, Help: "places where a generation is tried again when the one it ran on is lost; 0: it ends with an error"},
		{Name: "resume-timeout", Kind: Int, Default: "60", Min: 1, Max: 86400, Help: "seconds that it may take to find such a place"},
		{Name: "engine-dir", Argument: "DIR", Help: "folder of the llama.cpp libraries; default: beside the program, then SKEIN_HOME/engine"},
		{Name: "log-format", Kind: Choice, Default: "text", Choices: []string{"text", "json"}, Help: "log lines as text or json"},
		{Name: "verbose", Short: "v", Kind: Bool, Help: "log what a developer wants to see"},
		{Name: "quiet", Short: "q", Kind: Bool, Help: "log problems only, and print no greeting"},
	}
}

// AddFlags defines a flag for every option of the table. The parsed flags are
// later handed to Resolve by FromFlags.
func AddFlags(fs *pflag.FlagSet) {
	for _, o := range Table() {
		help := o.Help + " [" + o.Env() + "]"
		switch {
		case o.Repeatable:
			fs.VarPF(&listFlag{argument: o.Argument}, o.Name, o.Short, help)
		case o.Kind == Bool:
			fs.BoolP(o.Name, o.Short, false, help)
		default:
			f := fs.VarPF(&textFlag{kind: o.Kind, argument: o.Argument}, o.Name, o.Short, help)
			f.DefValue = o.Default
		}
	}
}

// FromFlags collects the flags that were given on the command line, as texts.
func FromFlags(fs *pflag.FlagSet) map[string][]string {
	given := map[string][]string{}
	for _, o := range Table() {
		f := fs.Lookup(o.Name)
		if f == nil || !f.Changed {
			continue
		}
		if list, ok := f.Value.(*listFlag); ok {
			given[o.Name] = list.values
		} else {
			given[o.Name] = []string{f.Value.String()}
		}
	}
	return given
}

// textFlag keeps a value as it was typed; Resolve checks it, with the same
// words as a value from the file or the environment.
type textFlag struct {
	kind     Kind
	argument string
	value    string
}

func (f *textFlag) String() string     { return f.value }
func (f *textFlag) Set(s string) error { f.value = s; return nil }
func (f *textFlag) Type() string {
	switch {
	case f.argument != "":
		return f.argument
	case f.kind == Int:
		return "N"
	}
	return "VALUE"
}

// listFlag collects the values of a repeatable flag. A comma is part of the
// value: folders and keys may contain one.
type listFlag struct {
	argument string
	values   []string
}

func (f *listFlag) String() string     { return strings.Join(f.values, ",") }
func (f *listFlag) Set(s string) error { f.values = append(f.values, s); return nil }
func (f *listFlag) Type() string       { return f.argument }
