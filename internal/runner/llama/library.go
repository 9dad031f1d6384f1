// Package llama binds the C interface of one pinned llama.cpp release with
// purego: no cgo, no C compiler. It is the only package of the product that
// uses unsafe, and only internal/runner may import it, in the child process.
//
// Calls that touch a Context must come from one goroutine that is locked to
// its OS thread; loading and freeing are serialized by the caller. Vocabulary
// calls (Tokenize, Piece) are safe from any goroutine. A failed assertion in
// the library aborts the process, which is why it is a child.
//
// Source of every declaration: include/llama.h and ggml/include/*.h of the
// release named by Version.
package llama

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
)

// Files are the libraries to load, absolute paths.
type Files struct {
	Dir      string // where ggml looks for its backends
	Llama    string
	GGML     string
	GGMLBase string
}

// Library is the loaded llama.cpp. There is one in a process.
type Library struct {
	dir  string
	logs *logRing

	version, systemInfo              func() string
	loadBackends                     func(string)
	backendInit                      func()
	logSet                           func(uintptr, uintptr)
	modelDefaults                    func() modelParams
	contextDefaults                  func() contextParams
	modelLoad                        func(string, modelParams) uintptr
	modelLoadSplits                  func(unsafe.Pointer, uint64, modelParams) uintptr
	modelLoadStream                  func(uintptr, modelParams) uintptr
	modelFree                        func(uintptr)
	contextNew                       func(uintptr, contextParams) uintptr
	contextFree                      func(uintptr)
	contextMemory                    func(uintptr) uintptr
	nCtxSeq                          func(uintptr) uint32
	decode                           func(uintptr, batch) int32
	logitsIth                        func(uintptr, int32) unsafe.Pointer
	synchronize                      func(uintptr)
	modelVocab                       func(uintptr) uintptr
	modelDesc                        func(uintptr, unsafe.Pointer, uint64) int32
	modelSize, modelParamCount       func(uintptr) uint64
	modelTrainCtx, modelEmbd         func(uintptr) int32
	modelLayers, modelSWA            func(uintptr) int32
	modelTemplate                    func(uintptr, uintptr) string
	modelHasEncoder, modelHasDecoder func(uintptr) bool
	modelIsRecurrent, modelIsHybrid  func(uintptr) bool
	modelIsDiffusion                 func(uintptr) bool
	vocabTokens, vocabBOS, vocabEOS  func(uintptr) int32
	vocabType                        func(uintptr) int32
	vocabAddBOS                      func(uintptr) bool
	vocabIsEOG                       func(uintptr, int32) bool
	vocabAttr                        func(uintptr, int32) int32
	tokenize                         func(uintptr, unsafe.Pointer, int32, unsafe.Pointer, int32, bool, bool) int32
	tokenPiece                       func(uintptr, int32, unsafe.Pointer, int32, int32, bool) int32
	memClear                         func(uintptr, bool)
	memSeqRemove                     func(uintptr, int32, int32, int32) bool
	memSeqCopy                       func(uintptr, int32, int32, int32, int32)
	memSeqMin, memSeqMax             func(uintptr, int32) int32
	stateSeqSize                     func(uintptr, int32) uint64
	stateSeqGet, stateSeqSet         func(uintptr, unsafe.Pointer, uint64, int32) uint64
	devCount                         func() uint64
	devGet                           func(uint64) uintptr
	devName, devDescription          func(uintptr) string
	devMemory                        func(uintptr, unsafe.Pointer, unsafe.Pointer)
	devType                          func(uintptr) int32
	devReg                           func(uintptr) uintptr
	regName                          func(uintptr) string
	regProc                          func(uintptr, string) uintptr
	poolParams                       func(unsafe.Pointer, int32)
	attachPool                       func(uintptr, uintptr, uintptr)
	poolNew                          func(unsafe.Pointer) uintptr // nil: the CPU backend has none
	poolFree                         func(uintptr)
	bufferIsHost                     func(uintptr) bool
	tensorGet, tensorSet             func(*tensor, unsafe.Pointer, uint64, uint64)
	typeTraits                       func(int32) *typeTraits
	tensorOverhead                   func() uint64
	tensorData                       func(*tensor) uintptr
	ggmlInit                         func(ggmlInit) uintptr
	ggmlFree                         func(uintptr)
	newTensor                        func(ctx uintptr, kind int32, a, b, c, d int64) *tensor
	setName                          func(*tensor, string) *tensor
	mulMat                           func(ctx uintptr, a, b *tensor) *tensor
	viewTensor                       func(ctx uintptr, t *tensor) *tensor
	opName                           func(int32) string

	progress     *progressHook
	evalCallback uintptr  // of all contexts with hooks, made once
	streams      *streams // nil: the system has none
}

