package config

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/skein-run/skein/internal/bytesize"
)

// Serve is the configuration of a node. It is read-only once resolved.
type Serve struct {
	ModelsDirs     []string // absolute
	Load           []string // names
	Slots          int      // requests a model answers at once, at least 1
	Context        int      // tokens of each slot; 0: chosen from the model
	Queue          int      // requests that may wait
	Threads        int      // 0: chosen from the machine
	GPULayers      int      // negative: as many as fit
	CacheMemory    int64    // bytes
	PrefixReuse    string   // exact | longest | off
	LocalShards    string   // "PxT"; "": models are whole
	On             string   // machines for them, "host:port,..."; "": this one
	ShardTLSCert   string   // PEM files for those machines
	ShardTLSKey    string
	ShardTLSCA     string
	ShardHalf      bool // activations travel between shards as f16
	APIHost        string
	APIPort        int // 0: any free one
	APIKeys        []string
	NamedKeys      []NamedKey
	InsecureNoAuth bool
	AllowOrigins   []string
	AllowHosts     []string
	Cluster        Cluster
	EngineDir      string // absolute, "" for the search order
	LogFormat      string // text | json
	Verbose        bool   // never together with Quiet
	Quiet          bool
}

// Setting is one effective value, for the line that a node prints at start.
type Setting struct {
	Name   string
	Value  string // "(hidden)" for secrets
	Source string // "default", "file", "environment" or "flag"
}

// Sources are the places values come from. Nil maps are empty.
type Sources struct {
	Flags  map[string][]string // option name to values, from FromFlags
	Getenv func(string) string // nil: no environment
	File   *File               // nil: no file
}

// Error says which value is wrong, where it was given, and what is expected.
type Error struct {
	Option string // name, "" when the file as a whole is at fault
	Source string // "--slots", "SKEIN_SLOTS" or "config.yaml:3"
	Reason string
}

func (e *Error) Error() string { return e.Source + ": " + e.Reason }

// given is what one source says about one option.
type given struct {
	values []string
	kind   string // Setting.Source
	label  string // Error.Source
}

// Resolve merges the sources and checks every value. The settings come in the
// order of the table. Paths of the file are relative to its folder, all others
// to the working directory.
func Resolve(s Sources) (Serve, []Setting, error) {
	r := resolver{values: map[string]given{}}
	var settings []Setting
	for _, o := range Table() {
		g := lookUp(o, s)
		if err := check(o, g); err != nil {
			return Serve{}, nil, err
		}
		r.values[o.Name] = g
		if o.Kind == String && strings.HasSuffix(o.Name, "-dir") {
			if err := r.absolute(o.Name, s.File); err != nil {
				return Serve{}, nil, err
			}
		}
		text := strings.Join(r.values[o.Name].values, ",")
		if o.Secret && text != "" {
			text = "(hidden)"
		}
		settings = append(settings, Setting{Name: o.Name, Value: text, Source: g.kind})
	}
	serve := r.serve()
	if serve.Cluster.Secret != "" && serve.Cluster.SecretFile != "" {
		return Serve{}, nil, &Error{Option: "secret-file", Source: r.values["secret-file"].label,
			Reason: "secret-file and secret (" + r.values["secret"].label + ") exclude each other; give one"}
	}
	for i, k := range serve.NamedKeys {
		if reason := k.refuse(serve.NamedKeys[:i]); reason != "" {
			return Serve{}, nil, &Error{Option: "named-key", Source: r.values["named-key"].label, Reason: reason}
		}
	}
	if serve.Verbose && serve.Quiet {
		return Serve{}, nil, &Error{Option: "quiet", Source: r.values["quiet"].label,
			Reason: "quiet and verbose (" + r.values["verbose"].label + ") exclude each other; give one"}
	}
	return serve, settings, nil
}

// lookUp finds the strongest source that names the option.
func lookUp(o Option, s Sources) given {
	if v, ok := s.Flags[o.Name]; ok {
		return given{values: v, kind: "flag", label: "--" + o.Name}
	}
	if s.Getenv != nil {
		if text := s.Getenv(o.Env()); text != "" {
			g := given{values: []string{text}, kind: "environment", label: o.Env()}
			if o.Repeatable {
				g.values = splitList(text)
			}
			return g
		}
	}
	if s.File != nil {
		if e, ok := s.File.entries[o.Name]; ok {
			return given{values: e.values, kind: "file", label: fmt.Sprintf("%s:%d", s.File.name, e.line)}
		}
	}
	g := given{kind: "default", label: "default"}
	if o.Default != "" {
		g.values = []string{o.Default}
	}
	return g
}

