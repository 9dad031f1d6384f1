package runner

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/hyper"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/runner/link"
	"github.com/skein-run/skein/internal/runner/llama"
	"github.com/skein-run/skein/internal/runner/schedule"
	"github.com/skein-run/skein/internal/runner/shard"
	"github.com/skein-run/skein/internal/runner/wire"
)

// member is this process's shard of a model: its weights, its context, and its
// way to the other shards. All belongs to the goroutine that loaded it but
// what is marked otherwise.
type member struct {
	req    wire.LoadRequest
	spec   *wire.ShardSpec
	layout shard.Layout
	file   *slice.File
	vocab  []shard.VocabPart // of the last stage's ranks; the head's
	memory string            // kind of the whole model's memory
	tls    *tls.Config

	model  *llama.Model
	ctx    *llama.Context
	source []*os.File
	embed  *embedder // first stage
	door   *link.Listener
	joins  *joins
	mesh   *link.Mesh // of the epoch; nil: none
	items  []llama.Item
	peers  []int

	tokenSeconds float64 // for one token, when it warmed up

	steps atomic.Uint64 // read by any goroutine
	busy  atomic.Bool   // likewise
}

// loadMember carries out a LoadRequest for a shard.
func loadMember(lib *llama.Library, req wire.LoadRequest, progress func(float64)) (_ *loaded, err error) {
	m := &member{req: req, spec: req.Shard, layout: shard.Layout{Shards: req.Shard.Shards, Index: req.Shard.Index, Head: req.Shard.Head}, joins: newJoins()}
	if err := m.layout.Validate(); err != nil {
		return nil, &wire.Failure{Code: wire.CodeInvalid, Message: "load: " + err.Error()}
	}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if t := m.spec.TLS; t != nil {
		if m.tls, err = link.NewTLS(t.Certificate, t.Key, t.CA); err != nil {
			return nil, &wire.Failure{Code: wire.CodeInvalid, Message: "load: " + err.Error()}
		}
	}
	if err := pin(m.spec.CPUs); err != nil {
		return nil, &wire.Failure{Code: wire.CodeInvalid, Message: "load: " + err.Error()}
	}
	if n := len(m.spec.CPUs); n > 0 {
		// More would only take turns on the same cores, at each exchange anew:
		// one stream decoded 2 to 5 % faster so.
		runtime.GOMAXPROCS(n)
	}
	whole, parts, err := m.open(req.Paths)
	if err != nil {
		return nil, &wire.Failure{Code: wire.CodeModel, Message: fmt.Sprintf("load %s: %v", req.Paths[0], err)}
	}
	l := &loaded{member: m, req: req, states: shard.NewStore()}
	if m.layout.Index == m.layout.Head {
		// The shards' files have no tokenizer: the head reads the whole file's.
		if l.model, err = lib.LoadModel(req.Paths, llama.ModelOptions{VocabOnly: true}); err != nil {
			return nil, &wire.Failure{Code: loadCode(err), Message: err.Error()}
		}
		l.info = describe(l.model)
	}
	if m.model, err = lib.LoadSlice(m.file, parts, llama.ModelOptions{GPULayers: req.GPULayers, Device: req.Device, Progress: progress}); err != nil {
		return nil, &wire.Failure{Code: loadCode(err), Message: err.Error()}
	}
	if m.layout.First() {
		if m.embed, err = newEmbedder(m.file.Run.Embed, m.file.Run.Embedding, parts, lib.Dequantize); err != nil {
			return nil, &wire.Failure{Code: wire.CodeModel, Message: fmt.Sprintf("load %s: %v", req.Paths[0], err)}
		}
	}
	// All shards must take batches of the same size, whatever their machines.
	chunk := chunkFor(req.ChunkTokens, whole.Parameters(), false, m.layout.Stages(), req.Context)
	h, err := hyper.Read(whole)
	if err != nil {
		return nil, &wire.Failure{Code: wire.CodeModel, Message: fmt.Sprintf("load %s: %v", req.Paths[0], err)}
	}
	m.peers = m.layout.Peers()
	m.ctx, err = m.model.NewContext(llama.ContextOptions{
		Exact:     h.Exact,
		Sequences: req.Slots, ContextSeq: req.Context, BatchTokens: max(chunk, req.Slots), Threads: req.Threads,
		Hooks: &llama.Hooks{Capture: m.file.Run.Capture, Enter: m.file.Run.Enter, Positions: m.file.Run.Positions, Reduce: m.file.Run.Reduce, Exchange: m.exchange},
	})
	if err != nil {
		return nil, &wire.Failure{Code: contextCode(err), Message: err.Error()}
	}
	if err := m.describe(l, h, whole.Parameters(), chunk); err != nil {
		return nil, &wire.Failure{Code: wire.CodeModel, Message: fmt.Sprintf("load %s: %v", req.Paths[0], err)}
	}
	if err := m.warmUp(); err != nil {
		return nil, &wire.Failure{Code: wire.CodeInternal, Message: "warm up: " + err.Error()}
	}
	if m.door, err = link.Listen(m.spec.Listen); err != nil {
		return nil, &wire.Failure{Code: wire.CodeInvalid, Message: "load: " + err.Error()}
	}
	l.info.Link = m.door.Addr()
	return l, nil
}

