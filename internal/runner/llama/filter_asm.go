//go:build amd64 || arm64

package llama

// evalFilterAddr is the address of the callback in filter_*.s, a function of C's
// calling convention: bool(struct ggml_tensor *, bool ask, void *hooked).
var evalFilterAddr uintptr

func evalFilter() uintptr { return evalFilterAddr }
