package engine

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// packageVersion is the npm version whose packages hold llama.cpp Version.
const packageVersion = "3.22.1"

// lock pins the content of each package. npm writes it (make engine-lock); a
// package that the registry did not have then has no entry, and is installed
// with npm's own check only.
//
//go:embed packages/package-lock.json
var lock []byte

// Backend is a kind of compute device.
type Backend string

// The backends that Install knows. Auto chooses one of the others.
const (
	Auto   Backend = "auto"
	CPU    Backend = "cpu"
	CUDA   Backend = "cuda"
	Vulkan Backend = "vulkan"
	Metal  Backend = "metal"
)

// ParseBackend reads a backend's name.
func ParseBackend(s string) (Backend, error) {
	all := []string{string(Auto), string(CPU), string(CUDA), string(Vulkan), string(Metal)}
	if !slices.Contains(all, s) {
		return "", fmt.Errorf("backend %q: want one of %s", s, strings.Join(all, ", "))
	}
	return Backend(s), nil
}

// Package is an npm package of exactly one version.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	// Integrity is "sha512-<base64>" of the package's archive, "" when this
	// release does not pin it.
	Integrity string `json:"integrity,omitempty"`
}

// String gives "name@version".
func (p Package) String() string { return p.Name + "@" + p.Version }

// Packages gives what has to be installed for a backend. cuda12 asks for the
// CUDA 12 build of the backend, which replaces the CUDA 13 one. Every GPU
// package also holds the CPU libraries.
func Packages(p Platform, b Backend, cuda12 bool) ([]Package, error) {
	name, ok := map[Platform]map[Backend]string{
		{"linux", "amd64"}:   {CPU: "linux-x64", CUDA: "linux-x64-cuda", Vulkan: "linux-x64-vulkan"},
		{"linux", "arm64"}:   {CPU: "linux-arm64"},
		{"darwin", "amd64"}:  {CPU: "mac-x64"},
		{"darwin", "arm64"}:  {CPU: "mac-arm64-metal", Metal: "mac-arm64-metal"},
		{"windows", "amd64"}: {CPU: "win-x64", CUDA: "win-x64-cuda", Vulkan: "win-x64-vulkan"},
		{"windows", "arm64"}: {CPU: "win-arm64"},
	}[p]
	if !ok {
		return nil, fmt.Errorf("no llama.cpp package exists for %s; build llama.cpp %s there and name its folder with --engine-dir", p, Version)
	}
	short, ok := name[b]
	if !ok {
		var have []string
		for k := range name {
			have = append(have, string(k))
		}
		slices.Sort(have)
		return nil, fmt.Errorf("no %s package exists for %s (there is %s); build llama.cpp %s with it and name its folder with --engine-dir",
			b, p, strings.Join(have, ", "), Version)
	}
	shorts := []string{short}
	if b == CUDA && cuda12 {
		shorts = append(shorts, short+"-ext")
	}
	pins, err := pinned(lock)
	if err != nil {
		return nil, err
	}
	var out []Package
	for _, s := range shorts {
		full := "@node-llama-cpp/" + s
		out = append(out, Package{Name: full, Version: packageVersion, Integrity: pins[full]})
	}
	return out, nil
}

// pinned reads the integrity of each package of packageVersion from an npm
// lock file.
func pinned(data []byte) (map[string]string, error) {
	var file struct {
		Packages map[string]struct {
			Version   string `json:"version"`
			Integrity string `json:"integrity"`
		} `json:"packages"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("read the engine's lock file: %w", err)
	}
	out := make(map[string]string)
	for path, p := range file.Packages {
		name, ok := strings.CutPrefix(path, "node_modules/")
		if !ok {
			continue
		}
		if p.Version != packageVersion || !strings.HasPrefix(p.Integrity, "sha512-") {
			return nil, fmt.Errorf("engine's lock file: %s is %s with integrity %q; want %s with sha512", name, p.Version, p.Integrity, packageVersion)
		}
		out[name] = p.Integrity
	}
	return out, nil
}
