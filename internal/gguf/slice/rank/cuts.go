package rank

import (
	"fmt"
	"strings"
)

// Rows is a rank's part of the output head's rows.
func Rows(rows int, parts []int, rank int) (Span, error) {
	first, count, err := share(rows, vocabularyUnit(rows, len(parts)), parts, rank)
	if err != nil {
		return Span{}, fmt.Errorf("the vocabulary: %w", err)
	}
	return Span{uint64(first), uint64(count)}, nil
}

// vocabularyUnit keeps the cut at rows that the library's kernels take at once,
// where there are enough of them.
func vocabularyUnit(rows, ranks int) int {
	if rows%kernelRows == 0 && rows/kernelRows >= 4*ranks {
		return kernelRows
	}
	return 1
}

// kernelRows is a number of rows that every repacked matrix layout of the
// library divides.
const kernelRows = 32

// cuts are the places where a dimension of n units is cut in proportion to the
// parts: len(parts)+1 of them, each part at least one unit.
func cuts(n int, parts []int) ([]int, error) {
	if n < len(parts) {
		return nil, fmt.Errorf("%d blocks can't be shared by %d ranks; use %d ranks at most", n, len(parts), n)
	}
	var total, sum int
	for _, p := range parts {
		total += p
	}
	out := make([]int, len(parts)+1)
	for i, p := range parts {
		sum += p
		at := (2*n*sum + total) / (2 * total) // rounded
		// Leave one unit for each rank before and after.
		out[i+1] = min(max(at, out[i]+1), n-(len(parts)-1-i))
	}
	return out, nil
}

// share is a rank's part of size elements, cut at multiples of unit.
func share(size, unit int, parts []int, rank int) (first, count int, err error) {
	at, err := cuts(size/unit, parts)
	if err != nil {
		return 0, 0, err
	}
	return at[rank] * unit, (at[rank+1] - at[rank]) * unit, nil
}

// written prints parts as people write them: "2:1".
func written(parts []int) string {
	words := make([]string, len(parts))
	for i, p := range parts {
		words[i] = fmt.Sprint(p)
	}
	return strings.Join(words, ":")
}
