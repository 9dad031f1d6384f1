// Package buildinfo says which build of skein this is. It is a leaf: it
// imports nothing of ours and any package may call it from any goroutine.
package buildinfo

import (
	"runtime"
	"runtime/debug"
	"strings"
)

// Stamped at link time, and never written afterwards:
//
//	go build -ldflags "-X github.com/skein-run/skein/internal/buildinfo.version=v1.2.3
//	  -X github.com/skein-run/skein/internal/buildinfo.commit=0123abc"
//
// A build without them falls back to what the Go toolchain records.
var (
	version string
	commit  string
)

// Info describes the running build.
type Info struct {
	Version  string `json:"version"`  // "v1.2.3", or "dev" for a build from a work tree
	Commit   string `json:"commit"`   // short git commit, "-dirty" when files were changed, "" when unknown
	Go       string `json:"go"`       // toolchain: "go1.26.8"
	Platform string `json:"platform"` // "linux/amd64"
}

// Read gives the facts of the running build.
func Read() Info {
	recorded, _ := debug.ReadBuildInfo()
	return fill(version, commit, recorded)
}

// fill merges the stamped values with the toolchain's record, which may be nil.
func fill(version, commit string, recorded *debug.BuildInfo) Info {
	info := Info{
		Version:  version,
		Commit:   commit,
		Go:       runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	if recorded == nil {
		if info.Version == "" {
			info.Version = "dev"
		}
		return info
	}
	if info.Version == "" {
		info.Version = recorded.Main.Version
	}
	// A pseudo-version repeats the commit and says nothing to a person.
	if info.Version == "" || info.Version == "(devel)" || strings.HasPrefix(info.Version, "v0.0.0-") {
		info.Version = "dev"
	}
	if info.Commit == "" {
		settings := map[string]string{}
		for _, s := range recorded.Settings {
			settings[s.Key] = s.Value
		}
		info.Commit = settings["vcs.revision"]
		if len(info.Commit) > 12 {
			info.Commit = info.Commit[:12]
		}
		if info.Commit != "" && settings["vcs.modified"] == "true" {
			info.Commit += "-dirty"
		}
	}
	return info
}

// String is one line for a person: "skein v1.2.3 (0123abc, go1.26.8, linux/amd64)".
func (i Info) String() string {
	parts := []string{i.Go, i.Platform}
	if i.Commit != "" {
		parts = append([]string{i.Commit}, parts...)
	}
	return "skein " + i.Version + " (" + strings.Join(parts, ", ") + ")"
}
