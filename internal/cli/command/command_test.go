package command

import (
	"bytes"
	"errors"
	"testing"

	"github.com/spf13/cobra"
)

// tree is a program with one group, `prog group`, of two commands.
func tree(alone func(*cobra.Command) error) *cobra.Command {
	leaf := func(use string) *cobra.Command {
		return &cobra.Command{Use: use, Args: Need(1, 1, "say which"), RunE: func(*cobra.Command, []string) error { return nil }}
	}
	load := leaf("load NAME")
	load.SuggestFor = []string{"pull"}
	load.Flags().Bool("wait", false, "")
	root := Group(&cobra.Command{Use: "prog", SilenceUsage: true, SilenceErrors: true}, nil,
		Group(&cobra.Command{Use: "group"}, alone, load, leaf("show NAME")))
	Explain(root)
	return root
}

// What is typed wrong is a UsageError that names the fix and the command whose
// help tells more.
func TestMistakes(t *testing.T) {
	for _, c := range []struct {
		args          []string
		want, command string
	}{
		{[]string{"grup"}, `there is no command "grup"; did you mean "prog group"?`, "prog"},
		{[]string{"group", "laod"}, `there is no command "laod"; did you mean "prog group load"?`, "prog group"},
		{[]string{"group", "xyzzyx"}, `there is no command "xyzzyx"; there are load, show`, "prog group"},
		{[]string{"Pull"}, `there is no command "Pull"; did you mean "prog group load"?`, "prog"},
		{[]string{"group", "pull"}, `there is no command "pull"; did you mean "prog group load"?`, "prog group"},
		{[]string{"group", "load"}, "say which", "prog group load"},
		{[]string{"group", "load", "a", "b"}, `too many arguments: "b" is one more than expected`, "prog group load"},
		{[]string{"group", "load", "--wiat"}, "there is no flag --wiat; did you mean --wait?", "prog group load"},
		{[]string{"group", "load", "--unheardof"}, "there is no flag --unheardof", "prog group load"},
	} {
		root := tree(nil)
		root.SetArgs(c.args)
		err := root.Execute()
		var mistake *UsageError
		if !errors.As(err, &mistake) || err.Error() != c.want || mistake.Command != c.command {
			t.Errorf("%q: %v; want %q of %q", c.args, err, c.want, c.command)
		}
	}
}

// A group without a word shows its help, or does what it does alone.
func TestGroupAlone(t *testing.T) {
	var out bytes.Buffer
	root := tree(nil)
	root.SetOut(&out)
	root.SetArgs([]string{"group"})
	if err := root.Execute(); err != nil || !bytes.Contains(out.Bytes(), []byte("load")) {
		t.Errorf("%v, and shown was %q", err, out.String())
	}
	ended := &ExitError{Code: 3}
	root = tree(func(*cobra.Command) error { return ended })
	root.SetArgs([]string{"group"})
	if err := root.Execute(); !errors.Is(err, ended) {
		t.Errorf("it ended with %v, not as its command did", err)
	}
}
