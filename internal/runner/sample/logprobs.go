package sample

import "slices"

// Logprob is the log-probability of a token in the model's own distribution,
// before any bias, penalty or temperature, as OpenAI's API reports it.
type Logprob struct {
	Token   int32
	Logprob float32 // natural logarithm
}

// Logprobs gives the log-probability of token and of the n most likely ones,
// most likely first. From the parts that Need asked for they are the same, to
// the last bit, as from the whole row; false: the row does not tell them.
func Logprobs(row *Row, token int32, n int) (Logprob, []Logprob, bool) {
	var top []Candidate
	own := Candidate{Token: token}
	m := row.Mass
	if row.Full != nil {
		p := Extract(Need{Top: max(n, 1), Mass: true}, 0, row.Full)
		top, m, own.Logit = p.Top, p.Mass, row.Full[token]
	} else {
		is := func(c Candidate) bool { return c.Token == token }
		top = row.Top
		i, j := slices.IndexFunc(top, is), slices.IndexFunc(row.Named, is)
		switch {
		case j >= 0:
			own = row.Named[j]
		case i >= 0:
			own = top[i]
		default:
			return Logprob{}, nil, false
		}
	}
	z, ok := m.log()
	if !ok && row.Full == nil {
		return Logprob{}, nil, false
	}
	at := func(c Candidate) Logprob {
		if !ok {
			// Nothing can be normalized: the token was alone with its logit.
			return Logprob{Token: c.Token}
		}
		return Logprob{Token: c.Token, Logprob: float32(float64(c.Logit) - z)}
	}
	if n <= 0 {
		return at(own), nil, true
	}
	out := make([]Logprob, min(n, len(top)))
	for i := range out {
		out[i] = at(top[i])
	}
	return at(own), out, true
}
