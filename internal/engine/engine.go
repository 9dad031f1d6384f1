// Package engine finds, checks and installs the llama.cpp libraries that a
// runner loads. It owns the folder layouts that count as an engine, the order
// in which they are looked for, and the pinned packages they come from.
//
// It looks at files and runs the npm client; it never loads a library (only
// internal/runner/llama does, in a child process) and imports nothing of the
// cluster. Its functions keep no state and may be called from any goroutine;
// two Installs into one folder at the same time are the caller's to avoid.
package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Version is the llama.cpp release the runner's structs are written for.
// Another one is refused: upstream inserts struct fields between releases.
const Version = "0.5.0"

// Platform is an operating system and an architecture by their Go names.
type Platform struct {
	OS   string `json:"os"`
	Arch string `json:"arch"`
}

// Host is the platform this binary was built for.
func Host() Platform { return Platform{OS: runtime.GOOS, Arch: runtime.GOARCH} }

// String gives "linux/amd64".
func (p Platform) String() string { return p.OS + "/" + p.Arch }

// ParsePlatform reads "linux/amd64".
func ParsePlatform(s string) (Platform, error) {
	system, arch, ok := strings.Cut(s, "/")
	if !ok || system == "" || arch == "" {
		return Platform{}, fmt.Errorf("platform %q: want OS/ARCH, such as linux/amd64", s)
	}
	return Platform{OS: system, Arch: arch}, nil
}

// Engine is a folder with a complete set of libraries. All paths are absolute
// when the folder inspected was; Search and Find make --engine-dir so.
type Engine struct {
	Dir      string   `json:"dir"`
	Libllama string   `json:"libllama"`
	Base     string   `json:"libggml_base"`
	Libggml  string   `json:"libggml"`
	Backends []string `json:"backends"` // sorted: "cpu", "cuda", "metal", "vulkan", "rpc", ...
	// Version is what the file names or the package's own note say, "" when
	// neither says anything. The runner asks the library itself.
	Version string `json:"version"`
}

// Where a candidate folder came from.
const (
	SourceFlag   = "--engine-dir"
	SourceBinary = "beside the binary"
	SourceHome   = "SKEIN_HOME"
)

// Options say where to look. Empty fields are skipped.
type Options struct {
	Dir        string   // what --engine-dir names; when set nothing else is looked at
	Executable string   // path of the running binary, symbolic links resolved
	Home       string   // SKEIN_HOME
	Platform   Platform // zero: Host
}

// Candidate is a folder that was looked at: Engine is set when it is complete
// and fits, otherwise Problem says why not.
type Candidate struct {
	Source  string  `json:"source"`
	Dir     string  `json:"dir"`
	Engine  *Engine `json:"engine,omitempty"`
	Problem string  `json:"problem,omitempty"`
}

// NotFoundError reports that no folder held a usable engine.
type NotFoundError struct {
	Looked []Candidate // in the order of the search
}

// Error names what is needed, what was found where, and the fix.
func (e *NotFoundError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "find engine: llama.cpp %s libraries (libllama, libggml, libggml-base and a backend) are needed", Version)
	for _, c := range e.Looked {
		fmt.Fprintf(&b, "; %s (%s): %s", c.Dir, c.Source, c.Problem)
	}
	if len(e.Looked) == 1 && e.Looked[0].Source == SourceFlag {
		b.WriteString("; name another folder with --engine-dir, or leave it out after `skein engine install`")
	} else {
		b.WriteString("; run `skein engine install`, or name a folder with --engine-dir")
	}
	return b.String()
}

// Find gives the first usable engine in the order --engine-dir, beside the
// binary, SKEIN_HOME/engine. A folder named by --engine-dir that does not fit
// is an error: a person who named one does not want another.
func Find(o Options) (*Engine, error) {
	looked := Search(o)
	for _, c := range looked {
		if c.Engine != nil {
			return c.Engine, nil
		}
	}
	return nil, &NotFoundError{Looked: looked}
}

// Search looks at every place Find would, also those after the first hit, in
// Find's order.
func Search(o Options) []Candidate {
	if o.Platform == (Platform{}) {
		o.Platform = Host()
	}
	if o.Dir != "" {
		dir, err := filepath.Abs(o.Dir)
		if err != nil {
			return []Candidate{{Source: SourceFlag, Dir: o.Dir, Problem: err.Error()}}
		}
		return []Candidate{look(SourceFlag, dir, o.Platform)}
	}
	var out []Candidate
	if o.Executable != "" {
		beside := filepath.Dir(o.Executable)
		out = append(out, look(SourceBinary, filepath.Join(beside, "lib"), o.Platform))
		// The binary's own folder counts when something is there; usually it
		// is /usr/local/bin, and naming it as a failure would only distract.
		if c := look(SourceBinary, beside, o.Platform); c.Engine != nil && !slices.ContainsFunc(out, sameEngine(c)) {
			out = append(out, c)
		}
	}
	if o.Home != "" {
		out = append(out, searchHome(HomeDir(o.Home), o.Platform)...)
	}
	return out
}

// sameEngine avoids listing bin/lib twice: it is also a sub-folder of bin.
func sameEngine(c Candidate) func(Candidate) bool {
	return func(other Candidate) bool {
		return other.Engine != nil && other.Engine.Dir == c.Engine.Dir
	}
}

// HomeDir is where Install puts engines below a SKEIN_HOME.
func HomeDir(home string) string { return filepath.Join(home, "engine") }

// currentFile names, in HomeDir, the sub-folder that was installed last.
const currentFile = "current"

// searchHome looks at the folder named by the current file, then at the other
// installed ones in name order, then at the folder itself for libraries that a
// person put there by hand.
func searchHome(dir string, p Platform) []Candidate {
	var names []string
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return []Candidate{{Source: SourceHome, Dir: dir, Problem: "cannot be read: " + cause(err)}}
	}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	if data, err := os.ReadFile(filepath.Join(dir, currentFile)); err == nil {
		current := strings.TrimSpace(string(data))
		if i := slices.Index(names, current); i > 0 {
			names = slices.Insert(slices.Delete(names, i, i+1), 0, current)
		}
	}
	var out []Candidate
	for _, n := range names {
		out = append(out, look(SourceHome, filepath.Join(dir, n), p))
	}
	if own := look(SourceHome, dir, p); len(out) == 0 || own.Engine != nil && !slices.ContainsFunc(out, sameEngine(own)) {
		out = append(out, own)
	}
	return out
}

func look(source, dir string, p Platform) Candidate {
	c := Candidate{Source: source, Dir: dir}
	e, err := Inspect(dir, p)
	if err != nil {
		c.Problem = err.Error()
		return c
	}
	c.Engine = e
	return c
}

// cause gives the innermost reason of a file error, without the path that the
// sentence around it already names.
func cause(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}
