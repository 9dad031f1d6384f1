// Package internal_test guards the arrows between packages and the few calls
// that are banned in places. Each rule says why; a change of a rule is a change
// of docs/ARCHITECTURE.md. Files of every platform are read, tests are not.
package internal_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/skein-run/skein/"

// layers orders the packages: imports go to a lower layer, or stay inside one
// where sideways says so. A new package gets its place here.
var layers = []struct {
	name     string
	sideways bool
	packages []string
}{
	{"leaf", true, []string{"api", "internal/bytesize", "internal/meter", "internal/nearest", "internal/ids", "internal/buildinfo", "internal/interrupt", "internal/calm", "internal/liveness"}},
	{"core", true, []string{"internal/gguf/...", "internal/chat/...", "internal/generation/...", "internal/cluster/...", "internal/runner/wire",
		"internal/runner/schedule", "internal/runner/sample"}},
	// Below the runner and its shards, which stand side by side on it. Its parts
	// (frames, lanes) stand on each other.
	{"link", true, []string{"internal/runner/link/..."}},
	{"adapter", false, []string{"client", "internal/hostinfo/...", "internal/home/...", "internal/config/...", "internal/library/...", "internal/engine/...",
		"internal/supervise/...", "internal/slicestore/...", "internal/bench/...", "internal/mesh/...", "internal/remote/...", "internal/hub/...", "internal/store/...", "internal/telemetry/...",
		"internal/runner/..."}},
	// The API in the words of an agent, for a node's HTTP and for a command.
	{"catalog", false, []string{"internal/catalog", "internal/agent"}},
	// The order of commands, which who gives some knows.
	{"order", false, []string{"internal/replica/..."}},
	{"edge", false, []string{"internal/httpapi/...", "internal/master/...", "internal/router/...", "internal/worker/...", "internal/dashboard/..."}},
	// The commands declare the functions they want of a node (serve, local), and
	// the node, who knows all, fills them in.
	{"cli", true, []string{"internal/cli/..."}},
	{"node", false, []string{"internal/node/..."}},
	{"program", false, []string{"cmd/skein"}},
	// Test support and tools of the build may import what they test or pack.
	{"tool", true, []string{"internal/gguf/gguftest", "internal/sim/...", "internal/fleettest/...", "internal/nettest/...", "internal/figures", "scripts/..."}},
}

// ban forbids imports beyond the layers.
type ban struct {
	who    []string // packages; "..." at the end covers what is below
	except []string
	what   []string // import paths, ours without the module
	why    string
}

// core are the packages that compute and touch nothing.
var core = []string{"internal/gguf/...", "internal/chat/...", "internal/generation/...", "internal/cluster/...", "internal/runner/wire",
	"internal/runner/schedule", "internal/runner/sample", "internal/bytesize", "internal/nearest", "internal/ids", "api"}

// fixtures lie beside the core but make files for tests.
var fixtures = []string{"internal/gguf/gguftest"}

var bans = []ban{
	{who: core, except: fixtures, what: []string{"net/...", "os/...", "log/...", "syscall", "math/rand"},
		why: "the core is values and functions, so that failovers and placements are tested by the thousand without sockets; I/O belongs to an adapter"},
	{who: []string{"..."}, except: []string{"internal/runner/llama", "internal/calm"}, what: []string{"unsafe"},
		why: "only the binding of llama.cpp, and two system calls of calm, may break Go's memory rules; everything else stays checkable"},
	{who: []string{"..."}, except: []string{"internal/runner/llama"}, what: []string{"github.com/ebitengine/purego/..."},
		why: "only the binding of llama.cpp calls C"},
	{who: []string{"..."}, what: []string{"C"},
		why: "without cgo the program is built for every platform on any"},
	{who: []string{"..."}, except: []string{"internal/runner"}, what: []string{"internal/runner/llama"},
		why: "a failed assertion of the library ends its process, so only the child process may load it"},
	{who: []string{"..."}, except: []string{"cmd/skein", "internal/node/..."}, what: []string{"internal/runner"},
		why: "the runner is a child process; a node speaks to it over runner/wire, and only a main program becomes one"},
	// The root's own parts know each other.
	{who: []string{"..."}, except: []string{"cmd/skein", "internal/node/..."}, what: []string{"internal/node/..."},
		why: "the composition root knows everything, so nothing may know it"},
	{who: []string{"internal/cli/..."}, what: []string{"internal/httpapi/...", "internal/worker/...", "internal/master/...", "internal/dashboard/...", "internal/supervise/...", "internal/mesh/..."},
		why: "a command talks to a cluster only through package client, as any other program could"},
	{who: []string{"client"}, except: nil, what: []string{"internal/..."},
		why: "the client is for programs of other people, which cannot see internal packages"},
	{who: []string{"api"}, what: []string{"client", "internal/..."},
		why: "the words of the API depend on nothing, so that any side can import them"},
	{who: []string{"internal/httpapi/..."}, what: []string{"internal/supervise/...", "internal/library/...", "internal/catalog", "internal/config/...", "internal/home/...", "internal/engine/...", "internal/hostinfo/..."},
		why: "an edge declares the interface it needs; internal/node joins it with the adapter"},
}

