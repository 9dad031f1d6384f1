package calm

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The program is told about huge pages beside what the user has said, who counts.
func TestHugePages(t *testing.T) {
	const ours = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"
	for name, c := range map[string]struct {
		env  []string
		want string // what the C library sees: the last one
	}{
		"nothing said":        {[]string{"A=1"}, ours},
		"something else said": {[]string{"GLIBC_TUNABLES=glibc.malloc.check=0"}, "GLIBC_TUNABLES=glibc.malloc.check=0:glibc.malloc.hugetlb=1"},
		"said otherwise":      {[]string{"GLIBC_TUNABLES=glibc.malloc.hugetlb=0"}, "GLIBC_TUNABLES=glibc.malloc.hugetlb=0"},
	} {
		t.Run(name, func(t *testing.T) {
			got := hugePages(slices.Clone(c.env))
			last := ""
			for _, v := range got {
				if strings.HasPrefix(v, "GLIBC_TUNABLES=") {
					last = v
				}
			}
			if last != c.want || got[0] != c.env[0] {
				t.Errorf("%q of %q, want %q", got, c.env, c.want)
			}
		})
	}
}

// What a program that was started inherits.
func TestStart(t *testing.T) {
	cmd := exec.Command("sh", "-c", "echo $GLIBC_TUNABLES; cat /proc/self/timerslack_ns")
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	var out strings.Builder
	cmd.Stdout = &out
	if err := Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if want := "glibc.malloc.hugetlb=1\n5000000\n"; out.String() != want {
		t.Errorf("the program has %q, want %q", out.String(), want)
	}
}
