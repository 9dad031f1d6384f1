//go:build unix

package e2e

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/gguftest"
)

// badModels are files that are found unusable without the library, each with
// words of the reason and of the fix.
func badModels(t *testing.T) map[string]struct {
	data []byte
	want []string
} {
	good := demoBytes(t)
	bigEndian := bytes.Clone(good[:64])
	binary.BigEndian.PutUint32(bigEndian[4:], 3)
	longKey := binary.LittleEndian.AppendUint64(header(3, 1, 1), 1<<62)
	longArray := append(header(3, 0, 1), "\x01\x00\x00\x00\x00\x00\x00\x00a"...)
	longArray = binary.LittleEndian.AppendUint32(longArray, 9) // array
	longArray = binary.LittleEndian.AppendUint32(longArray, 4) // of uint32
	longArray = binary.LittleEndian.AppendUint64(longArray, 1<<61)
	corrupt := bytes.Clone(good)
	for i := 40; i < 2000; i++ {
		corrupt[i] ^= 0xff
	}
	again := "download or convert it again"
	return map[string]struct {
		data []byte
		want []string
	}{
		"bad-truncated-header": {good[:30000], []string{again}},
		"bad-truncated-data":   {good[:len(good)/2], []string{again}},
		"bad-empty":            {nil, nil},
		"bad-web-page":         {[]byte("<html>404 not found</html>\n"), []string{"web page", "download"}},
		"bad-text":             {[]byte("weights to come\n"), []string{"GGUF"}},
		"bad-corrupt":          {corrupt, []string{again}},
		"bad-v1":               {append(header(1, 1, 1), good[24:]...), []string{"version 1"}},
		"bad-v99":              {append(header(99, 1, 1), good[24:]...), []string{"version 99"}},
		"bad-big-endian":       {bigEndian, []string{"big-endian"}},
		"bad-many-pairs":       {append(header(3, 1, 1<<60), good[24:1000]...), []string{again}},
		"bad-many-tensors":     {append(header(3, 1<<60, 1), good[24:1000]...), []string{again}},
		"bad-long-key":         {longKey, []string{again}},
		"bad-long-array":       {longArray, []string{again}},
	}
}

func TestBadModelFiles(t *testing.T) {
	dir := t.TempDir()
	models := badModels(t)
	for name, m := range models {
		save(t, dir, name, m.data)
	}
	n := start(t, options{args: []string{"--models-dir", dir, "--load", demo}})
	list := skein(t, n.home, "", "models", "list")
	list.want(t, 0, demo)
	for name, m := range models {
		t.Run(name, func(t *testing.T) {
			n.post("/v1/chat/completions", ask(name, "Hello")).want(t, http.StatusBadRequest, "invalid_value", append(m.want, name)...)
			line := lineWith(list.stdout, name+" cannot be used: ")
			if line == "" {
				t.Fatalf("'models list' says nothing of %s:\n%s", name, list.stdout)
			}
			contains(t, line, m.want...)
			path := filepath.Join(dir, name+".gguf")
			skein(t, t.TempDir(), "", "models", "add", path).want(t, 1, append(m.want, path)...)
			skein(t, t.TempDir(), "", "models", "show", path).want(t, 0, append(m.want, "problem")...)
		})
	}
	if r := n.get("/v1/models"); strings.Contains(r.body, "bad-") {
		t.Errorf("unusable models are offered: %s", r.body)
	}
	n.works()
	n.stop()
}

// lineWith gives the line of text that starts with prefix.
func lineWith(text, prefix string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			return line
		}
	}
	return ""
}

// Models whose header is in order, but which the library does not load.
func TestModelsThatDoNotLoad(t *testing.T) {
	dir := t.TempDir()
	save(t, dir, "unknown-arch", gguftest.Tiny{Arch: "weftnet"}.Bytes())
	// Two experts to use and none there: the library does not return an error
	// for this, it aborts.
	save(t, dir, "asserts", changed(t, gguftest.KV("llama.expert_used_count", uint32(2))))
	// The tensors say 256.
	save(t, dir, "contradicts", changed(t, gguftest.KV("llama.feed_forward_length", uint32(512))))
	n := start(t, options{args: []string{"--models-dir", dir, "--load", demo}})
	for name, want := range map[string][]string{
		"unknown-arch": {"unknown-arch", "weftnet"},
		"asserts":      {"asserts", "GGML_ASSERT"},
		"contradicts":  {"contradicts", "ffn_"},
	} {
		t.Run(name, func(t *testing.T) {
			n.post("/v1/chat/completions", ask(name, "Hello")).want(t, http.StatusServiceUnavailable, "service_unavailable", want...)
			// It is listed as failed, with the reason, and answers so at once.
			models := skein(t, n.home, "", "models")
			models.want(t, 0, name)
			contains(t, lineWith(models.stdout, name+" failed: "), want[1:]...)
			r := n.post("/v1/chat/completions", ask(name, "Hello"))
			r.want(t, http.StatusServiceUnavailable, "service_unavailable", want...)
			if r.header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			n.works()
		})
	}
	n.stop()
}

