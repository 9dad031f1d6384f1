//go:build unix

package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The questions that come with the demo model, each with a pattern. Rounding
// on another processor can flip a close call, so not all are asked for.
func TestDemoQuestions(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "models", "demo", "questions.json"))
	if err != nil {
		t.Fatal(err)
	}
	var questions []struct{ Question, Match string }
	if err := json.Unmarshal(data, &questions); err != nil {
		t.Fatal(err)
	}
	if len(questions) != 40 {
		t.Fatalf("%d questions, want 40", len(questions))
	}
	n := startDemo(t)
	right := 0
	for _, q := range questions {
		got := n.answer(demo, q.Question, "max_tokens", 128)
		if regexp.MustCompile(q.Match).MatchString(got) {
			right++
		} else {
			t.Logf("%q: %q does not match %q", q.Question, got, q.Match)
		}
	}
	if right < 36 {
		t.Errorf("%d of 40 answers are right, want at least 36", right)
	}
}

// A client may hand an answer back that was begun: it goes on as if it had not
// been interrupted. Tools that the model's template would drop are refused.
func TestAnswerThatWasBegun(t *testing.T) {
	n := startDemo(t)
	const question, begun = "Tell me what Skein does for me", "Skein joins your own"
	whole := n.answer(demo, question)
	if !strings.HasPrefix(whole, begun) {
		t.Skipf("this processor's rounding makes another answer: %q", whole)
	}
	rest := n.answer(demo, "", "messages", []map[string]string{{"role": "user", "content": question}, {"role": "assistant", "content": begun}})
	if begun+rest != whole {
		t.Errorf("%q goes on with %q, the whole answer is %q", begun, rest, whole)
	}
	r := n.post("/v1/chat/completions", ask(demo, question, "tools", []any{map[string]any{"type": "function", "function": map[string]any{"name": "now"}}}))
	r.want(t, 400, "unsupported_parameter", "takes no tools")
}

// A request that is alone and comes again gives the same text: greedy or with
// a seed, from a cached prompt or not, streamed or not.
func TestSameRequestSameText(t *testing.T) {
	n := startDemo(t)
	history := "Tell me what Skein does for me. " + strings.Repeat("My machines are two laptops and one desktop computer. ", 20)
	for _, tt := range []struct {
		name string
		more []any
	}{
		{"greedy", nil},
		{"seed", []any{"temperature", 1.2, "seed", 7}},
		{"seed and all samplers", []any{"temperature", 0.9, "seed", 42, "top_p", 0.95, "top_k", 60, "min_p", 0.01, "repeat_penalty", 1.1, "presence_penalty", 0.2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			body := append([]any{"max_tokens", 200, "ignore_eos", true}, tt.more...)
			first := n.answer(demo, history, body...)
			if len(first) < 100 {
				t.Fatalf("only %q", first)
			}
			for range 3 {
				if again := n.answer(demo, history, body...); again != first {
					t.Errorf("another text:\n%q\n%q", first, again)
				}
			}
			s := n.open("/v1/chat/completions", ask(demo, history, append([]any{"stream", true}, body...)...))
			text, refused, err := s.rest()
			if !errors.Is(err, errEnd) || refused != nil {
				t.Fatalf("the stream ended with %v, %+v", err, refused)
			}
			if text != first {
				t.Errorf("streamed:\n%q\nnot streamed:\n%q", text, first)
			}
		})
	}
	// The prompt did come from the cache.
	r := n.post("/v1/chat/completions", ask(demo, history, "max_tokens", 1))
	var c completion
	if err := json.Unmarshal([]byte(r.body), &c); err != nil || c.Usage == nil {
		t.Fatalf("%v: %s", err, r.body)
	}
	if c.Usage.PromptTokensDetails.CachedTokens == 0 {
		t.Errorf("nothing of a prompt of %d tokens was cached", c.Usage.PromptTokens)
	}
	// Another seed gives another text, or the seed would mean nothing.
	if a, b := n.answer(demo, history, "temperature", 1.2, "seed", 1, "max_tokens", 100), n.answer(demo, history, "temperature", 1.2, "seed", 2, "max_tokens", 100); a == b {
		t.Errorf("seeds 1 and 2 give the same text: %q", a)
	}
}

// A fresh node gives the text of another one.
func TestSameTextAfterRestart(t *testing.T) {
	body := []any{"temperature", 1, "seed", 11, "max_tokens", 100, "ignore_eos", true}
	var texts []string
	for range 2 {
		n := startDemo(t)
		texts = append(texts, n.answer(demo, "What is a cluster?", body...))
		n.stop()
	}
	if texts[0] != texts[1] {
		t.Errorf("two nodes, one request:\n%q\n%q", texts[0], texts[1])
	}
}
