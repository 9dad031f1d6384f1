package sample

import "math"

// Logprob is the log-probability of a token in the model's own distribution,
// before any bias, penalty or temperature, as OpenAI's API reports it.
type Logprob struct {
	Token   int32
	Logprob float32 // natural logarithm
}

// Logprobs gives the log-probability of token and of the n most likely ones,
// most likely first.
func Logprobs(logits []float32, token int32, n int) (Logprob, []Logprob) {
	best := logits[argmax(logits)]
	sum := 0.0
	for _, l := range logits {
		if l == l {
			sum += float64(exp32(l - best))
		}
	}
	norm := float64(best) + math.Log(sum)
	at := func(t int32) Logprob {
		return Logprob{Token: t, Logprob: float32(float64(logits[t]) - norm)}
	}
	if n <= 0 {
		return at(token), nil
	}
	top := topK(make([]candidate, 0, min(n, len(logits))), logits, min(n, len(logits)))
	out := make([]Logprob, len(top))
	for i, c := range top {
		out[i] = at(c.token)
	}
	return at(token), out
}
