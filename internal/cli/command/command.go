// Package command is what the commands of skein have in common: groups with
// commands below them, how many arguments there may be, --json, and how a
// command ends that was typed wrong or that has a result of its own.
//
// It belongs to package cli, whose parts build on it; it knows no command. It
// imports nothing of ours but nearest.
package command

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/skein-run/skein/internal/nearest"
)

// ExitError ends the program with a code. With Err it is printed first; without,
// the command has said all already.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap gives what is printed.
func (e *ExitError) Unwrap() error { return e.Err }

// UsageError is a mistake in how a command was typed.
type UsageError struct {
	Err     error
	Command string // "skein run", for the hint
}

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap gives the mistake.
func (e *UsageError) Unwrap() error { return e.Err }

// Usage makes a UsageError.
func Usage(cmd *cobra.Command, format string, args ...any) error {
	return &UsageError{Err: fmt.Errorf(format, args...), Command: cmd.CommandPath()}
}

// Group makes of cmd one that has commands below it: a word that is none of
// them is refused, and without a word it does alone, or shows its help where
// that is nil.
func Group(cmd *cobra.Command, alone func(cmd *cobra.Command) error, below ...*cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) > 0:
			return unknown(cmd, args[0])
		case alone != nil:
			return alone(cmd)
		}
		return cmd.Help()
	}
	cmd.AddCommand(below...)
	return cmd
}

// unknown names what was probably meant: what other programs call so, or what is
// spelled nearly so.
func unknown(cmd *cobra.Command, word string) error {
	if meant := suggested(cmd, word); meant != nil {
		return Usage(cmd, "there is no command %q; did you mean %q?", word, meant.CommandPath())
	}
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	if near := nearest.Of(word, names); near != "" {
		return Usage(cmd, "there is no command %q; did you mean %q?", word, cmd.CommandPath()+" "+near)
	}
	return Usage(cmd, "there is no command %q; there are %s", word, strings.Join(names, ", "))
}

// suggested finds the command below cmd whose SuggestFor has the word; nil: none.
func suggested(cmd *cobra.Command, word string) *cobra.Command {
	for _, sub := range cmd.Commands() {
		if slices.ContainsFunc(sub.SuggestFor, func(s string) bool { return strings.EqualFold(s, word) }) {
			return sub
		}
		if meant := suggested(sub, word); meant != nil {
			return meant
		}
	}
	return nil
}

// Explain makes every mistake that the library finds, in flags and in numbers of
// arguments, a UsageError that names the nearest flag.
func Explain(root *cobra.Command) {
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &UsageError{Err: nearestFlag(cmd, err), Command: cmd.CommandPath()}
	})
	for _, cmd := range all(root) {
		cmd.DisableFlagsInUseLine = true
		check := cmd.Args
		if check == nil {
			continue
		}
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &UsageError{Err: err, Command: cmd.CommandPath()}
			}
			return nil
		}
	}
}

// all gives root and everything below it.
func all(cmd *cobra.Command) []*cobra.Command {
	out := []*cobra.Command{cmd}
	for _, sub := range cmd.Commands() {
		out = append(out, all(sub)...)
	}
	return out
}

// nearestFlag adds the nearest flag to the library's error.
func nearestFlag(cmd *cobra.Command, err error) error {
	name, found := strings.CutPrefix(err.Error(), "unknown flag: --")
	if !found {
		return err
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := nearest.Of(name, names); near != "" {
		return fmt.Errorf("there is no flag --%s; did you mean --%s?", name, near)
	}
	return fmt.Errorf("there is no flag --%s", name)
}

// Need refuses a number of arguments other than from low to high (-1: any),
// in words that say what they are.
func Need(low, high int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < low {
			return errors.New(what)
		}
		if high >= 0 && len(args) > high {
			return fmt.Errorf("too many arguments: %q is one more than expected", args[high])
		}
		return nil
	}
}

// JSONFlag gives a command --json.
func JSONFlag(cmd *cobra.Command, asJSON *bool) {
	cmd.Flags().BoolVar(asJSON, "json", false, "print JSON")
}

// EngineDirFlag gives a command --engine-dir.
func EngineDirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "engine-dir", "", "look in `DIR` only [SKEIN_ENGINE_DIR]")
}
