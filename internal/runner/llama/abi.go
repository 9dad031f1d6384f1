//lint:file-ignore U1000 the structs mirror those of C field by field; what is unused keeps the others in place

package llama

import (
	"fmt"
	"strings"
	"unsafe"
)

// Version is the llama.cpp release whose binary interface this package knows.
const Version = "0.5.0"

// modelParams is struct llama_model_params of llama.h.
type modelParams struct {
	devices, tensorBuftOverrides                            uintptr
	nGPULayers, splitMode, loadMode, lazyMode, mainGPU      int32
	_                                                       int32
	tensorSplit, progress, progressData, kvOverrides        uintptr
	vocabOnly, checkTensors, useExtraBufts, noHost, noAlloc uint8
	loadMTP                                                 uint8
	_                                                       uint16
}

// contextParams is struct llama_context_params of llama.h.
type contextParams struct {
	nCtx, nBatch, nUbatch, nSeqMax, nRsSeq, nOutputsMax, nOutputsMaxPerSeq uint32
	nThreads, nThreadsBatch                                                int32
	ctxType, ropeScaling, pooling, attention, flashAttn                    int32
	ropeFreqBase, ropeFreqScale                                            float32
	yarnExt, yarnAttn, yarnBetaFast, yarnBetaSlow                          float32
	yarnOrigCtx                                                            uint32
	defragThold                                                            float32
	cbEval, cbEvalData                                                     uintptr
	typeK, typeV                                                           int32
	abort, abortData                                                       uintptr
	embeddings, offloadKQV, noPerf, opOffload, swaFull, kvUnified          uint8
	_                                                                      uint16
	samplers                                                               uintptr
	nSamplers                                                              uint64
	ctxOther                                                               uintptr
}

// batch is struct llama_batch of llama.h.
type batch struct {
	n                                     int32
	_                                     int32
	token, embd, pos, nSeq, seqID, logits unsafe.Pointer
}

// poolParamsSize is more than the size of struct ggml_threadpool_params, 526
// bytes in the pinned release. The library fills it, and only it reads it.
const poolParamsSize = 1024

// Values of the enums that we read or write.
const (
	ggmlTypeF32       = 0
	ggmlTypeF16       = 1
	splitModeLayer    = 1
	loadModeAuto      = -1
	loadModeNone      = 0
	loadModeMmap      = 1
	lazyModeOff       = 0
	lazyModeAuto      = 1
	flashAttnAuto     = -1
	flashAttnOff      = 0
	unspecified       = -1
	attrControl       = 1 << 3
	deviceTypeCPU     = 0
	deviceTypeGPU     = 1
	deviceTypeIGPU    = 2
	deviceTypeAccel   = 3
	logLevelWarn      = 3
	logLevelError     = 4
	logLevelContinued = 5
)

// An ABIError tells that the library found is not the one this build knows.
// Calling into it would corrupt memory, so nothing is called.
type ABIError struct{ Found, Fix string }

func (e *ABIError) Error() string {
	return fmt.Sprintf("the llama.cpp library does not fit: found %s, this skein needs release %s; %s", e.Found, Version, e.Fix)
}

const installFix = "run 'skein engine install' or give its folder with --engine-dir"

// checkVersion holds llama_version() against the pinned release. The npm
// packages of a release say "0.5.0-dev".
func checkVersion(v string) error {
	if v == Version || strings.HasPrefix(v, Version+"-") {
		return nil
	}
	return &ABIError{Found: fmt.Sprintf("version %q", v), Fix: installFix}
}

// knownModelParams and knownContextParams are what the *_default_params calls
// of the pinned release return. A field that upstream inserted or moved shows
// here as a value in the wrong place, even if the version was not raised.
func knownModelParams() modelParams {
	return modelParams{nGPULayers: -1, splitMode: splitModeLayer, loadMode: loadModeAuto, lazyMode: lazyModeAuto, useExtraBufts: 1}
}

func knownContextParams() contextParams {
	return contextParams{
		nCtx: 512, nBatch: 2048, nUbatch: 512, nSeqMax: 1, nOutputsMaxPerSeq: 1,
		nThreads: 4, nThreadsBatch: 4,
		ropeScaling: unspecified, pooling: unspecified, attention: unspecified, flashAttn: flashAttnAuto,
		yarnExt: -1, yarnAttn: -1, yarnBetaFast: -1, yarnBetaSlow: -1, defragThold: -1,
		typeK: ggmlTypeF16, typeV: ggmlTypeF16,
		offloadKQV: 1, noPerf: 1, opOffload: 1, swaFull: 1,
	}
}

// checkDefaults compares the defaults that the library gave with the known ones.
func checkDefaults(m modelParams, c contextParams) error {
	if want := knownModelParams(); m != want {
		return &ABIError{Found: fmt.Sprintf("other defaults in llama_model_params (%+v, known %+v)", m, want), Fix: installFix}
	}
	if want := knownContextParams(); c != want {
		return &ABIError{Found: fmt.Sprintf("other defaults in llama_context_params (%+v, known %+v)", c, want), Fix: installFix}
	}
	return nil
}
