//go:build unix

package cli_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Who reads the first events and no more, as `events | head` does, is not
// followed by a command that waits for the next one for ever.
func TestEventsEndWithTheirReader(t *testing.T) {
	where, _ := clusterAt(t, "org/m1")
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "cluster", "events")
	cmd.Env = append(os.Environ(), asProgram+"=1", "SKEIN_HOME="+where, "GORACE=atexit_sleep_ms=0", "SKEIN_HOST=", "SKEIN_PORT=", "SKEIN_API_KEY=")
	cmd.Stdout = write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	overdue := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer overdue.Stop()
	_ = write.Close()
	if line, err := bufio.NewReader(read).ReadString('\n'); err != nil || !strings.Contains(line, "snapshot") {
		t.Errorf("%q, %v", line, err)
	}
	_ = read.Close()
	_ = cmd.Wait() // the code tells
	if code := cmd.ProcessState.ExitCode(); code != 141 {
		t.Errorf("%v", cmd.ProcessState)
	}
}

// completions are words before the cursor, and what the shell makes of them with
// the cluster of clusterAt.
var completions = map[string]string{
	"skein nodes st": "studio", "skein models unload org/": "org/m1", "skein models unload m": "m1", "skein models swap org/m1 en": "endless",
	"skein models load new --node a": "attic", "skein cluster promote ": "attic here studio", "skein models load new --sharding t": "tensor",
	"skein comp": "completion",
}

// inShell runs a script of a shell that is given the program's path and the words.
func inShell(t *testing.T, shell string, script ...string) {
	t.Helper()
	path, err := exec.LookPath(shell)
	if err != nil {
		t.Skipf("NOT RUN: there is no %s here", shell)
	}
	where, _ := clusterAt(t, "org/m1")
	bin := filepath.Join(t.TempDir(), "skein")
	if err := os.Symlink(os.Args[0], bin); err != nil {
		t.Fatal(err)
	}
	for words, want := range completions {
		cmd := exec.Command(path, append(slices.Clone(script), bin)...)
		cmd.Args = append(cmd.Args, strings.Split(words, " ")...)
		cmd.Env = append(os.Environ(), asProgram+"=1", "SKEIN_HOME="+where, "PATH="+filepath.Dir(bin)+":"+os.Getenv("PATH"), "HOME="+filepath.Dir(bin), "TERM=dumb", "GORACE=atexit_sleep_ms=0",
			"SKEIN_HOST=", "SKEIN_PORT=", "SKEIN_API_KEY=")
		out, err := cmd.Output()
		var got []string
		for _, l := range strings.Split(string(out), "\n") {
			if w, _, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(l, "\t", " ")), " "); w != "" {
				got = append(got, w)
			}
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q completes to %q, %v; want %q", words, got, err, want)
		}
	}
}

// The script of `skein completion` works in its shell, where there is one.
func TestCompletionInBash(t *testing.T) {
	inShell(t, "bash", "--norc", "-c", `source <("$1" completion bash); shift
# What the package bash-completion brings.
_get_comp_words_by_ref() { cur=${COMP_WORDS[COMP_CWORD]}; words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; }
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9
__start_skein 2>/dev/null; printf '%s\n' "${COMPREPLY[@]}"`, "bash")
}

func TestCompletionInFish(t *testing.T) {
	inShell(t, "fish", "--no-config", "-c", `$argv[1] completion fish | source; complete -C "$argv[2..]"`)
}

// zsh completes in its line editor only, which is told to hand over what it would
// insert. Two functions of the completion system are replaced: the one that a
// script gives its offers to, and the one for files.
func TestCompletionInZsh(t *testing.T) {
	inShell(t, "zsh", "-f", "-c", `autoload -Uz compinit && compinit -D -u
source <("$1" completion zsh) || exit 1
shift
_describe() { local -a offers; offers=("${(@P)@[-1]}"); for o in $offers; do o=${o%%:*}; [[ $o == ${words[-1]}* ]] && print -r -- $o; done; }
_arguments() { return 1; }
words=("$@"); CURRENT=$#; LBUFFER="$*"
_skein
exit 0`, "zsh")
}
