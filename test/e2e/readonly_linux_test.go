package e2e

import (
	"os/exec"
	"testing"
)

// TestReadOnlyHome: a node whose disk is read-only says so in one line, and how
// to go on; whether it is its first start there or not.
func TestReadOnlyHome(t *testing.T) {
	home := t.TempDir()
	inside := func(script string) *exec.Cmd {
		cmd := command(home, nil)
		there := exec.Command("unshare", "--mount", "sh", "-ec", script, "sh", home, program)
		cmd.Path, cmd.Args = there.Path, there.Args
		return cmd
	}
	const readOnly = `mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"`
	if r := finish(t, inside(readOnly), ""); r.code != 0 {
		t.Skipf("NOT RUN: a read-only mount needs root: %s", r.stderr)
	}
	for _, state := range []string{"new", "used"} {
		r := finish(t, inside(readOnly+`; exec "$2" serve --api-port 0 --no-discovery --peer-host 127.0.0.1 --peer-port 0 --gossip-port 0`), "")
		r.want(t, 1, home+" can't be written", "read-only file system", "SKEIN_HOME")
		if len(r.stderr) > 300 {
			t.Errorf("%s home: a line is enough, it says\n%s", state, r.stderr)
		}
		if state == "new" { // what a node leaves there
			start(t, options{home: home}).stop()
		}
	}
}
