package cli_test

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/skein-run/skein/internal/cli"
	"github.com/skein-run/skein/internal/cli/shardcmd"
	"github.com/skein-run/skein/internal/gguf/gguftest"
	"github.com/skein-run/skein/internal/home"
	"github.com/skein-run/skein/internal/interrupt"
)

var update = flag.Bool("update", false, "rewrite the golden files of testdata")

// asProgram is set for a copy of the test binary that is to be skein.
const asProgram = "SKEIN_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		program()
	}
	testscript.Main(m, map[string]func(){"skein": program})
}

// program is skein with a fake node: serve prints what it was told, and the
// node inside a command's process is the fake one.
func program() {
	interrupts := interrupt.Listen(context.Background())
	code := cli.Main(interrupts.Context(), cli.Deps{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv:     os.Getenv,
		Executable: os.Getenv("TEST_EXECUTABLE"),
		Interrupts: interrupts,
		Serve: func(ctx context.Context, o cli.ServeOptions) error {
			for _, s := range o.Settings {
				if s.Source != "default" {
					fmt.Fprintf(o.Stdout, "%s=%s (%s)\n", s.Name, s.Value, s.Source)
				}
			}
			return nil
		},
		Local: func(ctx context.Context, o cli.LocalOptions) (cli.LocalNode, error) {
			server, err := startFakeNode(o.Home, fakeOptions{files: o.Files})
			if err != nil {
				return cli.LocalNode{}, err
			}
			return cli.LocalNode{API: server.URL, Stop: func() error {
				server.Close()
				fmt.Fprintln(o.Stderr, "(node stopped)")
				return nil
			}}, nil
		},
		Shards: func(cli.ShardOptions) (shardcmd.Host, error) { return fakeShards{}, nil },
		Runner: func(_ context.Context, args []string) int {
			fmt.Println("runner", args)
			return 7
		},
	}, os.Args[1:])
	interrupts.Close()
	os.Exit(code)
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("SKEIN_HOME", filepath.Join(env.WorkDir, "home"))
			env.Setenv("TEST_EXECUTABLE", filepath.Join(env.WorkDir, "bin", "skein"))
			env.Setenv("XDG_DATA_HOME", filepath.Join(env.WorkDir, "data"))
			// A race-checked program otherwise waits a second before it exits.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			files := filepath.Join(env.WorkDir, "files")
			if err := os.MkdirAll(files, 0o700); err != nil {
				return err
			}
			tb := env.T().(testing.TB)
			gguftest.Tiny{Template: "{{ messages }}\nline two", Context: 512}.WriteFile(tb, files, "tiny.gguf")
			gguftest.Tiny{Arch: "llama"}.WriteFile(tb, files, "other.gguf")
			gguftest.Tiny{}.WriteSplit(tb, files, "parted", 2)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"node":     nodeCommand,
			"exitcode": exitCode,
			"deadnode": deadNode,
		},
	})
}

// nodeCommand is "node [-unannounced] [-key=K] [-cluster] [-nomaster]
// [-loaded=M]... [-known=M]...": it starts a node for the script's SKEIN_HOME and
// sets $NODE_URL and $NODE_PORT.
func nodeCommand(ts *testscript.TestScript, _ bool, args []string) {
	var o fakeOptions
	announce := true
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		switch name {
		case "-key":
			o.key = value
		case "-loaded":
			o.loaded = append(o.loaded, value)
		case "-known":
			o.known = append(o.known, value)
		case "-cluster":
			o.three = true
		case "-nomaster":
			o.edit = func(f *fakeCluster) { f.in.Master, f.in.NoMaster = "", "every live node runs with --no-master" }
		case "-unannounced":
			announce = false
		default:
			ts.Fatalf("unknown argument %s", arg)
		}
	}
	where, err := home.Locate(ts.Getenv("SKEIN_HOME"))
	ts.Check(err)
	server, err := startFakeNode(where, o)
	ts.Check(err)
	ts.Defer(server.Close)
	u, err := url.Parse(server.URL)
	ts.Check(err)
	ts.Setenv("NODE_URL", server.URL)
	ts.Setenv("NODE_PORT", u.Port())
	if announce {
		ts.Check(where.WriteNode(home.Node{PID: os.Getpid(), API: server.URL, Started: time.Unix(1, 0), Version: "test", APIKey: o.key}))
	}
}

// deadNode is "deadnode process|port": it leaves the address file of a node
// whose process ended, or whose process lives but whose port is closed.
func deadNode(ts *testscript.TestScript, _ bool, args []string) {
	where, err := home.Locate(ts.Getenv("SKEIN_HOME"))
	ts.Check(err)
	n := home.Node{PID: os.Getpid(), API: "http://127.0.0.1:1"}
	if args[0] == "process" {
		ended := exec.Command(os.Args[0], "-test.run=^$")
		ts.Check(ended.Run())
		n.PID = ended.Process.Pid
	}
	ts.Check(where.WriteNode(n))
}

// exitCode is "exitcode N command...": it runs a command and wants its code.
func exitCode(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		exit, ok := err.(*exec.ExitError)
		if !ok {
			ts.Fatalf("run %v: %v", args[1:], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}
