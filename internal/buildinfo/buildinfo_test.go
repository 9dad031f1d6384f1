package buildinfo

import (
	"runtime/debug"
	"strings"
	"testing"
)

func TestFill(t *testing.T) {
	vcs := func(version, revision, modified string) *debug.BuildInfo {
		return &debug.BuildInfo{
			Main: debug.Module{Version: version},
			Settings: []debug.BuildSetting{
				{Key: "vcs.revision", Value: revision},
				{Key: "vcs.modified", Value: modified},
			},
		}
	}
	tests := []struct {
		name                    string
		version, commit         string
		recorded                *debug.BuildInfo
		wantVersion, wantCommit string
	}{
		{"stamped wins", "v1.2.3", "abc", vcs("v9.9.9", "ffff", "true"), "v1.2.3", "abc"},
		{"nothing known", "", "", nil, "dev", ""},
		{"work tree", "", "", vcs("(devel)", "0123456789abcdef0123", "true"), "dev", "0123456789ab-dirty"},
		{"go install", "", "", vcs("v1.4.0", "", ""), "v1.4.0", ""},
		{"pseudo-version", "", "", vcs("v0.0.0-20261122160000-0123456789ab", "0123456789ab", "false"), "dev", "0123456789ab"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := fill(tt.version, tt.commit, tt.recorded)
			if got.Version != tt.wantVersion || got.Commit != tt.wantCommit {
				t.Errorf("got version %q commit %q, want %q %q", got.Version, got.Commit, tt.wantVersion, tt.wantCommit)
			}
		})
	}
}

func TestString(t *testing.T) {
	got := Info{Version: "v1", Commit: "abc", Go: "go1.26", Platform: "linux/amd64"}.String()
	if want := "skein v1 (abc, go1.26, linux/amd64)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := (Info{Version: "v1", Go: "go1.26", Platform: "x/y"}).String(); strings.Contains(got, "(,") {
		t.Errorf("empty commit leaves a hole: %q", got)
	}
}
