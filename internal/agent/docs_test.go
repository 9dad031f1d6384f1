package agent

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the lists of docs/mcp.md")

// The lists of tools and resources in docs/mcp.md are those of the server.
// `go test ./internal/agent -update` writes them anew.
func TestDocs(t *testing.T) {
	s := newFakeNode(t).session(t, nil)
	var b strings.Builder
	tools, err := s.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(&b, "\n| tool | arguments | it |\n|---|---|---|\n")
	for _, tool := range tools.Tools {
		var schema struct {
			Properties map[string]any
			Required   []string
		}
		data, err := json.Marshal(tool.InputSchema)
		if err == nil {
			err = json.Unmarshal(data, &schema)
		}
		if err != nil {
			t.Fatal(err)
		}
		var arguments []string
		for name := range schema.Properties {
			if slices.Contains(schema.Required, name) {
				name = "**" + name + "**"
			}
			arguments = append(arguments, name)
		}
		slices.SortFunc(arguments, func(a, b string) int {
			if x, y := strings.HasPrefix(a, "*"), strings.HasPrefix(b, "*"); x != y {
				return map[bool]int{true: -1, false: 1}[x]
			}
			return strings.Compare(a, b)
		})
		a := tool.Annotations
		effect := "reads"
		switch {
		case a.ReadOnlyHint:
		case *a.DestructiveHint:
			effect = "**takes away**"
		case a.IdempotentHint:
			effect = "adds"
		default:
			effect = "acts"
		}
		fmt.Fprintf(&b, "| `%s` (%s) | %s | %s |\n", tool.Name, effect, strings.Join(arguments, ", "), tool.Description)
	}
	fmt.Fprint(&b, "\n| resource | |\n|---|---|\n")
	resources, err := s.ListResources(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range resources.Resources {
		fmt.Fprintf(&b, "| `%s` | %s |\n", r.URI, r.Description)
	}
	templates, err := s.ListResourceTemplates(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range templates.ResourceTemplates {
		fmt.Fprintf(&b, "| `%s` | %s |\n", r.URITemplate, r.Description)
	}
	fmt.Fprintln(&b)

	file := filepath.Join("..", "..", "docs", "mcp.md")
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(page), "<!-- lists -->\n")
	old, after, ended := strings.Cut(rest, "<!-- end of lists -->\n")
	if !found || !ended {
		t.Fatalf("%s has no place for the lists", file)
	}
	if *update {
		whole := before + "<!-- lists -->\n" + b.String() + "<!-- end of lists -->\n" + after
		if err := os.WriteFile(file, []byte(whole), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if old != b.String() {
		t.Errorf("the lists in %s are not those of the server; run go test ./internal/agent -update", file)
	}
}
