package slice

import (
	"fmt"
	"strings"
)

// partsError says which parts would do instead.
func partsError(layers []*attention, parts []int) error {
	possible := possibleParts(layers, len(parts))
	var a *attention
	for _, l := range layers {
		if l != nil && (a == nil || l.groups < a.groups) {
			a = l
		}
	}
	what := fmt.Sprintf("parts %s do not give each rank whole KV heads (the model has %d of %d heads each)", written(parts), a.groups, a.heads/a.groups)
	if len(possible) == 0 {
		return fmt.Errorf("%s, and no parts for %d ranks do; use fewer ranks", what, len(parts))
	}
	words := make([]string, 0, 4)
	for _, p := range possible[:min(4, len(possible))] {
		words = append(words, written(p))
	}
	return fmt.Errorf("%s; use %s", what, strings.Join(words, " or "))
}

// possibleParts lists parts for so many ranks that fit all layers, the most
// even ones first.
func possibleParts(layers []*attention, ranks int) [][]int {
	return nil
}
