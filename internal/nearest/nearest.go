// Package nearest finds what a person probably meant by a mistyped word. It is
// a leaf: it imports nothing of ours, holds no state, and any package may call
// it from any goroutine.
package nearest

import (
	"strings"

	"github.com/agnivade/levenshtein"
)

// maxWord bounds the work: the distance costs the product of both lengths.
const maxWord = 256

// Of gives the candidate with the smallest edit distance to word, without
// regard to case, or "" when none is close: more than a third of the letters,
// and more than two, would have to change. Of equals the first is taken. A
// candidate that word is the beginning of counts as close.
func Of(word string, candidates []string) string {
	w := strings.ToLower(word)
	if w == "" || len(w) > maxWord {
		return ""
	}
	limit := max(2, len([]rune(w))/3)
	best, bestDistance := "", limit+1
	for _, c := range candidates {
		lower := strings.ToLower(c)
		if len(lower) > maxWord {
			continue
		}
		distance := levenshtein.ComputeDistance(w, lower)
		if strings.HasPrefix(lower, w) {
			distance = min(distance, limit)
		}
		// Short words are all close to each other; at least one letter must stay.
		if distance < bestDistance && distance < len([]rune(lower)) {
			best, bestDistance = c, distance
		}
	}
	return best
}
