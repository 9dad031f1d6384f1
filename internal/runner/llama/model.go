package llama

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"
)

// ModelOptions say how weights are loaded.
type ModelOptions struct {
	// GPULayers of the last ones, the output head being one more, lie on
	// accelerators, negative: all. With 0 none is used at all: the library would
	// else copy weights to it for each prompt, and keep memory there for that.
	GPULayers int
	Device    string // the one that takes them; "": all there are
	Mmap      bool   // map the file; otherwise the library chooses
	VocabOnly bool
	// TempDir is for LoadSlice where it needs a file; "": the system's.
	TempDir string
	// Progress of the load, 0 to 1, called on the loading goroutine; may be nil.
	// Windows reports none: a callback there can't take a float.
	Progress func(float64)
}

// Model is a set of loaded weights and their vocabulary.
type Model struct {
	lib    *Library
	handle uintptr
	vocab  uintptr
}

// LoadError is the library's refusal of a model file.
type LoadError struct{ Path, Cause string }

func (e *LoadError) Error() string { return fmt.Sprintf("load %s: %s", e.Path, e.Cause) }

// LoadModel loads one GGUF file, or all parts of a split one in order.
func (l *Library) LoadModel(paths []string, o ModelOptions) (*Model, error) {
	if len(paths) == 0 {
		return nil, errors.New("load model: no file named")
	}
	return l.load(paths[0], o, func(p modelParams) uintptr {
		if len(paths) == 1 {
			return l.modelLoad(paths[0], p)
		}
		var pin runtime.Pinner
		defer pin.Unpin()
		ptrs := make([]unsafe.Pointer, len(paths))
		for i, s := range paths {
			c := append([]byte(s), 0)
			pin.Pin(&c[0])
			ptrs[i] = unsafe.Pointer(&c[0])
		}
		pin.Pin(&ptrs[0])
		return l.modelLoadSplits(unsafe.Pointer(&ptrs[0]), uint64(len(ptrs)), p)
	})
}

// load calls one of the library's ways to load a model.
func (l *Library) load(name string, o ModelOptions, call func(modelParams) uintptr) (*Model, error) {
	p := l.modelDefaults()
	p.nGPULayers = int32(o.GPULayers)
	if o.Mmap {
		p.loadMode = loadModeMmap
	}
	if o.VocabOnly {
		p.vocabOnly = 1
	}
	if o.Progress != nil {
		l.progress.set(o.Progress)
		defer l.progress.set(nil)
		p.progress = l.progress.callback
	}
	if o.Device != "" || o.GPULayers == 0 {
		var list [2]uintptr // ends in a null
		if o.GPULayers != 0 {
			d, err := l.device(o.Device)
			if err != nil {
				return nil, &LoadError{Path: name, Cause: err.Error()}
			}
			list[0] = d
		}
		var pin runtime.Pinner
		defer pin.Unpin()
		pin.Pin(&list)
		p.devices = uintptr(unsafe.Pointer(&list))
	}
	l.logs.reset()
	h := call(p)
	if h == 0 {
		return nil, &LoadError{Path: name, Cause: reason(l.logs.cause())}
	}
	return &Model{lib: l, handle: h, vocab: l.modelVocab(h)}, nil
}

// Close frees the weights. Contexts must be closed before.
func (m *Model) Close() {
	m.lib.modelFree(m.handle)
	m.handle = 0
}

// Description is the library's line, e.g. "llama 134.52M Q4_1".
func (m *Model) Description() string {
	var b [256]byte
	n := m.lib.modelDesc(m.handle, unsafe.Pointer(&b[0]), uint64(len(b)))
	return string(b[:max(0, min(int(n), len(b)-1))])
}

// Bytes is the size of all tensors.
func (m *Model) Bytes() uint64 { return m.lib.modelSize(m.handle) }

// Parameters is the number of weights.
func (m *Model) Parameters() uint64 { return m.lib.modelParamCount(m.handle) }

// TrainedContext is the context in tokens that the model was trained for.
func (m *Model) TrainedContext() int { return int(m.lib.modelTrainCtx(m.handle)) }

