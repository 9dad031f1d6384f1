package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/cli/doctor"
	"github.com/skein-run/skein/internal/cli/enginecmd"
	"github.com/skein-run/skein/internal/interrupt"
)

// bench is a machine for the commands that look at one: a program folder with
// or without libraries, an own SKEIN_HOME, and an environment.
type bench struct {
	bin, home string
	env       map[string]string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	root := t.TempDir()
	b := &bench{bin: filepath.Join(root, "bin"), home: filepath.Join(root, "home")}
	b.env = map[string]string{"SKEIN_HOME": b.home, "SKEIN_API_PORT": "0"}
	if err := errors.Join(os.Mkdir(b.bin, 0o755), os.Mkdir(b.home, 0o700)); err != nil {
		t.Fatal(err)
	}
	return b
}

// libraries puts files into dir that pass for an engine of this platform: this
// test's own program is one to the eyes of Inspect.
func (b *bench) libraries(t *testing.T, dir string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string][]string{
		"windows": {"llama.dll", "ggml.dll", "ggml-base.dll", "ggml-cpu.dll"},
		"darwin":  {"libllama.dylib", "libggml.dylib", "libggml-base.dylib", "libggml-cpu.so"},
	}[runtime.GOOS]
	if names == nil {
		names = []string{"libllama.so", "libggml.so", "libggml-base.so", "libggml-cpu.so"}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if err := os.Symlink(self, filepath.Join(dir, n)); err != nil {
			t.Fatal(err)
		}
	}
}

// program puts a skein into bin that answers a probe with a shell script.
func (b *bench) program(t *testing.T, script string) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("NOT RUN: the stand-in for the runner is a shell script")
	}
	if err := os.WriteFile(filepath.Join(b.bin, "skein"), []byte("#!/bin/sh\n[ \"$*\" = 'runner --probe' ] || exit 9\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
}

const goodProbe = `grep -q '"llama":"[^"]*llama' || exit 8
echo '{"version":"0.5.0-dev","devices":[{"name":"CPU","type":"cpu","backend":"CPU","description":"Test Chip","memory_free":1073741824,"memory_total":2147483648}]}'
`

func (b *bench) run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	interrupts := interrupt.Listen(t.Context())
	defer interrupts.Close()
	var out, errs bytes.Buffer
	code = Main(t.Context(), Deps{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
		Getenv:     func(k string) string { return b.env[k] },
		Executable: filepath.Join(b.bin, "skein"),
		Interrupts: interrupts,
	}, args)
	return code, out.String(), errs.String()
}

func contains(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s does not say %q:\n%s", what, p, text)
		}
	}
}

func TestEngineStatus(t *testing.T) {
	b := newBench(t)
	code, out, errs := b.run(t, "engine", "status")
	if code != ExitFailure {
		t.Errorf("without an engine: exit code %d", code)
	}
	contains(t, "stdout", out, "fits here")
	contains(t, "stderr", errs, "llama.cpp 0.5.0", filepath.Join(b.bin, "lib"), "does not exist", "skein engine install")

	b.libraries(t, filepath.Join(b.bin, "lib"))
	b.libraries(t, filepath.Join(b.home, "engine", "mine"))
	code, out, errs = b.run(t, "engine", "status")
	if code != ExitOK || errs != "" {
		t.Errorf("exit code %d, stderr %q", code, errs)
	}
	contains(t, "stdout", out, filepath.Join(b.bin, "lib")+" (beside the binary)", "cpu", filepath.Join(b.home, "engine", "mine")+" (SKEIN_HOME): usable, but later")

	code, out, _ = b.run(t, "engine", "status", "--json", "--engine-dir", filepath.Join(b.home, "engine", "mine"))
	var s enginecmd.Status
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != ExitOK {
		t.Fatalf("exit code %d, %v: %s", code, err, out)
	}
	if s.Source != "--engine-dir" || s.Engine == nil || s.Needed != "0.5.0" || len(s.Looked) != 1 {
		t.Errorf("got %+v", s)
	}

	b.env["SKEIN_ENGINE_DIR"] = filepath.Join(b.home, "nothing")
	code, _, errs = b.run(t, "engine", "status")
	if code != ExitFailure {
		t.Errorf("a named folder without libraries: exit code %d", code)
	}
	contains(t, "stderr", errs, filepath.Join(b.home, "nothing"), "name another folder with --engine-dir")
}

