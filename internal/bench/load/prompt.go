package load

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Words are tokens of a model that are whole lower-case words with a space in
// front. A prompt of them has an exact number of tokens, is text to every
// tokenizer, and is new whenever its seed is.
type Words []int32

// minWords is how many there must be for prompts to differ.
const minWords = 50

// NewWords picks the words of a vocabulary, given as the texts of its tokens in
// the spelling of the file (a space is "Ġ" or "▁" there).
func NewWords(vocabulary []string) (Words, error) {
	var w Words
	for id, text := range vocabulary {
		word, ok := strings.CutPrefix(text, "Ġ")
		if !ok {
			if word, ok = strings.CutPrefix(text, "▁"); !ok {
				continue
			}
		}
		if len(word) >= 3 && strings.Trim(word, "abcdefghijklmnopqrstuvwxyz") == "" {
			w = append(w, int32(id))
		}
	}
	if len(w) < minWords {
		return nil, fmt.Errorf("the vocabulary has only %d English words; measure with a model that has text", len(w))
	}
	return w, nil
}

// Prompt gives n tokens, others for another seed.
func (w Words) Prompt(n int, seed uint64) []int32 {
	r := rand.New(rand.NewPCG(seed, 0x5eed))
	out := make([]int32, n)
	for i := range out {
		out[i] = w[r.IntN(len(w))]
	}
	return out
}

// Story is a text to be gone on with. Streams of one measurement get different
// ones.
func Story(n int) string {
	places := []string{"a lighthouse by the sea", "a village in the hills", "a city of glass", "an old mill", "a ship far from land", "a quiet valley", "a house full of clocks"}
	people := []string{"a girl who could talk to birds", "an old baker", "a boy with a map", "two sisters", "a tired king", "a doctor", "a captain without a crew", "a gardener", "a clockmaker"}
	return fmt.Sprintf("Chapter %d\n\nOnce upon a time, in %s, there lived %s. Every morning", n+1, places[n%len(places)], people[n%len(people)])
}

// Stories makes n requests of tokens each, over chat or plain completion.
func Stories(n, tokens int, chat bool) []Request {
	out := make([]Request, n)
	for i := range out {
		out[i] = Request{Prompt: Story(i), MaxTokens: tokens, IgnoreEnd: true}
		if chat {
			out[i].Prompt = ""
			out[i].Messages = []Message{{Role: "user", Content: "Go on with this story, and make it a long one: " + Story(i)}}
		}
	}
	return out
}
