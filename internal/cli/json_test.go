package cli_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/cli"
	"github.com/skein-run/skein/internal/interrupt"
)

// random are the parts of answers that no two runs have in common.
var random = regexp.MustCompile(`("(?:(?:un)?load_)?command_id": |^\{"id":)"[^"]*"`)

// What --json prints is for programs: a change is seen in review, and fields
// are only added. Run go test ./internal/cli -run JSON -update after a wanted one.
func TestJSON(t *testing.T) {
	where := homeOfNode(t, fakeOptions{three: true, loaded: []string{"org/m1"}, known: []string{"new", "other"}})
	interrupts := interrupt.Listen(t.Context())
	defer interrupts.Close()
	for _, command := range []string{
		"status", "health", "nodes", "nodes studio", "models", "models status m1", "models status other", "models load new --dry-run",
		"models load new", "models swap new other", "models unload other", "cluster drain studio", "cluster resume studio", "cluster promote studio", "cluster events", "keys list",
	} {
		name := strings.NewReplacer(" ", "-", "--", "").Replace(command)
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var errOut bytes.Buffer
			out := &firstLine{}
			if command == "cluster events" {
				out.then = cancel // it would go on
			}
			code := cli.Main(ctx, cli.Deps{
				Stdin: strings.NewReader(""), Stdout: out, Stderr: &errOut, Interrupts: interrupts,
				Getenv: func(name string) string { return map[string]string{"SKEIN_HOME": where}[name] },
			}, append(strings.Fields(command), "--json"))
			if out.then == nil && (code != cli.ExitOK || errOut.Len() > 0) {
				t.Fatalf("exit code %d, stderr %q", code, errOut.String())
			}
			got := random.ReplaceAllString(out.String(), `${1}"RANDOM"`)
			golden := filepath.Join("testdata", "json", name+".json")
			if *update {
				if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("what programs read changed (-want +got):\n%s", diff)
			}
		})
	}
}

// firstLine is an output that tells when something was written.
type firstLine struct {
	bytes.Buffer
	then func()
}

func (f *firstLine) Write(b []byte) (int, error) {
	n, err := f.Buffer.Write(b)
	if f.then != nil {
		f.then()
	}
	return n, err
}