func TestEngineDevices(t *testing.T) {
	b := newBench(t)
	b.libraries(t, filepath.Join(b.bin, "lib"))
	b.program(t, goodProbe)
	code, out, errs := b.run(t, "engine", "devices")
	if code != ExitOK {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	contains(t, "stdout", out, "CPU", "1.0 GB", "2.0 GB", "Test Chip")

	for script, want := range map[string]string{
		"echo 'I starting' >&2; echo 'E llama.cpp is 0.4.0, and 0.5.0 is needed' >&2; echo 'I bye' >&2; exit 1": "llama.cpp is 0.4.0, and 0.5.0 is needed",
		"echo 'GGML_ASSERT failed' >&2; kill -9 $$":                                                             "killed GGML_ASSERT failed",
		"exit 3":          "exit status 3",
		"echo 'not json'": "its child's answer",
	} {
		b.program(t, script)
		code, _, errs := b.run(t, "engine", "devices")
		if code != ExitFailure {
			t.Errorf("%s: exit code %d", script, code)
		}
		contains(t, script, errs, want)
	}
}

func TestEngineInstallUsage(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"engine", "install", "--backend", "rocm"}, ExitUsage, "want one of auto, cpu, cuda, vulkan, metal"},
		{[]string{"engine", "install", "--platform", "linux"}, ExitUsage, "want OS/ARCH"},
		{[]string{"engine", "install", "--platform", "darwin/amd64", "--backend", "metal"}, ExitFailure, "no metal package exists for darwin/amd64 (there is cpu)"},
		{[]string{"engine", "instal"}, ExitUsage, `did you mean "skein engine install"?`},
	} {
		code, _, errs := b.run(t, c.args...)
		if code != c.code {
			t.Errorf("%v: exit code %d, want %d", c.args, code, c.code)
		}
		contains(t, strings.Join(c.args, " "), errs, c.want)
	}
}

func TestDoctorHealthy(t *testing.T) {
	b := newBench(t)
	b.libraries(t, filepath.Join(b.bin, "lib"))
	b.program(t, goodProbe)
	if err := os.MkdirAll(filepath.Join(b.bin, "models"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.bin, "models", "demo.gguf"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, errs := b.run(t, "doctor")
	if code != ExitOK {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	contains(t, "stdout", out, "machine", "memory", "disk", "llama.cpp 0.5.0-dev", "Test Chip", "0 .gguf files in models-dir, 1 beside the program")
	if entries, err := os.ReadDir(b.home); err != nil || len(entries) > 0 {
		t.Errorf("the doctor left something in SKEIN_HOME: %v, %v", entries, err)
	}
}

func TestDoctorFindings(t *testing.T) {
	for name, c := range map[string]struct {
		spoil             func(t *testing.T, b *bench)
		check, found, fix string
		grade             string
	}{
		"no engine": {func(t *testing.T, b *bench) {
			if err := os.RemoveAll(filepath.Join(b.bin, "lib")); err != nil {
				t.Fatal(err)
			}
		}, "engine", "does not exist", "skein engine install", doctor.Bad},
		"engine that does not load": {func(t *testing.T, b *bench) { b.program(t, "echo 'E no symbol llama_decode' >&2; exit 1") },
			"engine", "no symbol llama_decode", "skein engine install --backend cpu", doctor.Bad},
		"unknown key in the settings": {func(t *testing.T, b *bench) {
			if err := os.WriteFile(filepath.Join(b.home, "config.yaml"), []byte("slotz: 4\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "settings", "slotz", "correct it", doctor.Bad},
		"models folder that is not there": {func(t *testing.T, b *bench) { b.env["SKEIN_MODELS_DIR"] = filepath.Join(b.home, "gone") },
			"models", "gone", "correct models-dir", doctor.Bad},
		"home open to others": {func(t *testing.T, b *bench) {
			if err := os.Chmod(b.home, 0o755); err != nil {
				t.Fatal(err)
			}
		}, "home", "open to other users (mode 755)", "chmod 700", doctor.Warn},
		"home is a file": {func(t *testing.T, b *bench) {
			if err := errors.Join(os.RemoveAll(b.home), os.WriteFile(b.home, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}, "home", "is a file", "set SKEIN_HOME", doctor.Bad},
		"home not there yet": {func(t *testing.T, b *bench) {
			if err := os.RemoveAll(b.home); err != nil {
				t.Fatal(err)
			}
		}, "home", "the first node makes it", "", doctor.Good},
		"port in use": {func(t *testing.T, b *bench) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			b.env["SKEIN_API_PORT"] = strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
		}, "port", "(process " + strconv.Itoa(os.Getpid()) + ")", "--api-port", doctor.Bad},
		"nothing to load": {func(*testing.T, *bench) {}, "models", "0 .gguf files", "skein models add", doctor.Hint},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.libraries(t, filepath.Join(b.bin, "lib"))
			b.program(t, goodProbe)
			c.spoil(t, b)
			code, out, errs := b.run(t, "doctor", "--json")
			var report struct {
				OK       bool
				Findings []doctor.Finding
			}
			if err := json.Unmarshal([]byte(out), &report); err != nil {
				t.Fatalf("%v: %s%s", err, out, errs)
			}
			if bad := c.grade == doctor.Bad; report.OK == bad || (code == ExitFailure) != bad {
				t.Errorf("ok is %v and the exit code %d for a finding graded %s", report.OK, code, c.grade)
			}
			for _, f := range report.Findings {
				if f.Check == c.check && f.Grade == c.grade {
					contains(t, "finding", f.Found, c.found)
					contains(t, "fix", f.Fix, c.fix)
					return
				}
			}
			t.Errorf("no finding %s graded %s in %+v", c.check, c.grade, report.Findings)
		})
	}
}
