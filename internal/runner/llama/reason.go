package llama

import (
	"regexp"
	"strings"
)

var (
	// inFunction is how the library begins its lines: with the function that says it.
	inFunction = regexp.MustCompile(`^llama_[a-z_]+: (error loading model: )?`)
	// unknownArchitecture is a model that is newer than the library, or no language model.
	unknownArchitecture = regexp.MustCompile(`unknown model architecture: '([^']*)'`)
)

// reason is why a model can't be loaded in words for a person, by the library's
// own: without the functions' names and what says nothing beside another line,
// and with what helps where that is known.
func reason(cause string) string {
	var out []string
	for line := range strings.SplitSeq(cause, "; ") {
		line = inFunction.ReplaceAllString(line, "")
		if line == "failed to load model" && len(out) > 0 {
			continue
		}
		out = append(out, line)
	}
	text := strings.Join(out, "; ")
	if unknownArchitecture.MatchString(text) {
		text += " (llama.cpp " + Version + " does not have it: a later release of skein may; until then use another model)"
	}
	return text
}
