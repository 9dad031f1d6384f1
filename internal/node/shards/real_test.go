package shards

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/bench/shards"
	"github.com/skein-run/skein/internal/cli/shardcmd"
	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/home"
	"github.com/skein-run/skein/internal/library"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise"
)

// host is this program with real runners.
func host(t *testing.T) *Host {
	t.Helper()
	program, err := filepath.Abs(filepath.Join("..", "..", "..", "bin", "skein"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("these tests need the program; run 'make build' first: %v", err)
	}
	where, err := home.Locate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &Host{Executable: program, Version: "test", Home: where, Logger: slog.New(slog.DiscardHandler)}
}

func demo(t *testing.T) []string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "..", "models", "demo", "skein-demo-4m-q8_0.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	return []string{path}
}

func TestCheck(t *testing.T) {
	h := host(t)
	for name, c := range map[string]struct {
		layout shards.Layout
		prompt string
		want   string
	}{
		"one shard":        {shards.Layout{Stages: 1, Ranks: 1}, "", shards.Right},
		"two stages":       {shards.Layout{Stages: 2, Ranks: 1}, "", shards.Right},
		"three stages":     {shards.Layout{Stages: 3, Ranks: 1}, "Why is the sky blue?", shards.Right},
		"encrypted":        {shards.Layout{Stages: 2, Ranks: 1, TLS: true}, "", shards.Right},
		"f16 activations":  {shards.Layout{Stages: 2, Ranks: 1, HalfPrecision: true}, "", shards.Wrong},
		"too many stages":  {shards.Layout{Stages: 5, Ranks: 1}, "", shards.Refused},
		"nobody is there":  {shards.Layout{Stages: 2, Ranks: 1, On: []string{"127.0.0.1:1"}}, "", shards.Failed},
		"no such identity": {shards.Layout{Stages: 2, Ranks: 1, On: []string{"127.0.0.1:1"}, Certificate: "a", Key: "b", CA: "c"}, "", shards.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := h.Check(t.Context(), shards.CheckOptions{Model: "demo", Paths: demo(t), Layout: c.layout, Tokens: 12, Prompt: c.prompt, Seed: 1})
			if err != nil || r.Verdict != c.want || r.Architecture != "llama" || (r.Reason == "") != (c.want == shards.Right) {
				t.Errorf("%+v, %v", r, err)
			}
			if c.want == shards.Right && (*r.NMSE != 0 || r.TokensCompared != 12) {
				t.Errorf("a pipeline is bit-identical: NMSE %g of %d tokens", *r.NMSE, r.TokensCompared)
			}
		})
	}
}

