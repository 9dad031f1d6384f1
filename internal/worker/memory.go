package worker

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/bytesize"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/supervise"
)

const (
	defaultContext = 8192
	minContext     = 512
	// pendingPerRequest is how many generations one request may hold back in
	// the runner (its n): the runner's own limit must never be the one that
	// is met, since the queue is counted here.
	pendingPerRequest = 128
)

// NoMemory is the cause of a KindNoMemory error: bytes, and what is loaded.
type NoMemory struct {
	Needed, Free int64
	Loaded       []LoadedModel // largest first
}

// LoadedModel is a model and the bytes it would free.
type LoadedModel struct {
	Name   string
	Memory int64
}

func (e *NoMemory) Error() string {
	return fmt.Sprintf("need %s, have %s", bytesize.Format(e.Needed), bytesize.Format(e.Free))
}

// cachePerNeed bounds the memory for spilled prefixes by that of the model and
// its slots: some forty prompts that fill a slot's context.
const cachePerNeed = 4

// place decides how a model is loaded, or that it does not fit into what is
// free and so many bytes more. The gate is held: nobody else gives memory away
// meanwhile.
//
// Invariant: the sum of all reservations never exceeds the machine's memory.
func (w *Worker) place(entry Entry, spec Spec, more int64) (*model, error) {
	slots := w.opts.Slots
	if spec.Slots > 0 {
		slots = spec.Slots
	}
	want, warning := w.contextFor(entry, spec)
	free, loaded, err := w.free()
	if err != nil {
		return nil, &generation.Error{Kind: generation.KindUnavailable, Message: fmt.Sprintf("cannot load %s: the free memory of this machine is not known: %v", entry.Name, err), Err: err}
	}
	free += more
	for tokens := want; ; tokens = max(tokens/2, minContext) {
		size, err := entry.Estimate(tokens, slots)
		if err != nil {
			return nil, &generation.Error{Kind: generation.KindInvalid, Message: fmt.Sprintf("cannot load %s: %v", entry.Name, err), Err: err}
		}
		need := withHeadroom(size)
		if need <= free {
			if tokens < want {
				warning = join(warning, fmt.Sprintf("context lowered from %d to %d tokens a slot, as memory allows; unload a model or use fewer slots for more", want, tokens))
			}
			load := w.opts.Load
			load.Paths, load.Slots, load.Context = entry.Paths, slots, tokens
			load.PendingLimit = (slots + w.opts.Queue) * pendingPerRequest
			// Spilled prefixes are a luxury: they get at most half of what
			// is left, and no more than a small model could ever fill.
			load.CacheBytes = min(load.CacheBytes, (free-need)/2, need*cachePerNeed)
			return &model{
				entry: entry, load: load, need: need + load.CacheBytes, warning: warning,
				status: StatusLoading, since: time.Now(), phase: supervise.Starting, gone: make(chan struct{}),
			}, nil
		}
		if tokens <= minContext {
			return nil, tooLarge(entry.Name, tokens, &NoMemory{Needed: need, Free: free, Loaded: loaded})
		}
	}
}

// contextFor is the context that was asked for, or the default.
func (w *Worker) contextFor(entry Entry, spec Spec) (tokens int, warning string) {
	asked := spec.Context
	if asked == 0 {
		asked = w.opts.Context
	}
	trained := entry.TrainedContext
	switch {
	case asked == 0 && trained > 0:
		return min(trained, defaultContext), ""
	case asked == 0:
		return defaultContext, ""
	case trained > 0 && asked > trained:
		return trained, fmt.Sprintf("context lowered from %d to %d tokens a slot: the model was trained for no more", asked, trained)
	}
	return asked, ""
}

// free measures what may be given away, and lists who has the rest. What a
// load has reserved and not yet allocated is still measured as available, and
// so are mapped weights, which count as cache: hence two bounds.
func (w *Worker) free() (int64, []LoadedModel, error) {
	var pending, all int64
	var loaded []LoadedModel
	w.mu.Lock()
	for _, m := range w.models {
		if m.need == 0 {
			continue
		}
		all += m.need
		if m.phase != supervise.Ready {
			pending += m.need
		}
		loaded = append(loaded, LoadedModel{Name: m.entry.Name, Memory: m.need})
	}
	w.mu.Unlock()
	slices.SortFunc(loaded, func(a, b LoadedModel) int {
		if a.Memory != b.Memory {
			if a.Memory > b.Memory {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	mem, err := w.opts.Memory()
	if err != nil {
		return 0, nil, err
	}
	free := mem.Available - pending
	if mem.Total > 0 {
		free = min(free, mem.Total-all)
	}
	return max(free, 0), loaded, nil
}

// withHeadroom adds the tenth by which an estimate may be wrong.
func withHeadroom(n int64) int64 {
	n = max(n, 0)
	if n > math.MaxInt64/11*10 {
		return math.MaxInt64
	}
	return n + n/10
}

// tooLarge tells what is needed, what there is, and what to do about it.
func tooLarge(name string, tokens int, e *NoMemory) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Need %s, have %s.", bytesize.Format(e.Needed), bytesize.Format(e.Free))
	var sum int64
	var parts []string
	enough := "" // the smallest model that frees enough by itself
	for _, m := range e.Loaded {
		sum += m.Memory
		parts = append(parts, fmt.Sprintf("%s (%s)", m.Name, bytesize.Format(m.Memory)))
		if e.Free+m.Memory >= e.Needed {
			enough = m.Name
		}
	}
	if len(parts) > 0 {
		fmt.Fprintf(&b, " Loaded: %s.", strings.Join(parts, ", "))
	}
	switch {
	case enough != "":
		fmt.Fprintf(&b, " Unload %s to free memory.", enough)
	case e.Free+sum >= e.Needed:
		b.WriteString(" Unload models to free memory.")
	default:
		fmt.Fprintf(&b, " %s does not fit this machine as it is, with a context of %d tokens a slot; close other programs, use fewer slots, or choose a smaller model or quantization.", name, tokens)
	}
	return &generation.Error{Kind: generation.KindNoMemory, Message: b.String(), Err: e}
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}
