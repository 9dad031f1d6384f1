package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/bytesize"
	"github.com/skein-run/skein/internal/cli/clustercmd"
	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/cli/table"
)

// library is the list of model files, behind a node or on this machine's disk.
type library interface {
	List(ctx context.Context) ([]api.LibraryEntry, error)
	Add(ctx context.Context, paths []string) ([]api.LibraryEntry, error)
	Show(ctx context.Context, name string, contextLength, slots int) (api.LibraryModel, error)
	Remove(ctx context.Context, name string) (api.LibraryEntry, error)
}

// newModelsCommand makes `skein models` and what is below it.
func newModelsCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := command.Group(&cobra.Command{
		Use:        "models",
		SuggestFor: []string{"ps", "model"},
		Short:      "Show what is loaded; load, unload and swap; list and add model files",
		Long: `Show the models that are loaded and those being fetched; load, unload and swap
them. The subcommands list, add, show and remove are about the model files there
are; they work with and without a running node.`,
	}, func(cmd *cobra.Command) error { return a.clusterEnv().Loaded(cmd.Context(), asJSON) },
		newModelsListCommand(a), newModelsAddCommand(a), newModelsShowCommand(a), newModelsRemoveCommand(a))
	command.JSONFlag(cmd, &asJSON)
	cmd.AddCommand(clustercmd.Models(a.clusterEnv())...)
	return cmd
}

func newModelsListCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:        "list",
		SuggestFor: []string{"list", "ls"},
		Short:      "List the model files there are",
		Long: `List the model files of the cluster and which nodes have them, or of this
machine when no node is running. The paths in --json are those of the node that
is asked.`,
		Args: command.Need(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			files, err := a.openLibrary(cmd.Context())
			if err != nil {
				return err
			}
			entries, err := files.List(cmd.Context())
			if err != nil {
				return explain(err)
			}
			if asJSON {
				return a.printJSON(orEmpty(entries))
			}
			return a.printEntries(entries)
		},
	}
	command.JSONFlag(cmd, &asJSON)
	return cmd
}

// printEntries is the table of files; what is wrong with one stands below it.
func (a *app) printEntries(entries []api.LibraryEntry) error {
	width, _ := size(a.Stdout)
	if len(entries) == 0 {
		return table.Print(a.Stdout, table.Wrap("There is no model. Add one with 'skein models add FILE.gguf'.", width, 0)...)
	}
	shared := severalHolders(entries)
	head := []string{"NAME", "SIZE", "ARCHITECTURE", "QUANT", "PARAMETERS", "CONTEXT", "FROM"}
	if shared {
		head = append(head, "NODES")
	}
	g := table.New(head...).Right(1, 4, 5)
	g.Drop(4)
	if shared {
		g.Cut(7, 16)
	}
	g.Cut(6, 10).Cut(0, 24).Cut(2, 12).Drop(2).Drop(5).Cut(0, 12).Drop(3).Drop(6).Cut(0, 8)
	for _, e := range entries {
		from := e.Source
		if e.Source == api.SourceNodes {
			from = "other nodes"
		}
		if e.Problem != "" {
			from += " (cannot be used)"
		}
		cells := []table.Cell{
			table.T(e.Name), table.T(bytesize.Format(e.SizeBytes)), table.T(cmp.Or(e.Architecture, "-")), table.T(cmp.Or(e.Quantization, "-")),
			table.T(short(e.Parameters)), table.T(count(e.ContextLength)), table.T(from),
		}
		if shared {
			cells = append(cells, table.T(strings.Join(e.NodeNames, ", ")))
		}
		g.Add(cells...)
	}
	lines := g.Lines(width, a.styled())
	for _, e := range entries {
		if e.Problem != "" {
			lines = append(lines, table.Wrap(table.Visible(e.Name+" cannot be used: "+e.Problem), width, 2)...)
		}
	}
	return table.Print(a.Stdout, lines...)
}

// severalHolders tells that more than one node has files: then it matters who.
func severalHolders(entries []api.LibraryEntry) bool {
	holders := map[string]bool{}
	for _, e := range entries {
		for _, id := range e.Nodes {
			holders[id] = true
		}
	}
	return len(holders) > 1
}

func newModelsAddCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:        "add FILE...",
		SuggestFor: []string{"add", "pull", "import", "create"},
		Short:      "List model files of yours, where they are",
		Long: `List .gguf files, without copying them. Any part of a split file stands for the
whole. A running node lists them before the command returns.`,
		Args: command.Need(1, -1, "say which file: skein models add FILE.gguf"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"gguf"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			paths := make([]string, len(args))
			for i, arg := range args {
				abs, err := filepath.Abs(arg)
				if err != nil {
					return fmt.Errorf("find %s: %w", arg, err)
				}
				// A node elsewhere has files of its own.
				if _, err := os.Stat(abs); err != nil && !a.remote() {
					return fmt.Errorf("add %s: %w; check the path", arg, err)
				}
				paths[i] = abs
			}
			files, err := a.openLibrary(cmd.Context())
			if err != nil {
				return err
			}
			entries, err := files.Add(cmd.Context(), paths)
			if err != nil {
				return explain(err)
			}
			if asJSON {
				return a.printJSON(orEmpty(entries))
			}
			for _, e := range entries {
				a.note("added %s (%s)", e.Name, bytesize.Format(e.SizeBytes))
			}
			return nil
		},
	}
	command.JSONFlag(cmd, &asJSON)
	return cmd
}

func newModelsShowCommand(a *app) *cobra.Command {
	var asJSON bool
	var contextLength, slots int
	cmd := &cobra.Command{
		Use:               "show NAME",
		SuggestFor:        []string{"show", "info", "inspect"},
		Short:             "Show a model's metadata, chat template and memory",
		Args:              command.Need(1, 1, "say which model: skein models show NAME"),
		ValidArgsFunction: a.completeModels,
		RunE: func(cmd *cobra.Command, args []string) error {
			if contextLength < 0 || slots < 0 {
				return command.Usage(cmd, "--context and --slots must not be negative")
			}
			files, err := a.openLibraryFor(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			m, err := files.Show(cmd.Context(), args[0], contextLength, slots)
			if err != nil {
				return explain(err)
			}
			if asJSON {
				return a.printJSON(m)
			}
			return a.printModel(m)
		},
	}
	cmd.Flags().IntVar(&contextLength, "context", 0, "tokens of each slot, for the estimate of memory")
	cmd.Flags().IntVar(&slots, "slots", 0, "requests at once, for the estimate of memory")
	command.JSONFlag(cmd, &asJSON)
	return cmd
}

// printModel is `models show` for a person.
func (a *app) printModel(m api.LibraryModel) error {
	rows := [][]string{
		{"name", m.Name},
		{"files", strings.Join(m.Paths, "\n")},
		{"size", bytesize.Format(m.SizeBytes)},
		{"architecture", m.Architecture},
		{"quantization", m.Quantization},
		{"parameters", short(m.Parameters)},
		{"trained context", count(m.ContextLength)},
		{"from", m.Source},
	}
	if m.Problem != "" {
		rows = append(rows, []string{"problem", m.Problem})
	}
	// Continuation lines of a value keep the column free.
	var flat [][]string
	for _, row := range rows {
		for i, line := range strings.Split(row[1], "\n") {
			key := row[0]
			if i > 0 {
				key = ""
			}
			flat = append(flat, []string{key, line})
		}
	}
	if err := table.Columns(a.Stdout, flat); err != nil {
		return err
	}
	if memory := m.Memory; memory != nil {
		fmt.Fprintf(a.Stdout, "\nMemory for %d slots of %s tokens (estimate)\n", memory.Slots, count(memory.ContextLength))
		parts := [][]string{{"  weights", bytesize.Format(memory.WeightsBytes)}, {"  attention cache", bytesize.Format(memory.KVBytes)}}
		if memory.RecurrentBytes > 0 {
			parts = append(parts, []string{"  recurrent states", bytesize.Format(memory.RecurrentBytes)})
		}
		parts = append(parts, []string{"  computing", bytesize.Format(memory.ComputeBytes)}, []string{"  total", bytesize.Format(memory.TotalBytes)})
		if err := table.Columns(a.Stdout, parts, 1); err != nil {
			return err
		}
	}
	fmt.Fprintln(a.Stdout, "\nMetadata")
	metadata := make([][]string, len(m.Metadata))
	for i, kv := range m.Metadata {
		metadata[i] = []string{"  " + kv.Key, kv.Type, oneLine(kv.Value, 80)}
	}
	if err := table.Columns(a.Stdout, metadata); err != nil {
		return err
	}
	fmt.Fprintln(a.Stdout, "\nChat template")
	if m.ChatTemplate == "" {
		fmt.Fprintln(a.Stdout, "  (none: ChatML is used)")
		return nil
	}
	fmt.Fprintln(a.Stdout, visible(strings.TrimRight(m.ChatTemplate, "\n")))
	return nil
}

func newModelsRemoveCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "remove NAME",
		SuggestFor:        []string{"remove", "rm", "delete"},
		Aliases:           []string{"rm"},
		Short:             "Take a model off the list; its file stays",
		Args:              command.Need(1, 1, "say which model: skein models remove NAME"),
		ValidArgsFunction: a.completeModels,
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := a.openLibrary(cmd.Context())
			if err != nil {
				return err
			}
			entry, err := files.Remove(cmd.Context(), args[0])
			if err != nil {
				return explain(err)
			}
			if asJSON {
				return a.printJSON(entry)
			}
			a.note("removed %s from the list; %s stays where it is", entry.Name, strings.Join(entry.Paths, ", "))
			return nil
		},
	}
	command.JSONFlag(cmd, &asJSON)
	return cmd
}

