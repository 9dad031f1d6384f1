package stage

import (
	"fmt"
	"strconv"
	"strings"
)

// Reason tells why an architecture's layers must not be cut; "" if they may.
func Reason(arch string) string { return ruleOf(arch).refuse }

// Single tells whether an architecture can be loaded as one stage of all its
// layers, fed with hidden states.
func Single(arch string) bool {
	r := ruleOf(arch)
	return r.refuse == "" || r.single
}

// Notes says what else there is to know about cutting an architecture's
// layers: models of it that are refused, places where they can't be cut, and
// stages that take more than their own layers.
func Notes(arch string) []string {
	r := ruleOf(arch)
	if r.refuse != "" {
		return nil
	}
	var notes []string
	if len(r.counts) > 0 {
		text := make([]string, len(r.counts))
		for i, n := range r.counts {
			text[i] = strconv.Itoa(n)
		}
		notes = append(notes, fmt.Sprintf("not with %s layers, which the library takes for another model, nor into stages of so many", strings.Join(text, " or ")))
	}
	if r.lite {
		notes = append(notes, "not into stages of 26, 27 or 48 layers that the library takes for a lite model")
	}
	if r.sections {
		notes = append(notes, "only with M-RoPE sections, without which the library takes no hidden states")
	}
	if r.indexer {
		notes = append(notes, "a stage begins with a layer that has its own indexer")
	}
	if arch == "nanbeige" {
		notes = append(notes, "not with num_loops above 1")
	}
	if r.pattern || arch == "lfm2" {
		notes = append(notes, "a stage without windowed layers, where the model has some, gets an empty one")
	}
	if r.recurrent || hybrid(arch) {
		notes = append(notes, "a stage without a recurrent or an attention layer gets an empty one")
	}
	if r.sparse {
		notes = append(notes, "a stage without a sparse layer gets an empty one")
	}
	if r.number != nil {
		notes = append(notes, "a stage that does not begin at a multiple of 4 may get up to 3 empty layers")
	}
	return notes
}

// hybrid tells whether an architecture has recurrent and attention layers, told
// apart by their numbers of heads.
func hybrid(arch string) bool {
	switch arch {
	case "bailingmoe3", "granitehybrid", "jamba", "kimi-linear", "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "plamo2":
		return true
	}
	return false
}
