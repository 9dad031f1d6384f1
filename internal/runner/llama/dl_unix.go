//go:build !windows

package llama

import "github.com/ebitengine/purego"

// dlopen makes symbols global: the backends that ggml opens later resolve
// against them.
func dlopen(path string) (uintptr, error) {
	return purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_GLOBAL)
}

func dlsym(lib uintptr, name string) (uintptr, error) { return purego.Dlsym(lib, name) }

func progressCallback(h *progressHook) uintptr {
	return purego.NewCallback(func(done float32, _ uintptr) bool {
		h.call(float64(done))
		return true // false would end the load
	})
}
