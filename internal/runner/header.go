package runner

import (
	"os"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/hyper"
)

// parse reads the header of a model of one or more files. The files that it
// opened are the caller's to close, also after an error.
func parse(paths []string) (*gguf.Model, []*os.File, error) {
	var parts []*gguf.File
	var files []*os.File
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return nil, files, err
		}
		files = append(files, f)
		info, err := f.Stat()
		if err != nil {
			return nil, files, err
		}
		g, err := gguf.Parse(f, info.Size())
		if err != nil {
			return nil, files, err
		}
		parts = append(parts, g)
	}
	m, err := gguf.Join(parts...)
	return m, files, err
}

// exact tells whether a model's keys and values are kept in f32, which the
// estimates of its memory must agree on (hyper.Params.Exact). A file that only
// the library understands is not.
func exact(paths []string) bool {
	m, files, err := parse(paths)
	defer closeAll(files)
	if err != nil {
		return false
	}
	h, err := hyper.Read(m)
	return err == nil && h.Exact
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if err := f.Close(); err != nil {
			logLine(logWarn, err.Error())
		}
	}
}
