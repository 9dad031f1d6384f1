// Package clients runs clients that people really use against a node that
// really runs: bin/skein with the bundled demo model. setup.sh installs them;
// `make test` does that and sets SKEIN_CLIENTS=1, under which a client that is
// not there fails the test instead of skipping it.
package clients

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

const model = "skein-demo-4m-q8_0"

// missing skips, or fails where skipping was forbidden.
func missing(t *testing.T, what string) {
	t.Helper()
	what += " (make test, or `make build && test/clients/setup.sh`, sets it up)"
	if os.Getenv("SKEIN_CLIENTS") != "" {
		t.Fatal("NOT RUN: " + what)
	}
	t.Skip("NOT RUN: " + what)
}

// path is an absolute path below the repository's root.
func path(t *testing.T, parts ...string) string {
	t.Helper()
	p, err := filepath.Abs(filepath.Join(append([]string{"..", ".."}, parts...)...))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func exists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}

// binary is the built program.
func binary(t *testing.T) string {
	t.Helper()
	name := "skein"
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	program := path(t, "bin", name)
	if !exists(program) {
		missing(t, "bin/skein is not built")
	}
	return program
}

// serve starts a node of its own on a free port and gives its base URL.
func serve(t *testing.T, args ...string) string {
	t.Helper()
	node := exec.Command(binary(t), append([]string{"serve", "--api-port", "0", "--no-discovery", "--peer-host", "127.0.0.1", "--peer-port", "0"}, args...)...)
	node.Env = append(os.Environ(), "SKEIN_HOME="+t.TempDir())
	log := &strings.Builder{}
	node.Stderr = log
	stdout, err := node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	url, rest := "", make(chan struct{})
	lines := bufio.NewReader(stdout)
	for url == "" {
		line, err := lines.ReadString('\n')
		if err != nil {
			// The exit status says less than the log does.
			_ = node.Wait()
			t.Fatalf("the node did not start: %v\n%s", err, log)
		}
		url = regexp.MustCompile(`http://[^\s/]+/v1`).FindString(line)
	}
	go func() {
		defer close(rest)
		_, _ = io.Copy(io.Discard, lines)
	}()
	t.Cleanup(func() {
		if err := node.Process.Signal(os.Interrupt); err != nil {
			_ = node.Process.Kill() // Windows has no interrupt to send
		}
		<-rest
		err := node.Wait()
		if err != nil && runtime.GOOS != "windows" {
			t.Errorf("the node ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the node's log:\n%s", log)
		}
	})
	return url
}

func TestClients(t *testing.T) {
	url := serve(t, "--load", model, "--gossip-port", "0")
	client := func(name, program string, args []string, env ...string) {
		t.Run(name, func(t *testing.T) {
			for _, arg := range args {
				if !exists(arg) {
					missing(t, arg+" is not there")
				}
			}
			if _, err := exec.LookPath(program); err != nil {
				missing(t, program+" is not installed")
			}
			cmd := exec.CommandContext(t.Context(), program, args[len(args)-1])
			cmd.Env = append(append(os.Environ(), "SKEIN_BASE_URL="+url, "SKEIN_MODEL="+model), env...)
			if output, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, output)
			}
		})
	}
	t.Run("go", func(t *testing.T) { goClient(t, url) })

	packages := path(t, "build", "clients", "python")
	for _, name := range []string{"openai_client.py", "langchain_client.py", "mcp_client.py"} {
		client(name, "python3", []string{packages, path(t, "test", "clients", "python", name)},
			"PYTHONPATH="+packages, "PYTHONDONTWRITEBYTECODE=1", "LANGSMITH_TRACING=false", "SKEIN_PROGRAM="+binary(t))
	}

	// Node looks for packages beside the script, so the script goes to them.
	folder := path(t, "build", "clients", "node")
	script := filepath.Join(folder, "client.mjs")
	if exists(filepath.Join(folder, "node_modules")) {
		source, err := os.ReadFile(filepath.Join("node", "client.mjs"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(script, source, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	client("node", "node", []string{filepath.Join(folder, "node_modules"), script})

	// curl is the one client that setup.sh cannot install; it says so there.
	if _, err := exec.LookPath("curl"); err != nil {
		t.Run("curl", func(t *testing.T) { t.Skip("NOT RUN: curl is not installed") })
	} else {
		client("curl", "sh", []string{path(t, "test", "clients", "curl", "client.sh")})
	}
}

// goClient is the official client for Go.
func goClient(t *testing.T, url string) {
	client := openai.NewClient(option.WithBaseURL(url), option.WithAPIKey("none"), option.WithMaxRetries(0))
	params := openai.ChatCompletionNewParams{
		Model:               model,
		Messages:            []openai.ChatCompletionMessageParamUnion{openai.UserMessage("What is the capital of France?")},
		Temperature:         openai.Float(0),
		MaxCompletionTokens: openai.Int(24),
	}
	whole, err := client.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	if whole.Choices[0].Message.Content == "" || whole.Usage.CompletionTokens == 0 {
		t.Errorf("answer %s", whole.RawJSON())
	}
	params.StreamOptions.IncludeUsage = openai.Bool(true)
	stream := client.Chat.Completions.NewStreaming(t.Context(), params)
	var all openai.ChatCompletionAccumulator
	for stream.Next() {
		if !all.AddChunk(stream.Current()) {
			t.Errorf("chunk does not fit: %s", stream.Current().RawJSON())
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if all.Choices[0].Message.Content != whole.Choices[0].Message.Content || all.Usage.TotalTokens != whole.Usage.TotalTokens {
		t.Errorf("streamed %+v, whole %s", all.ChatCompletion, whole.RawJSON())
	}
	params.Model = "no-such-model"
	params.StreamOptions = openai.ChatCompletionStreamOptionsParam{} // for streams only
	_, err = client.Chat.Completions.New(t.Context(), params)
	var refused *openai.Error
	if !errors.As(err, &refused) || refused.StatusCode != 404 || refused.Code != "model_not_found" {
		t.Errorf("error %v", err)
	}
}
