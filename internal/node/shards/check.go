package shards

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/skein-run/skein/internal/bench/shards"
	"github.com/skein-run/skein/internal/gguf/hyper"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/library"
	"github.com/skein-run/skein/internal/runner/wire"
)

// Check computes a model whole and in shards and compares the logits. What
// goes wrong is told by the report; the error is nil but for ctx's.
func (h *Host) Check(ctx context.Context, o shards.CheckOptions) (shards.Report, error) {
	report := shards.Report{Model: o.Model, Stages: max(1, o.Layout.Stages), Ranks: max(1, o.Layout.Ranks), Devices: o.Layout.Devices}
	err := h.check(ctx, o, &report)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return report, context.Cause(ctx)
	case errors.Is(err, slice.ErrRefused):
		report.Verdict, report.Reason = shards.Refused, err.Error()
	default:
		report.Verdict, report.Reason = shards.Failed, err.Error()
	}
	return report, nil
}

func (h *Host) check(ctx context.Context, o shards.CheckOptions, report *shards.Report) error {
	if o.Tokens < 1 {
		return errors.New("compare at least one token: --tokens 40")
	}
	m, err := library.OpenModel(o.Paths...)
	if err != nil {
		return err
	}
	defer m.Close() // only read from: nothing can be lost
	report.Architecture = m.Arch()
	specs, err := Split(m.Model, report.Stages, report.Ranks, o.Layout.Balance)
	if err != nil {
		return err
	}
	kind := weights(m.Model)
	trained := 0
	if p, err := hyper.Read(m.Model); err == nil {
		trained = p.Context
	}
	engine, err := h.engine(o.EngineDir)
	if err != nil {
		return err
	}
	var bytes int64
	for _, part := range m.Parts() {
		bytes += part.Size
	}
	r := Request{Name: o.Model, Paths: o.Paths, Bytes: bytes, Layout: o.Layout, Engine: engine, Load: wire.LoadRequest{
		Paths: o.Paths, Slots: 1, Context: contextFor(o, trained), Threads: max(1, o.Layout.Threads), PrefixReuse: "off",
		ChunkTokens: checkChunk, // whole and sharded alike: on some processors the shapes of batches round otherwise
		Mmap:        true,       // two runs of one file share its pages
	}}
	r.Layout.Threads = r.Load.Threads
	reference, err := h.refer(ctx, o, r, trained)
	if err != nil {
		return err
	}
	g, err := h.Start(ctx, r, specs)
	if err != nil {
		return err
	}
	defer g.Stop(context.WithoutCancel(ctx))
	if err := g.Wait(ctx); err != nil {
		return err
	}
	if err := reference.Judge(ctx, g, kind, report); err != nil {
		return err
	}
	if report.Verdict == shards.Wrong && o.Layout.HalfPrecision {
		report.Reason += "; activations travelled as f16, which is not exact"
	}
	return nil
}

// checkChunk is how many tokens of a prompt are computed at once.
const checkChunk = 64

// contextFor is room for the prompt and the tokens compared.
func contextFor(o shards.CheckOptions, trained int) int {
	const prompt = 64
	need := prompt + o.Tokens + len(o.Prompt) + 8 // a byte makes at most one token, and a few go around
	if trained > 0 {
		need = min(need, trained)
	}
	return max(need, o.Tokens+8)
}

// refer has the whole model compute the input, in a runner that is gone when
// the shards start: a model may be larger than half of the memory.
func (h *Host) refer(ctx context.Context, o shards.CheckOptions, r Request, trained int) (*shards.Reference, error) {
	var others []string
	if len(o.Layout.Devices) > 0 {
		others = slices.Compact(slices.Sorted(slices.Values(o.Layout.Devices)))
		others = slices.DeleteFunc(others, func(d string) bool { return d == o.Layout.Devices[0] })
		r.Load = r.Load.On(o.Layout.Devices[0])
	}
	reference, err := h.first(ctx, o, r, trained)
	if err != nil {
		return nil, err
	}
	plain := r
	plain.Load.PlainAttention = true
	again := []Request{plain}
	for _, d := range others {
		other := r
		other.Load = r.Load.On(d)
		again = append(again, other)
	}
	for _, r := range again {
		if err := h.again(ctx, reference, o, r); err != nil {
			return nil, err
		}
	}
	return reference, nil
}

// again has the whole model compute the input by other kernels.
func (h *Host) again(ctx context.Context, reference *shards.Reference, o shards.CheckOptions, r Request) error {
	whole, err := h.whole(o.Model, r.Engine, r.Load, r.Bytes)
	if err != nil {
		return err
	}
	defer whole.Stop(context.WithoutCancel(ctx))
	if err := whole.Wait(ctx); err != nil {
		return fmt.Errorf("the whole model, by other kernels: %w", err)
	}
	return reference.Again(ctx, whole)
}

// first has the whole model compute the input by its usual kernels.
func (h *Host) first(ctx context.Context, o shards.CheckOptions, r Request, trained int) (*shards.Reference, error) {
	whole, err := h.whole(o.Model, r.Engine, r.Load, r.Bytes)
	if err != nil {
		return nil, err
	}
	defer whole.Stop(context.WithoutCancel(ctx))
	if err := whole.Wait(ctx); err != nil {
		return nil, fmt.Errorf("the whole model: %w", err)
	}
	var ids []int32
	if o.Prompt != "" {
		if ids, err = whole.Tokenize(ctx, o.Prompt, true, true); err != nil {
			return nil, fmt.Errorf("the prompt: %w; leave --prompt out to use random token ids", err)
		}
	}
	in, err := shards.Input(ids, whole.Info().Vocabulary, o.Tokens, trained, rand.New(rand.NewPCG(o.Seed, 0)))
	if err != nil {
		return nil, err
	}
	return shards.Refer(ctx, whole, in)
}