func TestLoadThatFailsEndsTheStart(t *testing.T) {
	dir := t.TempDir()
	save(t, dir, "asserts", changed(t, gguftest.KV("llama.expert_used_count", uint32(2))))
	n := launch(t, options{args: []string{"--models-dir", dir, "--load", "asserts"}})
	if code := n.exit(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	contains(t, n.stderr.String(), "asserts", "GGML_ASSERT")
	if _, err := os.Stat(n.addressFile()); err == nil {
		t.Error("the address file is left")
	}
}

func TestUnusableModelsDir(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dirs := map[string]string{"missing": filepath.Join(t.TempDir(), "none"), "a file": file}
	if os.Getuid() != 0 {
		locked := t.TempDir()
		if err := os.Chmod(locked, 0); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Chmod(locked, 0o700) }) // for TempDir's own removal
		dirs["locked"] = locked
	} else {
		t.Log("NOT RUN as root: a folder without permission to read")
	}
	for name, dir := range dirs {
		t.Run(name, func(t *testing.T) {
			n := start(t, options{args: []string{"--models-dir", dir}})
			contains(t, n.stderr.String(), dir, "--models-dir")
			n.works() // with the models that can be read
		})
	}
}

func TestTemplateThatThrows(t *testing.T) {
	dir := t.TempDir()
	save(t, dir, "throws", changed(t, gguftest.KV("tokenizer.chat_template", "{{ raise_exception('only poems, please') }}")))
	save(t, dir, "not-jinja", changed(t, gguftest.KV("tokenizer.chat_template", "{% for m in messages %}{{ m.content")))
	save(t, dir, "for-ever", changed(t, gguftest.KV("tokenizer.chat_template", "{% for i in range(1000000000) %}{{ i }}{% endfor %}")))
	n := start(t, options{args: []string{"--models-dir", dir, "--load", demo}})
	n.post("/v1/chat/completions", ask("throws", "Hello")).want(t, http.StatusBadRequest, "invalid_value", "only poems, please")
	if r := n.post("/v1/chat/completions", ask("not-jinja", "Hello")); r.status < 400 || !strings.Contains(r.body, "template") {
		t.Errorf("a template that does not compile: status %d: %s", r.status, r.body)
	}
	if r := n.post("/v1/chat/completions", ask("for-ever", "Hello")); r.status < 400 || !strings.Contains(r.body, "template") {
		t.Errorf("a template without end: status %d: %s", r.status, r.body)
	}
	// Plain completions need no template.
	if r := n.post("/v1/completions", `{"model":"throws","prompt":"Skein is","max_tokens":4}`); r.status != http.StatusOK {
		t.Errorf("completion: status %d: %s", r.status, r.body)
	}
	n.works()
	n.stop()
}

// A model larger than the machine: half a terabyte of nothing, in a sparse file.
func TestModelLargerThanMemory(t *testing.T) {
	file := parsed(t)
	giant := gguf.Tensor{Name: "giant.weight", Type: gguf.F32, Dims: 2, Shape: [4]uint64{1 << 20, 1 << 17, 1, 1}}
	head, laid, err := gguf.EncodeHeader(file.Pairs(), append(slices.Clone(file.Tensors()), giant))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	last := laid[len(laid)-1]
	if err := os.Truncate(save(t, dir, "giant", head), int64(len(head))+last.Offset+last.Bytes); err != nil {
		t.Skipf("NOT RUN: this file system has no sparse files of half a terabyte: %v", err)
	}
	n := start(t, options{args: []string{"--models-dir", dir, "--load", demo}})
	r := n.post("/v1/chat/completions", ask("giant", "Hello"))
	r.want(t, http.StatusInsufficientStorage, "insufficient_memory", "giant", "Need", "have", "GB", demo)
	n.works()
}
