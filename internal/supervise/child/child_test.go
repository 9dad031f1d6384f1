package child

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// The test binary is its own program when this variable is set.
const programEnv = "SKEIN_CHILD_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(programEnv) == "" {
		goleak.VerifyTestMain(m)
	}
	b, err := io.ReadAll(os.Stdin)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(os.Stderr, "read %d", len(b))
	if _, err := os.Stdout.Write(b); err != nil {
		panic(err)
	}
	os.Exit(3)
}

func program(t *testing.T) *Child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c, err := Start(Command{Path: self, Env: append(os.Environ(), programEnv+"=1")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Stdin.Close()
		c.Stdout.Close()
		c.Stderr.Close()
	})
	return c
}

// Everything that the program wrote is there after it was reaped.
func TestPipesAndStatus(t *testing.T) {
	c := program(t)
	if _, err := io.WriteString(c.Stdin, "hello"); err != nil {
		t.Fatal(err)
	}
	c.Stdin.Close() // its end is what the program waits for
	if got := c.Wait(); got != "exit status 3" {
		t.Errorf("status %q", got)
	}
	for want, r := range map[string]io.Reader{"hello": c.Stdout, "read 5": c.Stderr} {
		if b, err := io.ReadAll(r); err != nil || string(b) != want {
			t.Errorf("%q, %v, want %q", b, err, want)
		}
	}
	if err := c.Kill(); err != nil {
		t.Errorf("killing what is gone: %v", err)
	}
}

func TestKill(t *testing.T) {
	c := program(t)
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	if got := c.Wait(); got == "exit status 3" {
		t.Errorf("status %q", got)
	}
}

func TestMissingProgram(t *testing.T) {
	if _, err := Start(Command{Path: "./no-such-program"}); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("error %v", err)
	}
}
