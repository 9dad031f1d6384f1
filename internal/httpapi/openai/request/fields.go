package request

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/skein-run/skein/internal/httpapi"
)

// lacking tells whether OpenAI defines a field that this node does not have,
// and whether the value given is the field's default, which changes nothing.
func lacking(field string, value json.RawMessage) (defined, isDefault bool) {
	switch field {
	case "tools", "functions":
		return true, isEmptyArray(value)
	case "tool_choice", "function_call": // without tools both mean the same
		return true, isOneOf(value, "none", "auto")
	case "parallel_tool_calls":
		return true, string(value) == "true"
	case "response_format":
		return true, isText(value)
	case "modalities":
		return true, isTextOnly(value)
	case "store":
		return true, string(value) == "false"
	case "service_tier":
		return true, isOneOf(value, "auto", "default")
	case "verbosity":
		return true, isOneOf(value, "medium")
	case "prompt_cache_retention":
		return true, isOneOf(value, "in_memory")
	case "suffix":
		return true, string(value) == `""`
	case "audio", "prediction", "web_search_options", "moderation", "prompt_cache_options":
		return true, false
	}
	return false, false
}

// leftover judges the fields that nobody took: what OpenAI defines and we lack
// is refused unless it has its default; what nobody defines is noted.
func (d *Decoder) leftover(o *object) *httpapi.Error {
	if len(o.fields) == 0 {
		return nil
	}
	names := make([]string, 0, len(o.fields))
	for name := range o.fields {
		names = append(names, name)
	}
	slices.Sort(names) // the same request always gets the same error
	for _, name := range names {
		value := o.fields[name]
		if isNull(value) {
			continue
		}
		defined, isDefault := lacking(name, value)
		if defined && !isDefault {
			return unsupported(o.name(name), "is not supported by this node yet (given: %s): leave it out", Clip(value))
		}
		if !defined {
			d.strange.note(o.name(name))
		}
	}
	return nil
}

// strangers logs each unknown field name once. A client that invents names can
// neither fill the log nor the memory.
type strangers struct {
	log *slog.Logger

	mu   sync.Mutex
	seen map[string]struct{} // guarded by mu; at most maxStrangers
}

const (
	maxStrangers       = 256
	maxStrangerNameLen = 64
)

func (s *strangers) note(name string) {
	if len(name) > maxStrangerNameLen {
		name = strings.ToValidUTF8(name[:maxStrangerNameLen], "") + "..."
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.seen[name]; ok || len(s.seen) >= maxStrangers {
		return
	}
	if s.seen == nil {
		s.seen = map[string]struct{}{}
	}
	s.seen[name] = struct{}{}
	s.log.Info("a client sends a field that neither OpenAI's API nor this node knows; it is ignored", "field", name)
}

func isEmptyArray(raw json.RawMessage) bool {
	return raw[0] == '[' && len(bytes.TrimSpace(raw[1:len(raw)-1])) == 0
}

func isOneOf(raw json.RawMessage, values ...string) bool {
	var s string
	return json.Unmarshal(raw, &s) == nil && slices.Contains(values, s)
}

// isText recognizes {"type":"text"}.
func isText(raw json.RawMessage) bool {
	var format map[string]string
	return json.Unmarshal(raw, &format) == nil && len(format) == 1 && format["type"] == "text"
}

// isTextOnly recognizes ["text"].
func isTextOnly(raw json.RawMessage) bool {
	var all []string
	return json.Unmarshal(raw, &all) == nil && len(all) == 1 && all[0] == "text"
}
