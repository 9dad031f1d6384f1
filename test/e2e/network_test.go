//go:build unix

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/nettest"
)

// The hosts of a test network: two that offer themselves for shards, and one
// that has the model and uses them.
const (
	firstHost  = 0
	secondHost = 1
	userHost   = 2
	hosts      = 3
)

// machine is a `skein shard serve` that a test started.
type machine struct {
	t       *testing.T
	cmd     *exec.Cmd
	stderr  *output
	done    chan struct{}
	address string // for --on
	home    string
}

// offer starts one on a host of net.
func offer(t *testing.T, net *nettest.Network, index int, args ...string) *machine {
	t.Helper()
	m := &machine{t: t, stderr: newOutput(), done: make(chan struct{}), home: t.TempDir()}
	stdout := newOutput()
	h := &host{net, index}
	m.cmd = h.command(m.home, nil, append([]string{"shard", "serve", "--listen", net.Address(index) + ":0"}, args...)...)
	m.cmd.Stdout, m.cmd.Stderr = stdout, m.stderr
	m.cmd.WaitDelay = 5 * time.Second
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = m.cmd.Wait() // how it ended is asked of ProcessState
		stdout.end()
		m.stderr.end()
		close(m.done)
	}()
	t.Cleanup(m.stop)
	if !stdout.wait(t, "\n") {
		t.Fatalf("it offers nothing: %s", m.stderr)
	}
	m.address = regexp.MustCompile(`\S+:\d+`).FindString(stdout.String())
	if m.address == "" {
		t.Fatalf("no address in %q", stdout)
	}
	return m
}

// stop ends it as Ctrl-C does; its shards must go with it.
func (m *machine) stop() {
	n := &node{t: m.t, pid: m.cmd.Process.Pid}
	kids := n.children()
	_ = m.cmd.Process.Signal(os.Interrupt) // it may have ended, which the code tells
	select {
	case <-m.done:
	case <-time.After(patience):
		_ = m.cmd.Process.Kill()
		<-m.done
		m.t.Errorf("the machine at %s did not end", m.address)
	}
	if code := m.cmd.ProcessState.ExitCode(); code != 0 {
		m.t.Errorf("the machine at %s ended with code %d", m.address, code)
	}
	for _, kid := range kids {
		if alive(kid) {
			m.t.Errorf("shard %d is left of the machine at %s", kid, m.address)
		}
	}
	if m.t.Failed() {
		m.t.Logf("stderr of the machine at %s:\n%s", m.address, m.stderr)
	}
}

// identities writes a certificate for each host, all of one authority, and
// gives the flags that name them.
func identities(t *testing.T, prefix string) (flags [hosts][]string) {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		must(os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	certificate := func(serial int64, issuer *x509.Certificate, issuerKey *ecdsa.PrivateKey) ([]byte, *x509.Certificate, *ecdsa.PrivateKey) {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "a test's"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: issuer == nil, BasicConstraintsValid: true,
			KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(err)
		if issuer == nil {
			issuer, issuerKey = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, issuer, key.Public(), issuerKey)
		must(err)
		return der, c, key
	}
	der, ca, caKey := certificate(1, nil, nil)
	authority := write("ca.pem", "CERTIFICATE", der)
	for i := range flags {
		der, _, key := certificate(int64(i)+2, ca, caKey)
		secret, err := x509.MarshalPKCS8PrivateKey(key)
		must(err)
		name := string(rune('a' + i))
		flags[i] = []string{
			prefix + "-cert", write(name+".pem", "CERTIFICATE", der),
			prefix + "-key", write(name+".key", "PRIVATE KEY", secret),
			prefix + "-ca", authority,
		}
	}
	return flags
}

// check runs `skein shard check` on the user's host.
func check(t *testing.T, net *nettest.Network, model string, on []string, args ...string) (report struct {
	NMSE           *float64 `json:"nmse"`
	TokensCompared int      `json:"tokens_compared"`
	Verdict        string   `json:"verdict"`
	Reason         string   `json:"reason"`
}) {
	t.Helper()
	h := &host{net, userHost}
	r := finish(t, h.command(t.TempDir(), nil, append([]string{"shard", "check", model, "--json", "--tokens", "12", "--on", strings.Join(on, ",")}, args...)...), "")
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		t.Fatalf("exit code %d, %v: %s%s", r.code, err, r.stdout, r.stderr)
	}
	return report
}

