package engine

import (
	"errors"
	"testing"
)

func TestLastWords(t *testing.T) {
	for name, c := range map[string]struct{ stderr, want string }{
		"an error that it told": {"I loaded\nE no such model\nI bye\n", "no such model"},
		"a crash in a library":  {"I load_backend\nSIGBUS: bus error\nPC=0x1 m=0\n\ngoroutine 1:\nrax 0x0\ngs     0x0\n", "it crashed (SIGBUS: bus error); a library there is damaged, or a driver is: install them again, or try `skein engine install --backend cpu`"},
		"an assertion":          {"a.cpp:1: GGML_ASSERT(x) failed\nmore\n", "it crashed (a.cpp:1: GGML_ASSERT(x) failed)"},
		"its last line":         {"one\ntwo\n\n", "two"},
		"nothing":               {"", "exit status 1"},
	} {
		if got := LastWords(c.stderr, errors.New("exit status 1")); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestSaid(t *testing.T) {
	const stderr = "I ggml_cuda: no\nggml_vulkan: Invalid device index 7 in GGML_VK_VISIBLE_DEVICES.\nI load_backend: loaded\n"
	for problem, want := range map[string]string{
		"the vulkan backend finds no device": " (it says: Invalid device index 7 in GGML_VK_VISIBLE_DEVICES.)",
		"the sycl backend finds no device":   "",
	} {
		if got := said(stderr, problem); got != want {
			t.Errorf("%s: %q", problem, got)
		}
	}
}
