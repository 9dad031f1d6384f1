//go:build unix

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/gguftest"
)

// demoPath is the demo model's file.
func demoPath() string { return filepath.Join(filepath.Dir(program), "models", demo+".gguf") }

// demoBytes is the demo model.
func demoBytes(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile(demoPath())
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// changed is the demo model with other metadata: pairs that are there are
// replaced, others added.
func changed(t *testing.T, pairs ...gguf.KV) []byte {
	t.Helper()
	file := parsed(t)
	kvs := slices.Clone(file.Pairs())
next:
	for _, p := range pairs {
		for i := range kvs {
			if kvs[i].Key == p.Key {
				kvs[i] = p
				continue next
			}
		}
		kvs = append(kvs, p)
	}
	return written(t, file, kvs, file.Tensors())
}

// split is the demo model in n parts.
func split(t *testing.T, n int) [][]byte {
	t.Helper()
	file := parsed(t)
	tensors := file.Tensors()
	var out [][]byte
	for i := range n {
		kvs := []gguf.KV{
			gguftest.KV("split.no", uint16(i)), gguftest.KV("split.count", uint16(n)),
			gguftest.KV("split.tensors.count", int32(len(tensors))),
		}
		if i == 0 {
			kvs = append(slices.Clone(file.Pairs()), kvs...)
		}
		out = append(out, written(t, file, kvs, tensors[len(tensors)*i/n:len(tensors)*(i+1)/n]))
	}
	return out
}

func parsed(t *testing.T) *gguf.File {
	t.Helper()
	data := demoBytes(t)
	file, err := gguf.Parse(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// written encodes tensors of file under other metadata.
func written(t *testing.T, file *gguf.File, kvs []gguf.KV, tensors []gguf.Tensor) []byte {
	t.Helper()
	from := map[string]gguf.Tensor{}
	for _, x := range file.Tensors() {
		from[x.Name] = x
	}
	var b bytes.Buffer
	err := gguf.Write(&b, kvs, tensors, func(x gguf.Tensor) (io.Reader, error) { return file.Data(from[x.Name]), nil })
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// save writes a model into dir and gives its path.
func save(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name+".gguf")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// saveSplit writes the demo model as parts and gives their paths.
func saveSplit(t *testing.T, dir, name string, n int) []string {
	t.Helper()
	var paths []string
	for i, data := range split(t, n) {
		paths = append(paths, save(t, dir, fmt.Sprintf("%s-%05d-of-%05d", name, i+1, n), data))
	}
	return paths
}

// header is the start of a GGUF file: magic, version, and the two counts.
func header(version uint32, tensors, pairs uint64) []byte {
	b := binary.LittleEndian.AppendUint32([]byte("GGUF"), version)
	b = binary.LittleEndian.AppendUint64(b, tensors)
	return binary.LittleEndian.AppendUint64(b, pairs)
}
