package engine

import (
	"bytes"
	"debug/elf"
	"debug/macho"
	"debug/pe"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// nested are the places below a named folder where packages and releases keep
// their libraries.
var nested = []string{"", "lib", "bin", "build/bin", "bins/*", "package/bins/*"}

// Inspect checks whether dir, or one of the sub-folders that packages use
// (lib, bin, bins/<platform>), holds a complete engine for p. It reads names
// and the headers of libllama, and loads nothing. Errors name what is missing,
// without the path of dir.
func Inspect(dir string, p Platform) (*Engine, error) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errors.New("does not exist")
	case err != nil:
		return nil, errors.New("cannot be read: " + cause(err))
	case !info.IsDir():
		return nil, errors.New("is a file; name the folder that holds it")
	}
	var best error
	for _, pattern := range nested {
		// Only the pattern may hold wildcards: dir is a literal name.
		for _, sub := range expand(dir, pattern) {
			e, err := inspectFolder(sub, p)
			if err == nil {
				return e, nil
			}
			// The complaint worth showing is about a folder that holds
			// something; "no libllama" of an unrelated folder is not.
			if best == nil || (errors.As(best, new(*emptyError)) && !errors.As(err, new(*emptyError))) {
				best = err
			}
		}
	}
	return nil, best
}

// expand gives the folders below dir that a pattern of nested means.
func expand(dir, pattern string) []string {
	parent, wild := strings.CutSuffix(pattern, "/*")
	at := filepath.Join(dir, filepath.FromSlash(parent))
	if !wild {
		return []string{at}
	}
	entries, err := os.ReadDir(at)
	if err != nil {
		return nil // an absent layout is not a finding
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, filepath.Join(at, e.Name()))
		}
	}
	return out
}

// emptyError reports a folder without any library of llama.cpp.
type emptyError struct{ want string }

func (e *emptyError) Error() string { return "holds no " + e.want }

// namesOf are the patterns of library file names on one operating system. The
// first group of llama and ggml is the variant ("metal"), the second the
// version ("0.5.0").
type namesOf struct {
	llama, ggml, base, backend *regexp.Regexp
	shown                      string // for messages
}

// The npm packages say libllama.v0.5.0.so and libllama.metal.v0.5.0.dylib, the
// official releases libllama.so or libllama.so.0.5.0; backends end in .so on
// macOS too, and Windows has no "lib" in front.
func names(system string) namesOf {
	const tag = `(?:\.([a-z]+))?(?:\.v([0-9][0-9.]*[0-9]))?`
	prefix, suffix, plugin, shown := `lib`, `\.so(?:\.([0-9.]+))?`, `\.so`, "libllama.so"
	switch system {
	case "darwin":
		prefix, suffix, plugin, shown = `lib`, `(?:\.([0-9.]+))?\.dylib`, `\.(?:dylib|so)`, "libllama.dylib"
	case "windows":
		prefix, suffix, plugin, shown = `(?:lib)?`, `()\.dll`, `\.dll`, "llama.dll"
	}
	return namesOf{
		llama:   regexp.MustCompile(`^` + prefix + `llama` + tag + suffix + `$`),
		ggml:    regexp.MustCompile(`^` + prefix + `ggml` + tag + suffix + `$`),
		base:    regexp.MustCompile(`^` + prefix + `ggml-base` + tag + suffix + `$`),
		backend: regexp.MustCompile(`^` + prefix + `ggml-([a-z]+)(?:-[A-Za-z0-9_.]+)?` + plugin + `(?:\.[0-9.]+)?$`),
		shown:   shown,
	}
}

// note is the file that Install leaves in an engine's folder.
type note struct {
	Version  string    `json:"version"`
	Backend  Backend   `json:"backend"`
	Platform Platform  `json:"platform"`
	Packages []Package `json:"packages"`
}

const noteFile = "engine.json"