// open reads the model's header and cuts this process's shard.
func (m *member) open(paths []string) (*gguf.Model, []io.ReaderAt, error) {
	whole, files, err := parse(paths)
	m.source = files
	if err != nil {
		return nil, nil, err
	}
	parts := make([]io.ReaderAt, len(files))
	for i, f := range files {
		parts[i] = f
	}
	if m.file, err = slice.Cut(whole, m.layout.Shards[m.layout.Index]); err != nil {
		return nil, nil, err
	}
	if m.layout.Index == m.layout.Head {
		for _, i := range m.layout.Peers() {
			f, err := slice.Cut(whole, m.layout.Shards[i])
			if err != nil {
				return nil, nil, err
			}
			m.vocab = append(m.vocab, shard.VocabPart{First: f.Run.VocabFirst, Count: f.Run.VocabCount})
		}
	}
	return whole, parts, nil
}

// describe fills in what the shard's own file, and a vocabulary alone, don't
// tell of the whole model.
func (m *member) describe(l *loaded, h *hyper.Params, parameters uint64, chunk int) error {
	end := m.layout.Shards[len(m.layout.Shards)-1].End
	if m.layout.Shards[0].First != 0 || end != h.Layers {
		return fmt.Errorf("the shards have the layers 0 to %d, the model has %d", end, h.Layers)
	}
	m.memory = h.Memory()
	if own := m.model.Memory(); m.memory == llama.MemoryAttention && own != m.memory {
		m.memory = own
	}
	i := &l.info
	if l.model == nil {
		i.BOS, i.EOS = -1, -1
	}
	i.Description, i.Parameters, i.Bytes = m.model.Description(), parameters, m.model.Bytes()
	i.Layers, i.Embedding, i.Vocabulary, i.TrainedContext = h.Layers, h.Embedding, m.file.Run.Vocabulary, h.Context
	i.Memory, i.Context, i.Slots = m.memory, min(m.req.Context, m.ctx.ContextSeq()), m.req.Slots
	i.Threads, i.ChunkTokens = m.req.Threads, chunk
	return nil
}

// warmUp computes a token twice: the first pages the weights in, the second
// tells how long one takes. The sums over ranks are left out.
func (m *member) warmUp() error {
	in := make([]float32, m.file.Run.Embedding)
	items := []schedule.Item{{Output: true}}
	if m.embed != nil {
		if err := m.embed.Embed(in, items); err != nil {
			return err
		}
	}
	for range 2 {
		begin := time.Now()
		if err := m.Decode(items, in); err != nil {
			return err
		}
		m.ctx.Synchronize()
		m.tokenSeconds = time.Since(begin).Seconds()
		m.ctx.Clear()
	}
	return nil
}

// close frees everything.
func (m *member) close() {
	if m.door != nil {
		if err := m.door.Close(); err != nil {
			logLine(logWarn, err.Error())
		}
	}
	if m.ctx != nil {
		m.ctx.Close()
	}
	if m.model != nil {
		m.model.Close()
	}
	closeAll(m.source)
}

// exchange sums up a partial result over the ranks of the stage.
func (m *member) exchange(data []float32) error {
	if m.mesh == nil {
		return nil // warming up
	}
	return lostShard(m.mesh.AllReduce(m.peers, data))
}

var errNotCaptured = errors.New("the graph gave no hidden states")

// Decode and what follows make the member a shard.Engine.
func (m *member) Decode(items []schedule.Item, hidden []float32) error {
	m.items = m.items[:0]
	for _, it := range items {
		m.items = append(m.items, llama.Item{Sequence: it.Slot, Position: it.Position, Output: it.Output})
	}
	m.busy.Store(true)
	defer m.busy.Store(false)
	err := m.ctx.DecodeEmbd(m.items, hidden)
	m.steps.Add(1)
	return err
}

// Hidden gives the hidden states that end the stage.
func (m *member) Hidden() ([]float32, error) {
	if h := m.ctx.Captured(); h != nil {
		return h, nil
	}
	return nil, errNotCaptured
}

// Logits gives this shard's part of a row.
func (m *member) Logits(i int) ([]float32, error) { return m.ctx.Logits(i) }

// Remove forgets a sequence from a position on.
func (m *member) Remove(seq, from int) bool { return m.ctx.Remove(seq, from, -1) }

// Copy makes dst a copy of src.
func (m *member) Copy(src, dst int) { m.ctx.Copy(src, dst) }

// State, StateBytes and SetState move a sequence's state.
func (m *member) State(seq int) ([]byte, error) { return m.ctx.State(seq) }

// StateBytes is the size that State would give.
func (m *member) StateBytes(seq int) int64 { return m.ctx.StateBytes(seq) }

// SetState replaces a sequence's state.
func (m *member) SetState(seq int, b []byte) error { return m.ctx.SetState(seq, b) }

// Clear forgets all sequences.
func (m *member) Clear() { m.ctx.Clear() }
