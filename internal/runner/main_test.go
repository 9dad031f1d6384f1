package runner

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/runner/wire"
)

// asRunner makes the test binary act as the child process.
const asRunner = "SKEIN_TEST_AS_RUNNER"

func TestMain(m *testing.M) {
	if os.Getenv(asRunner) != "" {
		os.Exit(Main("test"))
	}
	os.Exit(m.Run())
}

// repo is the repository's root.
func repo(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func demoModel(t testing.TB) string {
	t.Helper()
	return filepath.Join(repo(t), "models", "demo", "skein-demo-4m-q8_0.gguf")
}

// engineSpec finds the libraries that `make build` puts beside the binary.
func engineSpec(t testing.TB) wire.EngineSpec {
	t.Helper()
	e, err := engine.Find(engine.Options{Executable: filepath.Join(repo(t), "bin", "skein")})
	if err != nil {
		t.Fatalf("these tests need the engine; run 'make build' first: %v", err)
	}
	return wire.EngineSpec{Dir: e.Dir, Llama: e.Libllama, GGML: e.Libggml, GGMLBase: e.Base}
}

// raceExit is the exit code of a process in which races were found.
const raceExit = 66

// child is a runner process under test.
type child struct {
	t    testing.TB
	cmd  *exec.Cmd
	conn *wire.Conn
	ref  uint64
}

func startChild(t testing.TB) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asRunner+"=1", "GGML_NO_BACKTRACE=1",
		"GORACE=atexit_sleep_ms=0") // else each of many children takes a second to end
	if testing.Verbose() {
		cmd.Stderr = os.Stderr
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, cmd: cmd, conn: wire.NewConn(out, in)}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // killed ones report it; nothing to learn
		if cmd.ProcessState.ExitCode() == raceExit {
			t.Error("the race detector has stopped a runner; its report is in the output with -v")
		}
	})
	if _, err := c.conn.Handshake("test"); err != nil {
		t.Fatal(err)
	}
	return c
}

// call sends a request and decodes its result, passing over progress.
func (c *child) call(typ wire.Type, req, result any) error {
	c.t.Helper()
	c.ref++
	if err := c.conn.SendJSON(typ, c.ref, req); err != nil {
		return err
	}
	for {
		f, err := c.conn.Read()
		if err != nil {
			return err
		}
		switch f.Type {
		case wire.TypeProgress, wire.TypeBeat, wire.TypeBroken:
		case wire.TypeFailure:
			var fail wire.Failure
			if err := f.Decode(&fail); err != nil {
				return err
			}
			return &fail
		case wire.TypeResult:
			return f.Decode(result)
		default:
			return fmt.Errorf("frame type %d", f.Type)
		}
	}
}

func (c *child) load(req wire.LoadRequest) wire.ModelInfo {
	c.t.Helper()
	var ei wire.EngineInfo
	if err := c.call(wire.TypeEngine, engineSpec(c.t), &ei); err != nil {
		c.t.Fatal(err)
	}
	var info wire.ModelInfo
	if err := c.call(wire.TypeLoad, req, &info); err != nil {
		c.t.Fatal(err)
	}
	return info
}

func (c *child) tokenize(text string) []int32 {
	c.t.Helper()
	c.ref++
	if err := c.conn.Send(wire.TypeTokenize, c.ref, wire.AppendTokenize(nil, wire.TokenizeRequest{Text: text, AddSpecial: true, ParseSpecial: true})); err != nil {
		c.t.Fatal(err)
	}
	f, err := c.conn.Read()
	if err != nil || f.Type != wire.TypeTokens {
		c.t.Fatalf("tokenize: frame type %d, %v", f.Type, err)
	}
	ids, err := wire.DecodeIDs(f.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return ids
}

// answer is a finished generation.
type answer struct {
	text     string
	tokens   []int32
	logprobs []float32
	done     wire.Done
}

// generate sends requests together and collects all answers by ID.
func (c *child) generate(reqs ...wire.GenerateRequest) map[uint64]*answer {
	c.t.Helper()
	out := map[uint64]*answer{}
	for _, r := range reqs {
		out[r.ID] = &answer{}
		if err := c.conn.SendJSON(wire.TypeGenerate, r.ID, r); err != nil {
			c.t.Fatal(err)
		}
	}
	for open := len(reqs); open > 0; {
		f, err := c.conn.Read()
		if err != nil {
			c.t.Fatal(err)
		}
		switch f.Type {
		case wire.TypeStep:
			if err := wire.DecodeTokens(f.Body, func(t wire.Token) {
				a := out[t.ID]
				a.text += string(t.Piece)
				a.tokens = append(a.tokens, t.Token)
				a.logprobs = append(a.logprobs, t.Logprob)
			}); err != nil {
				c.t.Fatal(err)
			}
		case wire.TypeDone:
			var d wire.Done
			if err := f.Decode(&d); err != nil {
				c.t.Fatal(err)
			}
			out[d.ID].done = d
			open--
		case wire.TypeBeat:
		default:
			c.t.Fatalf("frame type %d", f.Type)
		}
	}
	return out
}