// remote says whether the user named a node, which may be on another machine.
func (a *app) remote() bool {
	return a.flagOr(a.host, "SKEIN_HOST") != "" || a.flagOr(a.port, "SKEIN_PORT") != ""
}

// openLibrary gives the running node's library, or the one on disk.
func (a *app) openLibrary(ctx context.Context) (library, error) {
	node, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	if node != nil {
		return node.Library(), nil
	}
	return a.openLocalLibrary()
}

// openLibraryFor is openLibrary, but a file that is named by its path is read
// here: a node shows only what it lists.
func (a *app) openLibraryFor(ctx context.Context, name string) (library, error) {
	path, err := command.ModelFiles(name)
	if err != nil {
		return nil, err
	}
	if len(path) > 0 && !a.remote() {
		return a.openLocalLibrary()
	}
	return a.openLibrary(ctx)
}

// completeModels offers model names to the shell. Completion has no way to
// show an error, so there are no offers instead.
func (a *app) completeModels(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	a.quiet = true
	files, err := a.openLibrary(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	entries, err := files.List(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var names []string
	for _, e := range entries {
		if len(e.Name) >= len(word) && strings.EqualFold(e.Name[:len(word)], word) {
			names = append(names, e.Name)
		}
	}
	slices.Sort(names)
	return names, cobra.ShellCompDirectiveDefault
}

func orEmpty(entries []api.LibraryEntry) []api.LibraryEntry {
	if entries == nil {
		return []api.LibraryEntry{}
	}
	return entries
}

// count prints a number, "-" when it is not known.
func count(n int) string {
	if n <= 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

// short prints a number of weights: "135M", "1.7B".
func short(n uint64) string {
	for _, u := range []struct {
		size   float64
		letter string
	}{{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "K"}} {
		if v := float64(n) / u.size; v >= 1 {
			if v >= 10 {
				return fmt.Sprintf("%.0f%s", v, u.letter)
			}
			return fmt.Sprintf("%.1f%s", v, u.letter)
		}
	}
	return count(int(n))
}

// oneLine shortens a value for a table.
func oneLine(s string, width int) string {
	s = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		return r
	}, visible(s))
	if runes := []rune(s); len(runes) > width {
		return string(runes[:width-3]) + "..."
	}
	return s
}

// visible keeps the control characters of a file's texts off the terminal.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return '�'
		}
		return r
	}, s)
}
