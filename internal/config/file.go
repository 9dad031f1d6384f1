package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"

	"github.com/skein-run/skein/internal/nearest"
)

// maxFileBytes bounds a configuration file; a real one has a few lines.
const maxFileBytes = 1 << 20

// File is a read configuration file: values by option, with their lines.
type File struct {
	name    string // as errors call it
	dir     string // that relative paths start from
	entries map[string]entry
}

type entry struct {
	values []string
	line   int
}

// Load reads the file at path. A file that does not exist is an error only
// when it was asked for; the default one may be missing, and gives nil.
func Load(path string, asked bool) (*File, error) {
	info, err := os.Stat(path)
	// Below something that is no folder there is no file either; whoever makes
	// SKEIN_HOME says what is wrong with it.
	if !asked && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	if info.Size() > maxFileBytes {
		return nil, &Error{Source: path, Reason: "the file is too large for a configuration"}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	return Parse(path, filepath.Dir(abs), data)
}

// Parse reads a configuration: a YAML mapping from flag names to values, with
// lists for repeatable options. name is what errors call it; dir is where its
// relative paths start.
func Parse(name, dir string, data []byte) (*File, error) {
	f := &File{name: name, dir: dir, entries: map[string]entry{}}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := decoder.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return f, nil
	}
	if err == nil {
		if next := decoder.Decode(&second); !errors.Is(next, io.EOF) {
			return nil, &Error{Source: name, Reason: "more than one YAML document; write one"}
		}
	}
	if err != nil || len(doc.Content) != 1 {
		return nil, &Error{Source: name, Reason: syntaxReason(err)}
	}
	body := doc.Content[0]
	if body.Kind == yaml.ScalarNode && body.Tag == "!!null" {
		return f, nil
	}
	if body.Kind != yaml.MappingNode {
		return nil, &Error{Source: name, Reason: "expected one \"flag: value\" a line, such as \"slots: 4\""}
	}
	options := map[string]Option{}
	names := []string{}
	for _, o := range Table() {
		options[o.Name] = o
		names = append(names, o.Name)
	}
	for i := 0; i+1 < len(body.Content); i += 2 {
		key, line := body.Content[i].Value, body.Content[i].Line
		at := fmt.Sprintf("%s:%d", name, line)
		o, known := options[key]
		if !known {
			reason := fmt.Sprintf("unknown key %q", key)
			if near := nearest.Of(key, names); near != "" {
				reason += fmt.Sprintf("; did you mean %q?", near)
			}
			return nil, &Error{Source: at, Reason: reason}
		}
		if _, twice := f.entries[key]; twice {
			return nil, &Error{Option: key, Source: at, Reason: key + " is given twice"}
		}
		values, err := scalars(o, body.Content[i+1])
		if err != nil {
			return nil, &Error{Option: key, Source: at, Reason: err.Error()}
		}
		f.entries[key] = entry{values: values, line: line}
	}
	return f, nil
}

// syntaxReason says in one line what the parser did not like. Its words name
// places and characters but quote no values, which may be secrets.
func syntaxReason(err error) string {
	if err == nil {
		return "this is not YAML"
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "yaml: "), "\n")
	return "this is not YAML: " + first
}

// scalars gives the text of a value, or of the entries of a list.
func scalars(o Option, node *yaml.Node) ([]string, error) {
	if node.Kind == yaml.SequenceNode {
		if !o.Repeatable {
			return nil, fmt.Errorf("%s takes one value, not a list", o.Name)
		}
		values := make([]string, 0, len(node.Content))
		for _, v := range node.Content {
			if !isScalar(v) {
				return nil, fmt.Errorf("%s must be a list of plain values", o.Name)
			}
			values = append(values, v.Value)
		}
		return values, nil
	}
	switch {
	case isScalar(node):
		return []string{node.Value}, nil
	case o.Repeatable:
		return nil, fmt.Errorf("%s must be a value or a list of values", o.Name)
	}
	return nil, fmt.Errorf("%s must be one plain value", o.Name)
}

// isScalar tells a plain value, which is then taken as it is written: what
// "010" means is for the option to say.
func isScalar(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.Tag != "!!null"
}