// splitList reads a comma-separated list; empty parts are left out.
func splitList(text string) []string {
	var out []string
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// check says whether the values fit the option.
func check(o Option, g given) error {
	for _, v := range g.values {
		if reason := refuse(o, v); reason != "" {
			return &Error{Option: o.Name, Source: g.label, Reason: reason}
		}
	}
	return nil
}

// refuse gives the reason why v is no value of o, "" when it is one. The
// reason never repeats a secret.
func refuse(o Option, v string) string {
	switch o.Kind {
	case Int:
		n, err := strconv.Atoi(strings.TrimSpace(v))
		if err != nil || n < o.Min || n > o.Max {
			return fmt.Sprintf("%s must be a whole number from %d to %d, not %q", o.Name, o.Min, o.Max, v)
		}
	case Size:
		if _, err := bytesize.Parse(v); err != nil {
			return fmt.Sprintf("%s: %v", o.Name, err)
		}
	case Bool:
		if _, err := strconv.ParseBool(strings.TrimSpace(v)); err != nil {
			return fmt.Sprintf("%s must be true or false, not %q", o.Name, v)
		}
	case Choice:
		if !slices.Contains(o.Choices, v) {
			return fmt.Sprintf("%s must be one of %s, not %q", o.Name, strings.Join(o.Choices, ", "), v)
		}
	case String:
		switch {
		case strings.TrimSpace(v) == "":
			return o.Name + " must not be empty"
		case strings.ContainsAny(v, "\x00\r\n"):
			return o.Name + " must be a single line"
		}
	}
	return ""
}

// resolver holds checked texts while the struct is filled.
type resolver struct{ values map[string]given }

// absolute makes the folders of one option independent of the working
// directory.
func (r resolver) absolute(name string, file *File) error {
	g := r.values[name]
	out := make([]string, len(g.values))
	for i, dir := range g.values {
		if g.kind == "file" && !filepath.IsAbs(dir) {
			dir = filepath.Join(file.dir, dir)
		}
		abs, err := filepath.Abs(dir)
		if err != nil {
			return &Error{Option: name, Source: g.label, Reason: fmt.Sprintf("%s: %v", name, err)}
		}
		out[i] = abs
	}
	g.values = out
	r.values[name] = g
	return nil
}

func (r resolver) list(name string) []string { return slices.Clone(r.values[name].values) }

// text gives the last value, as with any flag that is given twice.
func (r resolver) text(name string) string {
	v := r.values[name].values
	if len(v) == 0 {
		return ""
	}
	return strings.TrimSpace(v[len(v)-1])
}

// number, size and bool read what check has let pass, so no error is left.
func (r resolver) number(name string) int {
	n, err := strconv.Atoi(r.text(name))
	if err != nil {
		panic("config: unchecked number " + name)
	}
	return n
}

func (r resolver) size(name string) int64 {
	n, err := bytesize.Parse(r.text(name))
	if err != nil {
		panic("config: unchecked size " + name)
	}
	return min(n, math.MaxInt64)
}

func (r resolver) bool(name string) bool {
	text := r.text(name)
	if text == "" {
		return false
	}
	yes, err := strconv.ParseBool(text)
	if err != nil {
		panic("config: unchecked bool " + name)
	}
	return yes
}

func (r resolver) serve() Serve {
	return Serve{
		ModelsDirs:     r.list("models-dir"),
		Load:           r.list("load"),
		Slots:          r.number("slots"),
		Context:        r.number("context"),
		Queue:          r.number("queue"),
		Threads:        r.number("threads"),
		GPULayers:      r.number("gpu-layers"),
		CacheMemory:    r.size("cache-memory"),
		PrefixReuse:    r.text("prefix-reuse"),
		LocalShards:    r.text("local-shards"),
		On:             r.text("on"),
		ShardTLSCert:   r.text("shard-tls-cert"),
		ShardTLSKey:    r.text("shard-tls-key"),
		ShardTLSCA:     r.text("shard-tls-ca"),
		ShardHalf:      r.text("shard-activations") == "f16",
		APIHost:        r.text("api-host"),
		APIPort:        r.number("api-port"),
		APIKeys:        r.list("api-key"),
		NamedKeys:      r.namedKeys(),
		InsecureNoAuth: r.bool("insecure-no-auth"),
		AllowOrigins:   r.list("allow-origin"),
		AllowHosts:     r.list("allow-host"),
		Cluster:        r.cluster(),
		EngineDir:      r.text("engine-dir"),
		LogFormat:      r.text("log-format"),
		Verbose:        r.bool("verbose"),
		Quiet:          r.bool("quiet"),
	}
}
