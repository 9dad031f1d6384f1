package runner

import (
	"errors"
	"fmt"
	"strings"

	"github.com/skein-run/skein/internal/runner/llama"
	"github.com/skein-run/skein/internal/runner/schedule"
	"github.com/skein-run/skein/internal/runner/shard"
	"github.com/skein-run/skein/internal/runner/wire"
)

// openLibrary loads llama.cpp; the library's log goes to stderr, where the
// node reads it.
func openLibrary(spec wire.EngineSpec) (*llama.Library, wire.EngineInfo, error) {
	lib, err := llama.Open(llama.Files{Dir: spec.Dir, Llama: spec.Llama, GGML: spec.GGML, GGMLBase: spec.GGMLBase}, logLine)
	if err != nil {
		return nil, wire.EngineInfo{}, err
	}
	info := wire.EngineInfo{Dir: spec.Dir, Version: lib.VersionString(), SystemInfo: lib.SystemInfo()}
	for _, d := range lib.Devices() {
		info.Devices = append(info.Devices, wire.Device{
			Name: d.Name, Description: d.Description, Backend: d.Backend, Type: d.Type,
			MemoryFree: d.MemoryFree, MemoryTotal: d.MemoryTotal,
		})
	}
	return lib, info, nil
}

// chunkFor is the chunk that was asked for, or that of the model.
func chunkFor(want int, parameters uint64, gpu bool, stages, context int) int {
	n := want
	if n <= 0 {
		n = schedule.ChunkTokens(parameters, gpu, stages)
	}
	return max(1, min(n, context))
}

// loaded is a model with its context, or a shard of one.
type loaded struct {
	model  *llama.Model   // vocabulary and weights; the head of a group: the vocabulary; its followers: nil
	ctx    *llama.Context // nil: a vocabulary alone, or a shard
	member *member        // nil: no shard
	states *shard.Store   // snapshots
	req    wire.LoadRequest
	info   wire.ModelInfo
}

// load carries out a LoadRequest on the loop's goroutine. Where it leaves to the
// runner how many layers an accelerator takes, and its memory turns out to be too
// little for those that should fit, it tries again with fewer.
func load(lib *llama.Library, req wire.LoadRequest, devices []wire.Device, progress func(float64)) (*loaded, error) {
	if req.Slots < 1 || req.Context < 2 && !req.VocabOnly {
		return nil, &wire.Failure{Code: wire.CodeInvalid, Message: fmt.Sprintf("load: %d slots of %d tokens", req.Slots, req.Context)}
	}
	if req.Shard != nil {
		if req.VocabOnly {
			return nil, &wire.Failure{Code: wire.CodeInvalid, Message: "load: a shard, or a vocabulary alone, not both"}
		}
		l, err := loadMember(lib, req, progress)
		if err == nil {
			own := req.Shard.Shards[req.Shard.Index]
			l.info.GPULayers = onAccelerators(devices, req, own.End-own.First, own.End == l.info.Layers)
		}
		return l, err
	}
	all, layers := 0, []int{req.GPULayers}
	if req.VocabOnly {
		layers = []int{0}
	} else if req.GPULayers < 0 {
		all, layers = fitting(devices, req)
	}
	for i, n := range layers {
		r := req
		r.GPULayers = n
		if n < all {
			logLine(logWarn, fmt.Sprintf("%d of %d layers go to the GPU, the others are computed by the processor: its memory takes no more (%s free)", n, all, freeIn(accelerators(devices, req))))
		}
		m, err := loadWhole(lib, r, len(accelerators(devices, r)) > 0, progress)
		if err == nil {
			m.info.GPULayers = onAccelerators(devices, r, m.info.Layers, true)
		}
		var failure *wire.Failure
		if err == nil || i == len(layers)-1 || !errors.As(err, &failure) || failure.Code != wire.CodeMemory {
			return m, err
		}
		logLine(logWarn, err.Error())
	}
	return nil, errors.New("load: nothing was tried") // layers is never empty
}

