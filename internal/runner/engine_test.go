package runner

import (
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/runner/wire"
)

func greedy() wire.Sampling {
	s := wire.NeutralSampling()
	s.Temperature = 0
	return s
}

func chatML(question string) string {
	return "<|im_start|>user\n" + question + "<|im_end|>\n<|im_start|>assistant\n"
}

func TestDemoModelAnswers(t *testing.T) {
	c := startChild(t)
	info := c.load(wire.LoadRequest{Paths: []string{demoModel(t)}, Slots: 4, Context: 512, Threads: 2, PendingLimit: 64, CacheBytes: 64 << 20})
	if info.Layers != 4 || info.Vocabulary != 2048 || info.ChatTemplate == "" || info.Memory != "attention" {
		t.Errorf("model info %+v", info)
	}
	ids := c.tokenize("Hi <|im_end|>")
	c.ref++
	if err := c.conn.Send(wire.TypeText, c.ref, wire.AppendIDs(nil, ids)); err != nil {
		t.Fatal(err)
	}
	if f, err := c.conn.Read(); err != nil || f.Type != wire.TypeText || string(f.Body) != "Hi <|im_end|>" {
		t.Errorf("text %q of %v, %v", f.Body, ids, err)
	}
	a := c.generate(wire.GenerateRequest{ID: 1, Prompt: c.tokenize(chatML("What is the capital of France?")), Sampling: greedy(), MaxTokens: 40})[1]
	if !strings.Contains(a.text, "Paris") || a.done.Reason != wire.ReasonStop {
		t.Errorf("answer %q, %+v", a.text, a.done)
	}
	if a.done.Generated != len(a.tokens) {
		t.Errorf("%d tokens counted, %d sent", a.done.Generated, len(a.tokens))
	}
}
