package sample

// Need is what a draw has to know of a row of logits. A rank that computes a
// part of the vocabulary sends that much of its part (Extract), and no more.
type Need struct {
	// Full asks for the whole row; the other fields are zero then.
	Full bool
	// Top is how many of the best tokens are wanted: of each part, and of the
	// whole.
	Top int
	// Named are tokens whose logits are wanted in any case, in rising order.
	Named []int32
	// Mass asks for the mass at temperature 1, for nucleus and logprobs.
	Mass bool
	// Warm > 0 asks for the mass at that temperature, for a draw without filters.
	Warm float32
}

// Candidate is a token with its logit.
type Candidate struct {
	Token int32
	Logit float32
}

// Part is what is told of a part of a row, or of the whole.
type Part struct {
	Top   []Candidate // best first, ties by the lower token
	Named []Candidate // in rising order of token
	Mass  Mass        // with Need.Mass
	Warm  Mass        // with Need.Warm
}

// Row is a row of logits as a backend gives it: whole, or what was needed.
type Row struct {
	// Full is the row, one logit for each token of the vocabulary; nil: only
	// Part is known. It is not changed.
	Full []float32
	Part
}