// loadWhole loads a whole model, or its vocabulary alone.
func loadWhole(lib *llama.Library, req wire.LoadRequest, gpu bool, progress func(float64)) (*loaded, error) {
	m, err := lib.LoadModel(req.Paths, llama.ModelOptions{GPULayers: req.GPULayers, Device: req.Device, Mmap: req.Mmap, VocabOnly: req.VocabOnly, Progress: progress})
	if err != nil {
		return nil, &wire.Failure{Code: loadCode(err), Message: err.Error()}
	}
	l := &loaded{model: m, req: req, info: describe(m)}
	if req.VocabOnly {
		return l, nil
	}
	if ok, why := m.Generative(); !ok {
		m.Close()
		return nil, &wire.Failure{Code: wire.CodeModel, Message: fmt.Sprintf("load %s: %s", req.Paths[0], why)}
	}
	chunk := chunkFor(req.ChunkTokens, m.Parameters(), gpu, 1, req.Context)
	ctx, err := m.NewContext(llama.ContextOptions{
		PlainAttention: req.PlainAttention, Exact: exact(req.Paths),
		Sequences: req.Slots, ContextSeq: req.Context, BatchTokens: max(chunk, req.Slots), Threads: req.Threads,
	})
	if err != nil {
		m.Close()
		return nil, &wire.Failure{Code: contextCode(err), Message: err.Error()}
	}
	l.ctx = ctx
	l.info.Context, l.info.Slots, l.info.Threads, l.info.ChunkTokens = min(req.Context, ctx.ContextSeq()), req.Slots, req.Threads, chunk
	if err := warmUp(l); err != nil {
		l.Close()
		return nil, &wire.Failure{Code: wire.CodeInternal, Message: "warm up: " + err.Error()}
	}
	return l, nil
}

// Close frees context and model.
func (l *loaded) Close() {
	if l.ctx != nil {
		l.ctx.Close()
	}
	if l.model != nil {
		l.model.Close()
	}
	if l.member != nil {
		l.member.close()
	}
}

// warmUp computes one token, so that the first request does not pay for
// paging the weights in.
func warmUp(l *loaded) error {
	token := max(l.info.BOS, 0)
	if err := l.ctx.Decode([]llama.Item{{Token: token, Output: true}}); err != nil {
		return err
	}
	if _, err := l.ctx.Logits(0); err != nil {
		return err
	}
	l.ctx.Clear()
	return nil
}

func describe(m *llama.Model) wire.ModelInfo {
	info := wire.ModelInfo{
		Description: m.Description(), Parameters: m.Parameters(), Bytes: m.Bytes(), Layers: m.Layers(),
		Embedding: m.Embedding(), Vocabulary: m.Vocabulary(), TrainedContext: m.TrainedContext(),
		BOS: m.BOS(), EOS: m.EOS(), AddBOS: m.AddBOS(), ChatTemplate: m.ChatTemplate(), Memory: m.Memory(),
	}
	for t := range int32(info.Vocabulary) {
		if m.IsEnd(t) {
			info.EndTokens = append(info.EndTokens, t)
		}
	}
	if info.BOS >= 0 {
		info.BOSPiece = string(m.Piece(info.BOS, true))
	}
	if info.EOS >= 0 {
		info.EOSPiece = string(m.Piece(info.EOS, true))
	}
	return info
}

// loadCode sorts the library's refusal by its words, which are all it gives.
func loadCode(err error) string {
	s := strings.ToLower(err.Error())
	for _, word := range []string{"allocat", "out of memory", "cannot reserve", "mmap failed"} {
		if strings.Contains(s, word) {
			return wire.CodeMemory
		}
	}
	return wire.CodeModel
}

func contextCode(err error) string {
	if loadCode(err) == wire.CodeMemory {
		return wire.CodeMemory
	}
	return wire.CodeModel
}
