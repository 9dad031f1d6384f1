package cli_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/cli"
	"github.com/skein-run/skein/internal/interrupt"
)

// Help texts are read by people; a change to one is seen in review. Run
// go test ./internal/cli -update after a wanted one.
func TestHelp(t *testing.T) {
	interrupts := interrupt.Listen(t.Context())
	defer interrupts.Close()
	for _, command := range []string{"", "serve", "run", "models", "models status", "models load", "models unload", "models swap", "status", "health", "nodes", "top", "cluster", "cluster promote", "cluster drain", "cluster resume", "cluster events", "mcp", "keys", "keys add", "keys list", "keys revoke", "models list", "models add", "models show", "models remove", "version"} {
		name := strings.ReplaceAll("skein "+command, " ", "-")
		t.Run(name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			code := cli.Main(t.Context(), cli.Deps{
				Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errOut,
				Getenv: func(string) string { return "" }, Interrupts: interrupts,
			}, append(strings.Fields(command), "--help"))
			if code != cli.ExitOK || errOut.Len() > 0 {
				t.Fatalf("exit code %d, stderr %q", code, errOut.String())
			}
			golden := filepath.Join("testdata", "help", strings.Trim(name, "-")+".txt")
			if *update {
				if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), out.String()); diff != "" {
				t.Errorf("help changed (-want +got):\n%s", diff)
			}
		})
	}
}
