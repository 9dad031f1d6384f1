package llama

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// backendFile is a library of a kind of device.
var backendFile = regexp.MustCompile(`^(?:lib)?ggml-([a-z]+)\.(?:so|dylib|dll)$`)

// deviceless are parts of ggml, and backends that have no devices of this
// machine.
var deviceless = []string{"base", "cpu", "rpc"}

// Idle says for each backend in the library's folder that shows no device, why
// not as far as can be told: ggml passes over what it cannot load in silence.
func (l *Library) Idle() []string {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return []string{fmt.Sprintf("the folder %s cannot be read again: %v", l.dir, err)}
	}
	var out []string
	for _, e := range entries {
		m := backendFile.FindStringSubmatch(e.Name())
		if m == nil || l.shows(m[1]) {
			continue
		}
		if _, err := dlopen(filepath.Join(l.dir, e.Name())); err != nil {
			out = append(out, fmt.Sprintf("the %s backend cannot be loaded: %v", m[1], err))
			continue
		}
		out = append(out, fmt.Sprintf("the %s backend finds no device", m[1]))
	}
	return out
}

// shows tells whether a backend, as its file calls it, has a device, or needs none.
func (l *Library) shows(backend string) bool {
	for _, name := range deviceless {
		if backend == name {
			return true
		}
	}
	for _, d := range l.Devices() {
		if is := strings.ToLower(d.Backend); is == backend || backend == "metal" && is == "mtl" || backend == "hip" && is == "rocm" {
			return true
		}
	}
	return false
}
