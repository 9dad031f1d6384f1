package config

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestClusterDefaults(t *testing.T) {
	got, _, err := Resolve(Sources{})
	if err != nil {
		t.Fatal(err)
	}
	c := got.Cluster
	if c.Namespace != "default" || c.PeerPort != 52414 || c.GossipPort != 52413 || c.PortsGiven || c.ResumeTries != 3 || c.ResumeTimeout != time.Minute {
		t.Errorf("%+v", c)
	}
	if !c.Candidate() || c.Forced() || len(c.Notes()) > 0 {
		t.Errorf("roles of %+v: %v", c, c.Notes())
	}
}

// TestRoles is the table of design: what each flag and each pair makes of a
// node.
func TestRoles(t *testing.T) {
	for _, tc := range []struct {
		flags             string
		candidate, forced bool
		note              string
	}{
		{"", true, false, ""},
		{"no-master", false, false, ""},
		{"no-api", false, false, ""},
		{"force-master", true, true, ""},
		{"no-worker", true, false, ""},
		{"no-downloads", true, false, ""},
		{"no-master force-master", false, false, "--no-master wins"},
		{"no-api force-master", false, false, "--no-api wins"},
		{"no-master no-api", false, false, ""},
		{"no-worker force-master", true, true, ""},
		{"no-downloads force-master", true, true, ""},
		{"no-worker no-downloads", true, false, "no effect"},
		{"no-master no-worker", false, false, ""},
		{"no-master no-downloads", false, false, ""},
		{"no-api no-worker", false, false, ""},
		{"no-api no-downloads", false, false, ""},
		{"no-master no-api no-worker", false, false, "only keeps a copy"},
	} {
		flags := map[string][]string{}
		for _, f := range strings.Fields(tc.flags) {
			flags[f] = []string{"true"}
		}
		got, _, err := Resolve(Sources{Flags: flags})
		if err != nil {
			t.Fatal(err)
		}
		c := got.Cluster
		if c.Candidate() != tc.candidate || c.Forced() != tc.forced {
			t.Errorf("%q: candidate %v, forced %v", tc.flags, c.Candidate(), c.Forced())
		}
		notes := strings.Join(c.Notes(), "\n")
		if tc.note == "" && notes != "" || !strings.Contains(notes, tc.note) {
			t.Errorf("%q: notes %q, want %q", tc.flags, notes, tc.note)
		}
	}
}

func TestJoinIsRepeatableAndCommaSeparated(t *testing.T) {
	got, _, err := Resolve(Sources{Flags: map[string][]string{"join": {"a:1,b", " c "}}})
	if err != nil || !slices.Equal(got.Cluster.Join, []string{"a:1", "b", "c"}) {
		t.Errorf("%v %v", got.Cluster.Join, err)
	}
}

func TestOneSecret(t *testing.T) {
	_, _, err := Resolve(Sources{Flags: map[string][]string{"secret": {"hush"}, "secret-file": {"x"}}})
	if err == nil || !strings.Contains(err.Error(), "exclude each other") || strings.Contains(err.Error(), "hush") {
		t.Errorf("%v", err)
	}
}