// identityFiles writes a certificate, its key and its authority.
func identityFiles(t *testing.T) [3]string {
	t.Helper()
	keys, err := localKeys()
	if err != nil {
		t.Fatal(err)
	}
	var out [3]string
	for i, text := range []string{keys.Certificate, keys.Key, keys.CA} {
		out[i] = filepath.Join(t.TempDir(), "part.pem")
		if err := os.WriteFile(out[i], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// offered starts `skein shard serve` on h until the test ends.
func offered(t *testing.T, h *Host, o shardcmd.ServeOptions) string {
	t.Helper()
	ready, done := make(chan string, 1), make(chan error, 1)
	o.Listen, o.Ready = "127.0.0.1:0", func(a string) { ready <- a }
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- h.Serve(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case a := <-ready:
		return a
	case err := <-done:
		done <- nil
		t.Fatal(err)
		return ""
	}
}

func nothing() ([]library.Entry, error) { return nil, nil }

// A machine without the file fetches its slice; one that has it does not. With
// TLS only those of one authority work together.
func TestOtherMachine(t *testing.T) {
	files := identityFiles(t)
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			lacks, has := host(t), host(t)
			o := shardcmd.ServeOptions{Model: nothing}
			l := shards.Layout{Stages: 2, Ranks: 1}
			if secure {
				o.Certificate, o.Key, o.CA = files[0], files[1], files[2]
				l.Certificate, l.Key, l.CA = files[0], files[1], files[2]
			}
			first := offered(t, lacks, o)
			o.Model = func() ([]library.Entry, error) {
				size, err := os.Stat(demo(t)[0])
				if err != nil {
					return nil, err
				}
				return []library.Entry{{Name: "demo", Paths: demo(t), SizeBytes: size.Size()}}, nil
			}
			l.On = []string{first, offered(t, has, o)}
			r, err := host(t).Check(t.Context(), shards.CheckOptions{Model: "demo", Paths: demo(t), Layout: l, Tokens: 8, Seed: 1})
			if err != nil || r.Verdict != shards.Right {
				t.Fatalf("%+v, %v", r, err)
			}
			for h, want := range map[*Host]int{lacks: 1, has: 0} {
				kept, err := filepath.Glob(filepath.Join(h.Home.Dir(), "slices", "*", "model.gguf"))
				if err != nil || len(kept) != want {
					t.Errorf("slices kept: %v, %v, want %d", kept, err, want)
				}
			}
		})
	}
	t.Run("another authority", func(t *testing.T) {
		other := identityFiles(t)
		a := offered(t, host(t), shardcmd.ServeOptions{Model: nothing, Certificate: other[0], Key: other[1], CA: other[2]})
		l := shards.Layout{Stages: 2, Ranks: 1, On: []string{a}, Certificate: files[0], Key: files[1], CA: files[2]}
		r, err := host(t).Check(t.Context(), shards.CheckOptions{Model: "demo", Paths: demo(t), Layout: l, Tokens: 4, Seed: 1})
		if err != nil || r.Verdict != shards.Failed || !strings.Contains(r.Reason, "certificate") {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

func TestServeRefusesExposure(t *testing.T) {
	err := host(t).Serve(t.Context(), shardcmd.ServeOptions{Listen: "0.0.0.0:0", Model: nothing})
	if err == nil || !strings.Contains(err.Error(), "--tls-cert") {
		t.Errorf("error %v", err)
	}
}

// Each shard in turn is killed in the middle of an answer: the answer ends
// with an error, the next one is right, and no process is left in the end.
func TestKilledShards(t *testing.T) {
	h := host(t)
	spec, err := h.engine("")
	if err != nil {
		t.Fatal(err)
	}
	layout := shards.Layout{Stages: 2, Ranks: 1, Threads: 1}
	specs, err := Plan(demo(t), layout)
	if err != nil {
		t.Fatal(err)
	}
	g, err := h.Start(t.Context(), Request{Name: "demo", Paths: demo(t), Layout: layout, Engine: spec,
		Load: wire.LoadRequest{Slots: 1, Context: 512, PrefixReuse: "off"}}, specs)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Stop(context.Background())
	request := wire.GenerateRequest{Prompt: []int32{5, 6, 7, 8}, MaxTokens: 12, IgnoreEnd: true, Sampling: wire.NeutralSampling()}
	request.Sampling.Temperature = 0
	want := answerOf(t, g, request)
	if len(want) != 12 {
		t.Fatalf("%d tokens, want 12", len(want))
	}
	for shard := range specs {
		long := request
		long.MaxTokens = 500
		s, err := g.Generate(t.Context(), long)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		p, err := os.FindProcess(g.Members()[shard].State.PID)
		if err == nil {
			err = p.Kill()
		}
		if err != nil {
			t.Fatal(err)
		}
		if done, err := end(t, s); err == nil && done.Reason != wire.ReasonError {
			t.Errorf("shard %d: the answer ended with %+v", shard, done)
		}
		s.Close()
		if got := answerOf(t, g, request); string(tokens(got)) != string(tokens(want)) {
			t.Errorf("after shard %d: %v, want %v", shard, got, want)
		}
	}
	var pids []int
	for _, m := range g.Members() {
		pids = append(pids, m.State.PID)
	}
	g.Stop(context.Background())
	if s := g.State(); s.Phase != supervise.Stopped {
		t.Errorf("phase %s", s.Phase)
	}
	if runtime.GOOS != "linux" {
		t.Skip("whether processes are left is looked up in /proc, which this system lacks")
	}
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d is left", pid)
		}
	}
}

func end(t *testing.T, s generation.Stream) (*wire.Done, error) {
	t.Helper()
	for {
		_, done, err := s.Next(t.Context())
		if done != nil || err != nil {
			return done, err
		}
	}
}

func answerOf(t *testing.T, g *Served, req wire.GenerateRequest) []int32 {
	t.Helper()
	s, err := g.Generate(t.Context(), req)
	for attempt := 0; err == nil; attempt++ {
		var out []int32
		for {
			part, done, err := s.Next(t.Context())
			for _, tok := range part {
				out = append(out, tok.Token)
			}
			if err != nil || done != nil && done.Reason == wire.ReasonError {
				break // it began before the group knew of the death
			}
			if done != nil {
				s.Close()
				return out
			}
		}
		s.Close()
		if attempt > 20 {
			t.Fatal("no answer after 20 tries")
		}
		if err := g.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err = g.Generate(t.Context(), req)
	}
	t.Fatal(err)
	return nil
}

func tokens(ids []int32) []byte { return wire.AppendIDs(nil, ids) }

func alive(pid int) bool {
	_, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid)))
	return err == nil
}

// TestCheckOnGPU compares stages on a GPU, and on it and the processor, with the
// whole model. The GPU is named from outside: nothing else needs one.
func TestCheckOnGPU(t *testing.T) {
	dir := os.Getenv("SKEIN_TEST_GPU_ENGINE")
	if dir == "" {
		t.Skip("NOT RUN: SKEIN_TEST_GPU_ENGINE names no folder of libraries with a GPU backend (docs/gpu.md)")
	}
	e, err := engine.Inspect(dir, engine.Host())
	if err != nil {
		t.Fatal(err)
	}
	h := host(t)
	info, err := engine.Probe(t.Context(), h.Executable, e)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(info.Devices, func(d wire.Device) bool { return d.Type == "gpu" || d.Type == "igpu" })
	if i < 0 {
		t.Skipf("NOT RUN: no GPU: %+v, %v", info.Devices, info.Problems)
	}
	gpu := info.Devices[i].Name
	for _, devices := range [][]string{{gpu}, {gpu, wire.Processor}, {wire.Processor, gpu}} {
		r, err := h.Check(t.Context(), shards.CheckOptions{
			Model: "demo", Paths: demo(t), Layout: shards.Layout{Stages: 2, Ranks: 1, Devices: devices}, Tokens: 12, Seed: 1, EngineDir: dir,
		})
		if err != nil || r.Verdict != shards.Right {
			t.Errorf("on %v: %+v, %v", devices, r, err)
			continue
		}
		t.Logf("on %v, %s: NMSE %.3g, the library's own noise %.3g", devices, info.Devices[i].Description, *r.NMSE, *r.Noise)
	}
}