// inspectFolder is Inspect for exactly one folder.
func inspectFolder(dir string, p Platform) (*Engine, error) {
	n := names(p.OS)
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &emptyError{n.shown}
		}
		return nil, errors.New("cannot be read: " + cause(err))
	}
	e := &Engine{Dir: dir}
	take := func(slot *string, name string) bool {
		// The plain name wins over libllama.so.0 and libllama.so.0.5.0, which
		// are the same file behind symbolic links.
		if *slot == "" || len(name) < len(filepath.Base(*slot)) {
			*slot = filepath.Join(dir, name)
		}
		return true
	}
	var versions []string
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() {
			continue
		}
		switch {
		case n.llama.MatchString(name):
			take(&e.Libllama, name)
			m := n.llama.FindStringSubmatch(name)
			versions = append(versions, m[2], m[3])
		case n.base.MatchString(name):
			take(&e.Base, name)
		case n.ggml.MatchString(name):
			take(&e.Libggml, name)
		default:
			if m := n.backend.FindStringSubmatch(name); m != nil && !slices.Contains(e.Backends, m[1]) {
				e.Backends = append(e.Backends, m[1])
			}
		}
	}
	slices.Sort(e.Backends)
	if e.Libllama == "" {
		if other := foreign(entries, p.OS); other != "" {
			return nil, fmt.Errorf("holds %s, a library for another operating system; %s is needed", other, p)
		}
		return nil, &emptyError{n.shown}
	}
	var missing []string
	if e.Base == "" {
		missing = append(missing, "libggml-base")
	}
	if e.Libggml == "" {
		missing = append(missing, "libggml")
	}
	if len(e.Backends) == 0 {
		missing = append(missing, "a backend such as libggml-cpu")
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("holds %s but not %s", filepath.Base(e.Libllama), strings.Join(missing, ", "))
	}
	if err := fits(e.Libllama, p); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(e.Libllama), err)
	}
	e.Version = guess(dir, versions)
	if e.Version != "" && e.Version != Version {
		return nil, fmt.Errorf("holds llama.cpp %s, and this build works with %s only", e.Version, Version)
	}
	return e, nil
}

// foreign gives the name of a libllama that another operating system would
// load, if there is one.
func foreign(entries []os.DirEntry, system string) string {
	for _, other := range []string{"linux", "darwin", "windows"} {
		if other == system {
			continue
		}
		n := names(other)
		for _, e := range entries {
			if !e.IsDir() && n.llama.MatchString(e.Name()) {
				return e.Name()
			}
		}
	}
	return ""
}

var semver = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+$`)

// guess takes the version from file names (full ones only: libllama.so.0 says
// nothing), else from Install's note, else from the npm package's.
func guess(dir string, fromNames []string) string {
	for _, v := range fromNames {
		if semver.MatchString(v) {
			return v
		}
	}
	var own note
	if data, err := os.ReadFile(filepath.Join(dir, noteFile)); err == nil && json.Unmarshal(data, &own) == nil && own.Version != "" {
		return own.Version
	}
	var npm struct {
		BuildOptions struct {
			LlamaCpp struct {
				Release string `json:"release"`
			} `json:"llamaCpp"`
		} `json:"buildOptions"`
	}
	if data, err := os.ReadFile(filepath.Join(dir, "_nlcBuildMetadata.json")); err == nil && json.Unmarshal(data, &npm) == nil {
		return strings.TrimPrefix(npm.BuildOptions.LlamaCpp.Release, "v")
	}
	return ""
}

// fits reads the header of a library and reports when it is damaged or for
// another machine than p.
func fits(path string, p Platform) error {
	f, err := os.Open(path)
	if err != nil {
		return errors.New("cannot be read: " + cause(err))
	}
	defer f.Close()
	var magic [4]byte
	if _, err := f.ReadAt(magic[:], 0); err != nil {
		return errors.New("is too short to be a library; install it again")
	}
	var have []Platform
	switch {
	case bytes.Equal(magic[:], []byte("\x7fELF")):
		lib, err := elf.NewFile(f)
		if err != nil {
			return fmt.Errorf("is damaged (%w); install it again", err)
		}
		arch := map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}[lib.Machine]
		have = []Platform{{"linux", or(arch, lib.Machine.String())}}
	case bytes.HasPrefix(magic[:], []byte("MZ")):
		lib, err := pe.NewFile(f)
		if err != nil {
			return fmt.Errorf("is damaged (%w); install it again", err)
		}
		arch := map[uint16]string{pe.IMAGE_FILE_MACHINE_AMD64: "amd64", pe.IMAGE_FILE_MACHINE_ARM64: "arm64"}[lib.Machine]
		have = []Platform{{"windows", or(arch, fmt.Sprintf("machine %#x", lib.Machine))}}
	default:
		cpus, err := machoCPUs(f)
		if err != nil {
			return errors.New("is not a library; install it again")
		}
		for _, cpu := range cpus {
			arch := map[macho.Cpu]string{macho.CpuAmd64: "amd64", macho.CpuArm64: "arm64"}[cpu]
			have = append(have, Platform{"darwin", or(arch, cpu.String())})
		}
	}
	if slices.Contains(have, p) {
		return nil
	}
	var got []string
	for _, h := range have {
		got = append(got, h.String())
	}
	return fmt.Errorf("is for %s; %s is needed", strings.Join(got, " and "), p)
}

func machoCPUs(f *os.File) ([]macho.Cpu, error) {
	if fat, err := macho.NewFatFile(f); err == nil {
		var out []macho.Cpu
		for _, a := range fat.Arches {
			out = append(out, a.Cpu)
		}
		return out, nil
	}
	lib, err := macho.NewFile(f)
	if err != nil {
		return nil, err
	}
	return []macho.Cpu{lib.Cpu}, nil
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