// call is a banned use of a name of the standard library.
type call struct {
	who, except []string
	pkg         string // import path
	names       []string
	allow       bool // names are the only ones allowed
	why         string
}

var calls = []call{
	{who: core, except: fixtures, pkg: "time", names: []string{"Now", "Since", "Until", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"},
		why: "time is an argument of the core, so that tests own it"},
	{who: core, except: fixtures, pkg: "math/rand/v2", names: []string{"New", "NewPCG", "NewChaCha8", "NewZipf", "Rand", "PCG", "ChaCha8", "Source"}, allow: true,
		why: "randomness is an argument of the core, so that a seed repeats a run"},
	{who: []string{"..."}, except: []string{"scripts/..."}, pkg: "time", names: []string{"Sleep"},
		why: "a sleep guesses; wait for the event instead"},
	{who: []string{"..."}, except: []string{"cmd/skein", "internal/cli", "scripts/..."}, pkg: "os", names: []string{"Getenv", "LookupEnv", "ExpandEnv"},
		why: "settings are resolved once, in the command; below it nobody reads the environment"},
	{who: []string{"..."}, pkg: "net/http", names: []string{"DefaultClient", "DefaultServeMux", "Get", "Post", "Handle", "HandleFunc", "ListenAndServe"},
		why: "the package-level client and mux are shared state without time limits"},
}

// file is one source file as far as the rules look at it.
type file struct {
	pkg     string            // "internal/gguf"
	name    string            // for messages
	imports map[string]string // local name -> import path
	uses    map[string][]string
	inits   int // func init
}

func matches(pattern, pkg string) bool {
	if pattern == "..." {
		return true
	}
	if parent, ok := strings.CutSuffix(pattern, "/..."); ok {
		return pkg == parent || strings.HasPrefix(pkg, parent+"/")
	}
	return pattern == pkg
}

func anyMatches(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, pkg) })
}

// layerOf gives the layer whose pattern names pkg most closely, or -1.
func layerOf(pkg string) int {
	best, length := -1, -1
	for i, l := range layers {
		for _, p := range l.packages {
			if matches(p, pkg) && len(p) > length {
				best, length = i, len(p)
			}
		}
	}
	return best
}

// violations applies all rules.
func violations(files []file) []string {
	var out []string
	bad := func(f file, format string, args ...any) {
		out = append(out, f.name+": "+fmt.Sprintf(format, args...))
	}
	for _, f := range files {
		from := layerOf(f.pkg)
		if from < 0 {
			bad(f, "package %s has no layer; give it one in internal/deps_test.go", f.pkg)
			continue
		}
		if f.inits > 0 {
			bad(f, "func init: nothing happens at import; pass what is needed to a constructor")
		}
		for _, imported := range f.imports {
			ours, own := strings.CutPrefix(imported, module)
			if own {
				to := layerOf(ours)
				family := strings.HasPrefix(ours+"/", f.pkg+"/") || strings.HasPrefix(f.pkg+"/", ours+"/")
				switch {
				case to < 0: // said when its own files are read
				case to > from:
					bad(f, "imports %s: arrows point down, and a package of layer %q may not know one of %q", ours, layers[from].name, layers[to].name)
				case to == from && !layers[from].sideways && !family:
					bad(f, "imports %s: no sideways imports in layer %q; declare the small interface you need and let internal/node join the two", ours, layers[from].name)
				}
				imported = ours
			}
			for _, b := range bans {
				if anyMatches(b.who, f.pkg) && !anyMatches(b.except, f.pkg) && anyMatches(b.what, imported) && !allowedHere(f.pkg, imported) {
					bad(f, "imports %s: %s", imported, b.why)
				}
			}
		}
		for local, names := range f.uses {
			for _, c := range calls {
				if f.imports[local] != c.pkg || !anyMatches(c.who, f.pkg) || anyMatches(c.except, f.pkg) {
					continue
				}
				for _, n := range names {
					if slices.Contains(c.names, n) != c.allow {
						bad(f, "uses %s.%s: %s", local, n, c.why)
					}
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// allowedHere are single exceptions, each with its reason.
func allowedHere(pkg, imported string) bool {
	switch {
	// An address is a value; netip opens nothing.
	case imported == "net/netip" || imported == "net/url":
		return true
	// The words of the API contain status codes.
	case pkg == "api" && imported == "net/http":
		return true
	}
	return false
}

// read parses the files of the tree below root.
func read(root string) ([]file, error) {
	var out []file
	set := token.NewFileSet()
	for _, top := range []string{"api", "client", "cmd", "internal", "scripts"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && d.Name() == "testdata" {
				return filepath.SkipDir
			}
			if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return nil
			}
			parsed, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, name)
			if err != nil {
				return err
			}
			out = append(out, digest(filepath.ToSlash(rel), parsed))
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// digest takes from a parsed file what the rules look at.
func digest(name string, parsed *ast.File) file {
	f := file{pkg: path.Dir(name), name: name, imports: map[string]string{}, uses: map[string][]string{}}
	for _, spec := range parsed.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser has accepted it as a string
		}
		local := path.Base(imported)
		if version := strings.TrimLeft(local, "v"); version != local && strings.Trim(version, "0123456789") == "" {
			local = path.Base(path.Dir(imported)) // math/rand/v2 is rand
		}
		if spec.Name != nil && spec.Name.Name != "_" {
			local = spec.Name.Name
		}
		// Two blank imports, or two of one name, must not hide each other.
		if _, taken := f.imports[local]; taken {
			local = imported
		}
		f.imports[local] = imported
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok {
				f.uses[x.Name] = append(f.uses[x.Name], n.Sel.Name)
			}
		case *ast.FuncDecl:
			if n.Recv == nil && n.Name.Name == "init" {
				f.inits++
			}
		}
		return true
	})
	return f
}

func TestImports(t *testing.T) {
	root := ".."
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatal(err)
	}
	files, err := read(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("only %d files were read; the rules would pass on nothing", len(files))
	}
	for _, v := range violations(files) {
		t.Error(v)
	}
}

