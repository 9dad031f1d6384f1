package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

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
	if errors.Is(err, fs.ErrNotExist) && !asked {
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
	doc, err := parser.ParseBytes(data, 0)
	if err != nil {
		// The library adds an excerpt of the source, and that may be a secret.
		first, _, _ := strings.Cut(err.Error(), "\n")
		return nil, &Error{Source: name, Reason: "this is not YAML: " + first}
	}
	if len(doc.Docs) > 1 {
		return nil, &Error{Source: name, Reason: "more than one YAML document; write one"}
	}
	if len(doc.Docs) == 0 || doc.Docs[0].Body == nil {
		return f, nil
	}
	var pairs []*ast.MappingValueNode
	switch body := doc.Docs[0].Body.(type) {
	case *ast.MappingNode:
		pairs = body.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{body}
	case *ast.CommentGroupNode, *ast.NullNode:
		return f, nil
	default:
		return nil, &Error{Source: name, Reason: "expected one \"flag: value\" a line, such as \"slots: 4\""}
	}
	options := map[string]Option{}
	names := []string{}
	for _, o := range Table() {
		options[o.Name] = o
		names = append(names, o.Name)
	}
	for _, pair := range pairs {
		key := pair.Key.GetToken().Value
		line := pair.Key.GetToken().Position.Line
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
		values, err := scalars(o, pair.Value)
		if err != nil {
			return nil, &Error{Option: key, Source: at, Reason: err.Error()}
		}
		f.entries[key] = entry{values: values, line: line}
	}
	return f, nil
}

// scalars gives the text of a value, or of the entries of a list.
func scalars(o Option, node ast.Node) ([]string, error) {
	if seq, ok := node.(*ast.SequenceNode); ok {
		if !o.Repeatable {
			return nil, fmt.Errorf("%s takes one value, not a list", o.Name)
		}
		values := make([]string, 0, len(seq.Values))
		for _, v := range seq.Values {
			text, ok := scalar(v)
			if !ok {
				return nil, fmt.Errorf("%s must be a list of plain values", o.Name)
			}
			values = append(values, text)
		}
		return values, nil
	}
	text, ok := scalar(node)
	if !ok {
		if o.Repeatable {
			return nil, fmt.Errorf("%s must be a value or a list of values", o.Name)
		}
		return nil, fmt.Errorf("%s must be one plain value", o.Name)
	}
	return []string{text}, nil
}

// scalar gives a value as it is written: "010" stays "010" for a name and is
// refused or read by the option's own rules.
func scalar(node ast.Node) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return node.GetToken().Value, true
	}
	return "", false
}