// A model is right on two other machines, which fetch their slices, over cables
// of 1 Gbit/s, with TLS and without; also where a relay adds 0.3 ms each way.
func TestMachines(t *testing.T) {
	for _, c := range []struct {
		name   string
		tls    bool
		behind bool
	}{{"plain", false, false}, {"TLS", true, false}, {"slow link", false, true}, {"slow link, TLS", true, true}} {
		t.Run(c.name, func(t *testing.T) {
			net := nettest.New(t, nettest.Options{Hosts: hosts, Megabits: 1000})
			keys := identities(t, "--tls")
			model := savePatient(t) // the demo itself is on all machines
			var on []string
			var machines []*machine
			for i := range userHost {
				args := []string{"--insecure-no-auth"}
				if c.tls {
					args = keys[i]
				}
				if c.behind {
					args = append(args, "--advertise", net.Behind(i, nettest.Path{Delay: 300 * time.Microsecond, Precise: true}))
				}
				machines = append(machines, offer(t, net, i, args...))
				on = append(on, machines[i].address)
			}
			for _, split := range [][]string{{"--stages", "2"}, {"--ranks", "2"}, {"--stages", "2", "--ranks", "2"}} {
				args := split
				if c.tls {
					args = append(args, keys[userHost]...)
				}
				r := check(t, net, model, on, args...)
				if r.Verdict != "right" || r.TokensCompared != 12 {
					t.Errorf("%v: %+v", split, r)
				}
				if len(split) == 2 && split[0] == "--stages" && (r.NMSE == nil || *r.NMSE != 0) {
					t.Errorf("a pipeline is bit-identical, also over a network: %+v", r)
				}
			}
			for _, m := range machines {
				kept, err := filepath.Glob(filepath.Join(m.home, "slices", "*", "model.gguf"))
				if err != nil || len(kept) < 3 {
					t.Errorf("the machine at %s has kept %v, %v; it should have fetched three slices", m.address, kept, err)
				}
			}
			if c.tls && !c.behind {
				// Who has no certificate of the authority gets nothing.
				if r := check(t, net, model, on, "--stages", "2"); r.Verdict != "error" {
					t.Errorf("without an identity: %+v", r)
				}
				if r := check(t, net, model, on, append([]string{"--stages", "2"}, identities(t, "--tls")[userHost]...)...); r.Verdict != "error" {
					t.Errorf("with another authority's: %+v", r)
				}
			}
		})
	}
}

// A cable is pulled in the middle of an answer: the client has an error within
// two seconds, and when the cable is back, so is the text that it got before.
func TestCableCut(t *testing.T) {
	for name, cut := range map[string]int{"the first stage's": firstHost, "the head's": secondHost} {
		t.Run(name, func(t *testing.T) {
			net := nettest.New(t, nettest.Options{Hosts: hosts, Megabits: 1000})
			keys := identities(t, "--tls")
			on := offer(t, net, firstHost, keys[firstHost]...).address + "," + offer(t, net, secondHost, keys[secondHost]...).address
			n := start(t, options{on: &host{net, userHost}, args: append([]string{"--models-dir", filepath.Dir(savePatient(t)), "--load", patient, "--context", "4096",
				"--local-shards", "2x1", "--on", on}, identitiesFor(keys[userHost])...)})
			const question = "What is Skein?"
			want := n.answer(patient, question, "max_tokens", 24)
			s := n.open("/v1/chat/completions", ask(patient, question, "stream", true, "max_tokens", 4000, "ignore_eos", true))
			got := s.text()
			began := time.Now()
			net.Cut(cut)
			more, refused, err := s.rest()
			took := time.Since(began)
			if refused == nil || errors.Is(err, errEnd) {
				t.Errorf("the stream ended with %v and no error", err)
			}
			if took > stoppedLimit+*faultSlack {
				t.Errorf("the error came after %v: %+v", took, refused)
			}
			t.Logf("error after %v", took)
			if got += more; !strings.HasPrefix(got, want) && !strings.HasPrefix(want, got) {
				t.Errorf("before the error came %q, unharmed it is %q", got, want)
			}
			net.Mend(cut)
			eventually(t, "an answer over the mended cable", func() bool {
				r, err := n.try(http.MethodPost, "/v1/chat/completions", ask(patient, question, "max_tokens", 24))
				if err != nil {
					t.Fatal(err)
				}
				if r.status != http.StatusOK {
					return false
				}
				var c completion
				if err := json.Unmarshal([]byte(r.body), &c); err != nil || c.Choices[0].Message.Content != want {
					t.Errorf("over the mended cable: %v %s, before %q", err, r.body, want)
				}
				return true
			})
			t.Logf("whole again after %v", time.Since(began))
		})
	}
}

// identitiesFor names the flags as `skein serve` does.
func identitiesFor(flags []string) (out []string) {
	for _, f := range flags {
		out = append(out, strings.Replace(f, "--tls-", "--shard-tls-", 1))
	}
	return out
}