// Open loads the libraries, checks that they are the pinned release with the
// binary interface this package was written against, and starts ggml's
// backends. log receives every line that the library prints; it may be nil.
func Open(f Files, log func(level int, line string)) (*Library, error) {
	l := &Library{dir: f.Dir, logs: newLogRing(log), progress: &progressHook{}}
	// ggml first: libllama needs its symbols, and a build without an rpath
	// finds them only if they are in the process already.
	base, err := dlopen(f.GGMLBase)
	if err != nil {
		return nil, openError(f.GGMLBase, err)
	}
	ggml, err := dlopen(f.GGML)
	if err != nil {
		return nil, openError(f.GGML, err)
	}
	llama, err := dlopen(f.Llama)
	if err != nil {
		return nil, openError(f.Llama, err)
	}
	if err := l.bind(base, ggml, llama); err != nil {
		return nil, err
	}
	if err := checkVersion(l.version()); err != nil {
		return nil, err
	}
	if err := checkDefaults(l.modelDefaults(), l.contextDefaults()); err != nil {
		return nil, err
	}
	l.logSet(purego.NewCallback(func(level, text, _ uintptr) uintptr {
		l.logs.write(int(int32(level)), goString(text))
		return 0
	}), 0)
	l.progress.callback = progressCallback(l.progress)
	l.evalCallback = newEvalCallback()
	l.streams = openStreams()
	l.loadBackends(f.Dir)
	l.backendInit()
	l.bindPool()
	if l.devCount() == 0 {
		return nil, &ABIError{Found: "no compute backend in " + f.Dir + " (libggml-cpu-* is missing)", Fix: installFix}
	}
	return l, nil
}

func openError(path string, err error) error {
	if _, serr := os.Stat(path); errors.Is(serr, os.ErrNotExist) {
		return &ABIError{Found: "no file " + path, Fix: installFix}
	}
	return &ABIError{Found: fmt.Sprintf("%s, which the system cannot load (%v)", path, err), Fix: installFix}
}

// bind resolves every symbol. A missing one names itself, and nothing is called.
func (l *Library) bind(base, ggml, llama uintptr) error {
	var missing []string
	reg := func(lib uintptr, fn any, name string) {
		addr, err := dlsym(lib, name)
		if err != nil || addr == 0 {
			missing = append(missing, name)
			return
		}
		purego.RegisterFunc(fn, addr)
	}
	for name, fn := range map[string]any{
		"llama_version": &l.version, "llama_print_system_info": &l.systemInfo,
		"llama_backend_init": &l.backendInit, "llama_log_set": &l.logSet,
		"llama_model_default_params": &l.modelDefaults, "llama_context_default_params": &l.contextDefaults,
		"llama_model_load_from_file": &l.modelLoad, "llama_model_load_from_splits": &l.modelLoadSplits,
		"llama_model_load_from_file_ptr": &l.modelLoadStream,
		"llama_model_free":               &l.modelFree, "llama_init_from_model": &l.contextNew, "llama_free": &l.contextFree,
		"llama_attach_threadpool": &l.attachPool,
		"llama_get_memory":        &l.contextMemory, "llama_n_ctx_seq": &l.nCtxSeq,
		"llama_decode": &l.decode, "llama_get_logits_ith": &l.logitsIth, "llama_synchronize": &l.synchronize,
		"llama_model_get_vocab": &l.modelVocab, "llama_model_desc": &l.modelDesc,
		"llama_model_size": &l.modelSize, "llama_model_n_params": &l.modelParamCount,
		"llama_model_n_ctx_train": &l.modelTrainCtx, "llama_model_n_embd": &l.modelEmbd,
		"llama_model_n_layer": &l.modelLayers, "llama_model_n_swa": &l.modelSWA,
		"llama_model_chat_template": &l.modelTemplate,
		"llama_model_has_encoder":   &l.modelHasEncoder, "llama_model_has_decoder": &l.modelHasDecoder,
		"llama_model_is_recurrent": &l.modelIsRecurrent, "llama_model_is_hybrid": &l.modelIsHybrid,
		"llama_model_is_diffusion": &l.modelIsDiffusion,
		"llama_vocab_n_tokens":     &l.vocabTokens, "llama_vocab_bos": &l.vocabBOS, "llama_vocab_eos": &l.vocabEOS,
		"llama_vocab_type": &l.vocabType, "llama_vocab_get_add_bos": &l.vocabAddBOS,
		"llama_vocab_is_eog": &l.vocabIsEOG, "llama_vocab_get_attr": &l.vocabAttr,
		"llama_tokenize": &l.tokenize, "llama_token_to_piece": &l.tokenPiece,
		"llama_memory_clear": &l.memClear, "llama_memory_seq_rm": &l.memSeqRemove, "llama_memory_seq_cp": &l.memSeqCopy,
		"llama_memory_seq_pos_min": &l.memSeqMin, "llama_memory_seq_pos_max": &l.memSeqMax,
		"llama_state_seq_get_size": &l.stateSeqSize, "llama_state_seq_get_data": &l.stateSeqGet,
		"llama_state_seq_set_data": &l.stateSeqSet,
	} {
		reg(llama, fn, name)
	}
	for name, fn := range map[string]any{
		"ggml_backend_load_all_from_path": &l.loadBackends,
		"ggml_backend_dev_count":          &l.devCount, "ggml_backend_dev_get": &l.devGet,
	} {
		reg(ggml, fn, name)
	}
	for name, fn := range map[string]any{
		"ggml_backend_dev_name": &l.devName, "ggml_backend_dev_description": &l.devDescription,
		"ggml_backend_dev_memory": &l.devMemory, "ggml_backend_dev_type": &l.devType,
		"ggml_backend_dev_backend_reg": &l.devReg, "ggml_backend_reg_name": &l.regName,
		"ggml_backend_reg_get_proc_address": &l.regProc, "ggml_threadpool_params_init": &l.poolParams,
		"ggml_backend_buffer_is_host": &l.bufferIsHost,
		"ggml_backend_tensor_get":     &l.tensorGet, "ggml_backend_tensor_set": &l.tensorSet,
		"ggml_get_type_traits": &l.typeTraits, "ggml_tensor_overhead": &l.tensorOverhead,
		"ggml_get_data": &l.tensorData, "ggml_init": &l.ggmlInit, "ggml_free": &l.ggmlFree,
		"ggml_new_tensor_4d": &l.newTensor, "ggml_set_name": &l.setName, "ggml_mul_mat": &l.mulMat,
		"ggml_view_tensor": &l.viewTensor, "ggml_op_name": &l.opName,
	} {
		reg(base, fn, name)
	}
	if len(missing) > 0 {
		return &ABIError{Found: "a library without the symbols " + strings.Join(missing, ", "), Fix: installFix}
	}
	return nil
}