// Embedding is the width of a hidden state.
func (m *Model) Embedding() int { return int(m.lib.modelEmbd(m.handle)) }

// Layers is the number of blocks.
func (m *Model) Layers() int { return int(m.lib.modelLayers(m.handle)) }

// Vocabulary is the number of tokens, and so of logits.
func (m *Model) Vocabulary() int { return int(m.lib.vocabTokens(m.vocab)) }

// ChatTemplate is the Jinja template in the file, "" without one.
func (m *Model) ChatTemplate() string { return m.lib.modelTemplate(m.handle, 0) }

// BOS and EOS are token ids, -1 if the vocabulary has none.
func (m *Model) BOS() int32 { return m.lib.vocabBOS(m.vocab) }

// EOS is the end-of-sequence token id or -1.
func (m *Model) EOS() int32 { return m.lib.vocabEOS(m.vocab) }

// AddBOS tells whether prompts start with BOS.
func (m *Model) AddBOS() bool { return m.lib.vocabAddBOS(m.vocab) }

// IsEnd tells whether a token ends a generation.
func (m *Model) IsEnd(t int32) bool { return m.lib.vocabIsEOG(m.vocab, t) }

// Memory kinds.
const (
	MemoryAttention = "attention"
	MemorySliding   = "sliding_window"
	MemoryRecurrent = "recurrent"
	MemoryHybrid    = "hybrid"
)

// Memory is the kind of state that the model keeps for a sequence.
func (m *Model) Memory() string {
	switch {
	case m.lib.modelIsRecurrent(m.handle):
		return MemoryRecurrent
	case m.lib.modelIsHybrid(m.handle):
		return MemoryHybrid
	case m.lib.modelSWA(m.handle) > 0:
		return MemorySliding
	}
	return MemoryAttention
}

// Window is the sliding window in tokens, 0 without one.
func (m *Model) Window() int { return int(m.lib.modelSWA(m.handle)) }

// Generative tells whether the model continues text, token after token; if
// not, the reason.
func (m *Model) Generative() (bool, string) {
	switch {
	case m.lib.modelHasEncoder(m.handle):
		return false, "it has an encoder (T5 and the like); only decoder models are served"
	case !m.lib.modelHasDecoder(m.handle):
		return false, "it has no decoder (an embedding model)"
	case m.lib.modelIsDiffusion(m.handle):
		return false, "it is a diffusion model, which does not generate token after token"
	}
	return true, ""
}

// Tokenize turns text into token ids.
func (m *Model) Tokenize(text string, addSpecial, parseSpecial bool) ([]int32, error) {
	b := []byte(text)
	var src unsafe.Pointer
	if len(b) > 0 {
		src = unsafe.Pointer(&b[0])
	} else {
		b = []byte{0}
		src = unsafe.Pointer(&b[0])
	}
	out := make([]int32, len(text)+8) // a token has at least one byte, but for BOS and the like
	for {
		n := m.lib.tokenize(m.vocab, src, int32(len(text)), unsafe.Pointer(&out[0]), int32(len(out)), addSpecial, parseSpecial)
		runtime.KeepAlive(b)
		if n >= 0 {
			return out[:n], nil
		}
		if n == -1<<31 || int(-n) <= len(out) {
			return nil, fmt.Errorf("tokenize %d bytes: too many tokens", len(text))
		}
		out = make([]int32, -n)
	}
}

// Piece is the text of a token: for a control token its written form if
// special, else nothing.
func (m *Model) Piece(t int32, special bool) []byte {
	var small [64]byte
	buf := small[:]
	for {
		n := m.lib.tokenPiece(m.vocab, t, unsafe.Pointer(&buf[0]), int32(len(buf)), 0, special)
		if n >= 0 {
			return append([]byte(nil), buf[:n]...)
		}
		buf = make([]byte, -n)
	}
}

// IsControl tells whether a token stands for no text.
func (m *Model) IsControl(t int32) bool { return m.lib.vocabAttr(m.vocab, t)&attrControl != 0 }