// TestHouseRulesCatch shows each kind of rule a file that breaks it.
func TestHouseRulesCatch(t *testing.T) {
	for _, c := range []struct{ name, source, want string }{
		{"internal/gguf/a.go", `package gguf; import "os"`, "imports os: the core is values"},
		{"internal/gguf/a.go", `package gguf; import "net/http"`, "imports net/http: the core is values"},
		{"internal/cluster/election/a.go", `package election; import ("time"; _ "fmt"); var t = time.Now()`, "uses time.Now: time is an argument"},
		{"internal/runner/sample/a.go", `package sample; import "math/rand/v2"; var n = rand.IntN(3)`, "uses rand.IntN: randomness is an argument"},
		{"internal/runner/sample/a.go", `package sample; import r "math/rand/v2"; var n = r.New(nil)`, ""},
		{"internal/gguf/a.go", `package gguf; import "net/netip"`, ""},
		{"internal/store/a.go", `package store; import "unsafe"`, "imports unsafe: only the binding"},
		{"internal/runner/llama/a.go", `package llama; import ("unsafe"; "github.com/ebitengine/purego")`, ""},
		{"internal/store/a.go", `package store; import "C"`, "imports C: without cgo"},
		{"internal/node/a.go", `package node; import "` + module + `internal/runner/llama"`, "only the child process may load it"},
		{"internal/worker/a.go", `package worker; import "` + module + `internal/supervise"`, ""},
		{"internal/worker/a.go", `package worker; import "` + module + `internal/master"`, "no sideways imports"},
		{"internal/library/a.go", `package library; import "` + module + `internal/config"`, "no sideways imports"},
		{"internal/httpapi/openai/a.go", `package openai; import "` + module + `internal/httpapi"`, ""},
		{"internal/httpapi/openai/a.go", `package openai; import "` + module + `internal/library"`, "declares the interface it needs"},
		{"internal/gguf/a.go", `package gguf; import "` + module + `internal/library"`, "arrows point down"},
		{"internal/cli/a.go", `package cli; import "` + module + `internal/node"`, "the composition root knows everything"},
		{"client/a.go", `package client; import "` + module + `internal/bytesize"`, "cannot see internal packages"},
		{"internal/store/a.go", `package store; import "time"; func f() { time.Sleep(1) }`, "uses time.Sleep: a sleep guesses"},
		{"internal/store/a.go", `package store; import "os"; var v = os.Getenv("X")`, "uses os.Getenv: settings are resolved once"},
		{"internal/store/a.go", `package store; func init() {}`, "func init: nothing happens at import"},
		{"internal/helpers/a.go", `package helpers`, "has no layer"},
	} {
		parsed, err := parser.ParseFile(token.NewFileSet(), c.name, c.source, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		got := violations([]file{digest(c.name, parsed)})
		switch {
		case c.want == "" && len(got) > 0:
			t.Errorf("%s\nallowed, but got %q", c.source, got)
		case c.want != "" && !slices.ContainsFunc(got, func(v string) bool { return strings.Contains(v, c.want) }):
			t.Errorf("%s\ngot %q, want ...%s...", c.source, got, c.want)
		}
	}
}
