package supervise

import "testing"

func TestWhatIsWorthAWarning(t *testing.T) {
	for line, want := range map[string]bool{
		"W load: control-looking token": true, "E out of memory": true, "error: no": true, "ggml.c:1: GGML_ASSERT(x) failed": true,
		"load: done": false, "Wow": false, "": false,
		"W load: adding 49152 dummy tokens": false, "W load: adding 3 dummy tokens failed": true,
	} {
		if got := isWarning(line); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}