// bindPool finds the CPU backend's thread pool, which lives in whichever
// variant of it ggml chose for this machine.
func (l *Library) bindPool() {
	for i := range l.devCount() {
		d := l.devGet(i)
		if l.devType(d) != deviceTypeCPU {
			continue
		}
		reg := l.devReg(d)
		create, free := l.regProc(reg, "ggml_threadpool_new"), l.regProc(reg, "ggml_threadpool_free")
		if create != 0 && free != 0 {
			purego.RegisterFunc(&l.poolNew, create)
			purego.RegisterFunc(&l.poolFree, free)
		}
		return
	}
}

// VersionString is what the library calls itself, e.g. "0.5.0-dev".
func (l *Library) VersionString() string { return l.version() }

// SystemInfo is the library's own line about instruction sets and threads.
func (l *Library) SystemInfo() string { return l.systemInfo() }

// Device is one ggml device.
type Device struct {
	Name, Description, Backend, Type string
	MemoryFree, MemoryTotal          uint64 // bytes
}

// Devices lists what the loaded backends found.
func (l *Library) Devices() []Device {
	var out []Device
	for i := range l.devCount() {
		d := l.devGet(i)
		v := Device{Name: l.devName(d), Description: l.devDescription(d), Type: "cpu"}
		switch l.devType(d) {
		case deviceTypeGPU:
			v.Type = "gpu"
		case deviceTypeIGPU:
			v.Type = "igpu"
		case deviceTypeAccel:
			v.Type = "accel"
		}
		if r := l.devReg(d); r != 0 {
			v.Backend = l.regName(r)
		}
		l.devMemory(d, unsafe.Pointer(&v.MemoryFree), unsafe.Pointer(&v.MemoryTotal))
		out = append(out, v)
	}
	return out
}

// device finds a device by its name.
func (l *Library) device(name string) (uintptr, error) {
	var there []string
	for i := range l.devCount() {
		d := l.devGet(i)
		if l.devName(d) == name {
			return d, nil
		}
		there = append(there, l.devName(d))
	}
	return 0, fmt.Errorf("there is no device %s in this process, only %s; was a GPU taken away, or another engine installed?", name, strings.Join(there, ", "))
}

// progressHook carries the callback of the load that runs.
type progressHook struct {
	mu       sync.Mutex // guards report
	report   func(float64)
	callback uintptr // made once: purego never frees one
}

func (h *progressHook) set(f func(float64)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.report = f
}

func (h *progressHook) call(done float64) {
	h.mu.Lock()
	f := h.report
	h.mu.Unlock()
	if f != nil {
		f(done)
	}
}

// goString copies a C string.
func goString(p uintptr) string {
	if p == 0 {
		return ""
	}
	b := *(*unsafe.Pointer)(unsafe.Pointer(&p)) // p comes from C: Go's collector does not own it
	n := 0
	for *(*byte)(unsafe.Add(b, n)) != 0 {
		n++
	}
	return string(unsafe.Slice((*byte)(b), n))
}
