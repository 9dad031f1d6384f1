package runner

import (
	"encoding/json"
	"errors"
	"runtime"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/runner/llama"
	"github.com/skein-run/skein/internal/runner/wire"
)

func validateBench(s wire.BenchSpec) error {
	if s.Prompt < 1 || s.Decode < 1 || s.Streams < 1 || s.Repeat < 1 {
		return errors.New("bench: prompt, decode, streams and repeat must be at least 1")
	}
	return nil
}

// Bench measures and writes a wire.BenchResult as JSON to standard output. It
// returns the exit code.
func Bench(spec wire.BenchSpec) int {
	out, err := claimStdout()
	if err == nil {
		var res *wire.BenchResult
		if res, err = bench(spec); err == nil {
			err = json.NewEncoder(out).Encode(res)
		}
	}
	if err != nil {
		logLine(logError, err.Error())
		return 1
	}
	return 0
}

func bench(spec wire.BenchSpec) (*wire.BenchResult, error) {
	if err := validateBench(spec); err != nil {
		return nil, err
	}
	runtime.LockOSThread()
	lib, info, err := openLibrary(spec.Engine)
	if err != nil {
		return nil, err
	}
	req := spec.Load
	req.Slots, req.Context = spec.Streams, spec.Prompt+spec.Decode+1
	if req.Threads <= 0 {
		req.Threads = runtime.GOMAXPROCS(0)
	}
	begin := time.Now()
	m, err := load(lib, req, info.Devices, nil)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	res := &wire.BenchResult{Engine: info.Version, Model: m.info.Description, Threads: req.Threads, ChunkTokens: m.info.ChunkTokens, Layers: m.info.Layers + 1, GPULayers: m.info.GPULayers, LoadSeconds: time.Since(begin).Seconds()}
	for range spec.Repeat {
		m.ctx.Clear()
		begin := time.Now()
		for s := range spec.Streams {
			if err := benchPrefill(m, spec, s); err != nil {
				return nil, err
			}
		}
		m.ctx.Synchronize()
		mid := time.Now()
		if err := benchDecode(m, spec); err != nil {
			return nil, err
		}
		m.ctx.Synchronize()
		res.PrefillEach = append(res.PrefillEach, float64(spec.Prompt*spec.Streams)/mid.Sub(begin).Seconds())
		res.DecodeEach = append(res.DecodeEach, float64(spec.Decode*spec.Streams)/time.Since(mid).Seconds())
	}
	res.Prefill, res.Decode = median(res.PrefillEach), median(res.DecodeEach)
	return res, nil
}

func benchPrefill(m *loaded, spec wire.BenchSpec, seq int) error {
	items := make([]llama.Item, 0, m.info.ChunkTokens)
	for done := 0; done < spec.Prompt; {
		items = items[:0]
		for ; len(items) < m.info.ChunkTokens && done < spec.Prompt; done++ {
			token := int32((done*7919 + 13*seq) % m.info.Vocabulary)
			items = append(items, llama.Item{Token: token, Sequence: seq, Position: done, Output: done == spec.Prompt-1})
		}
		if err := m.ctx.Decode(items); err != nil {
			return err
		}
	}
	return nil
}

func benchDecode(m *loaded, spec wire.BenchSpec) error {
	items := make([]llama.Item, spec.Streams)
	for k := range spec.Decode {
		for s := range items {
			items[s] = llama.Item{Token: int32((k*31 + s) % m.info.Vocabulary), Sequence: s, Position: spec.Prompt + k, Output: true}
		}
		if err := m.ctx.Decode(items); err != nil {
			return err
		}
		for s := range items {
			if _, err := m.ctx.Logits(s); err != nil {
				return err
			}
		}
	}
	return nil
}

func median(x []float64) float64 {
	s := slices.Sorted(slices.Values(x))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
