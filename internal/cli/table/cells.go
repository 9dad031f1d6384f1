package table

import (
	"strings"
	"unicode"

	xwidth "golang.org/x/text/width"
)

// cells is how many places of a terminal a rune takes: two for wide ones, such
// as Chinese and most emoji, none for those that join the one before.
func cells(r rune) int {
	switch {
	case r < 0x7f:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	}
	switch xwidth.LookupRune(r).Kind() {
	case xwidth.EastAsianWide, xwidth.EastAsianFullwidth:
		return 2
	}
	return 1
}

// Width counts the places that a text takes on a terminal: its colours take
// none.
func Width(text string) int {
	n := 0
	for text != "" {
		before, after, colour := strings.Cut(text, "\x1b[")
		for _, r := range before {
			n += cells(r)
		}
		if !colour {
			break
		}
		_, text, _ = strings.Cut(after, "m")
	}
	return n
}

// beginning is as much of a text as takes at most so many places.
func beginning(text string, width int) string {
	n := 0
	for i, r := range text {
		if n += cells(r); n > width {
			return text[:i]
		}
	}
	return text
}
