package clients

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Clients that others' generators make out of the document, as docs/manage.md
// says, compile and do what a person would do with them. Nothing of them is kept.
func TestGeneratedClients(t *testing.T) {
	tools := path(t, "build", "clients", "openapi")
	if !exists(tools) {
		missing(t, tools+" is not there")
	}
	url := serve(t, "--gossip-port", "0", "--api-key", secret)
	documents := map[string]string{}
	for _, name := range []string{"openapi.json", "openapi-3.0.json"} {
		status, document := call(t, http.MethodGet, strings.TrimSuffix(url, "/v1")+"/"+name, "")
		if status != http.StatusOK {
			t.Fatalf("%s: %d %s", name, status, document)
		}
		documents[name] = filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(documents[name], document, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// do runs a command and fails the test with all that it says.
	do := func(t *testing.T, dir string, env []string, program string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir = dir
		cmd.Env = append(append(os.Environ(), "SKEIN_BASE_URL="+url, "SKEIN_MODEL="+model, "SKEIN_API_KEY="+secret), env...)
		output, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, output)
		}
		return string(output)
	}

	t.Run("python", func(t *testing.T) {
		env := []string{"PYTHONPATH=" + tools, "PYTHONDONTWRITEBYTECODE=1", "PATH=" + filepath.Join(tools, "bin") + string(os.PathListSeparator) + os.Getenv("PATH")}
		for name, document := range documents {
			dir := t.TempDir()
			said := do(t, dir, env, "python3", "-c", "from openapi_python_client.cli import app; app()",
				"generate", "--path", document, "--meta", "none", "--output-path", "skein_client", "--fail-on-warning")
			t.Logf("%s: %s", name, strings.TrimSpace(said))
			if name == "openapi.json" {
				do(t, dir, append(env, "SKEIN_GENERATED="+dir), "python3", path(t, "test", "clients", "python", "generated_client.py"))
			}
		}
	})

	t.Run("go", func(t *testing.T) {
		for name, document := range documents {
			dir := t.TempDir()
			for _, file := range []string{"go.mod", "go.sum", "main.go"} {
				b, err := os.ReadFile(filepath.Join("generated", file))
				if err == nil {
					err = os.WriteFile(filepath.Join(dir, file), b, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Mkdir(filepath.Join(dir, "skein"), 0o700); err != nil {
				t.Fatal(err)
			}
			env := []string{"CGO_ENABLED=0", "GOWORK=off", "GOFLAGS="}
			do(t, dir, env, "go", "tool", "oapi-codegen", "-generate", "types,client", "-package", "skein", "-o", "skein/client.go", document)
			if name == "openapi.json" {
				do(t, dir, env, "go", "run", ".")
			} else {
				do(t, dir, env, "go", "build", "-o", os.DevNull, ".")
			}
		}
	})
}
