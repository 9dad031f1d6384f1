// Package enginecmd holds the commands below `skein engine`: which libraries of
// llama.cpp are used, what they see, how fast they are, and how to get others.
//
// It belongs to package cli, which mounts it. Everything runs in the goroutine
// of the command; the library itself is loaded in children only.
package enginecmd

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/bytesize"
	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/cli/table"
	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/home"
	"github.com/skein-run/skein/internal/library"
)

// Env is what the commands need of the program around them.
type Env struct {
	Stdout io.Writer
	Note   func(format string, args ...any) // for the user, beside the answer; silent with -q
	JSON   func(v any) error                // prints a document
	Quiet  func() bool                      // -q was given

	Executable string                                   // of the children that load the library
	Program    func() string                            // the same, with links followed
	Home       func() (home.Home, error)                // SKEIN_HOME
	Backend    func() engine.Choice                     // the one that fits this machine
	Engine     func(dir string) (engine.Options, error) // where it is looked for; dir is --engine-dir
	Model      func(ref string) (library.Entry, error)  // by name or file
}

// New makes `skein engine`.
func New(e Env) *cobra.Command {
	return command.Group(&cobra.Command{
		Use:   "engine",
		Short: "The llama.cpp libraries: what is there, install others",
		Long: `The llama.cpp libraries that compute. They are looked for in --engine-dir, then
beside the program, then in SKEIN_HOME/engine.`,
	}, nil, newStatus(e), newInstall(e), newDevices(e), newBench(e))
}

// Status is what `skein engine status --json` prints.
type Status struct {
	Needed string             `json:"needed"` // version
	Engine *engine.Engine     `json:"engine"` // null when none is usable
	Source string             `json:"source,omitempty"`
	Looked []engine.Candidate `json:"looked"`
	Fits   engine.Choice      `json:"fits"` // the backend for this machine
}

func newStatus(e Env) *cobra.Command {
	var (
		dir    string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say which libraries are used and where they were looked for",
		Args:  command.Need(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			o, err := e.Engine(dir)
			if err != nil {
				return err
			}
			s := Status{Needed: engine.Version, Looked: engine.Search(o), Fits: e.Backend()}
			for _, c := range s.Looked {
				if c.Engine != nil {
					s.Engine, s.Source = c.Engine, c.Source
					break
				}
			}
			if asJSON {
				if err := e.JSON(s); err != nil {
					return err
				}
			} else if err := e.printStatus(s); err != nil {
				return err
			}
			if s.Engine == nil {
				return &engine.NotFoundError{Looked: s.Looked}
			}
			return nil
		},
	}
	command.EngineDirFlag(cmd, &dir)
	command.JSONFlag(cmd, &asJSON)
	return cmd
}

func (e Env) printStatus(s Status) error {
	rows := [][]string{}
	if s.Engine != nil {
		version := s.Engine.Version
		if version == "" {
			version = "of unnamed version (the library is asked when it is loaded)"
		}
		rows = append(rows,
			[]string{"engine", "llama.cpp " + version},
			[]string{"folder", s.Engine.Dir + " (" + s.Source + ")"},
			[]string{"backends", strings.Join(s.Engine.Backends, ", ")})
	}
	for _, c := range s.Looked {
		switch {
		case s.Engine != nil && c.Engine == s.Engine:
		case c.Engine != nil:
			rows = append(rows, []string{"not used", c.Dir + " (" + c.Source + "): usable, but later in the search"})
		case s.Engine != nil:
			rows = append(rows, []string{"not used", c.Dir + " (" + c.Source + "): " + c.Problem})
		}
	}
	rows = append(rows, []string{"fits here", string(s.Fits.Backend) + ": " + s.Fits.Why})
	return table.Columns(e.Stdout, rows)
}

func newInstall(e Env) *cobra.Command {
	var backend, dir, platform string
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Fetch the libraries for this machine",
		Long: `Fetch the llama.cpp libraries as npm packages of exactly the version this
program is written for, check them, and put them into SKEIN_HOME/engine, or
into --dir. It needs the npm client; release archives have CPU libraries inside.`,
		Example: `  skein engine install
  skein engine install --backend vulkan`,
		Args: command.Need(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := engine.ParseBackend(backend)
			if err != nil {
				return &command.UsageError{Err: err, Command: cmd.CommandPath()}
			}
			o := engine.InstallOptions{Backend: b, Dir: dir, Platform: engine.Host()}
			if platform != "" {
				if o.Platform, err = engine.ParsePlatform(platform); err != nil {
					return &command.UsageError{Err: err, Command: cmd.CommandPath()}
				}
			}
			return e.install(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&backend, "backend", string(engine.Auto), "auto, cpu, cuda, vulkan or metal")
	f.StringVar(&dir, "dir", "", "install into `FOLDER` instead of SKEIN_HOME/engine")
	f.StringVar(&platform, "platform", "", "install for another `OS/ARCH`, to make an archive")
	if err := f.MarkHidden("platform"); err != nil {
		panic(err) // the flag is defined one line above
	}
	return cmd
}

func (e Env) install(ctx context.Context, o engine.InstallOptions) error {
	where, err := e.Home()
	if err != nil {
		return err
	}
	if o.Dir == "" {
		if err := where.Ensure(); err != nil {
			return err
		}
		o.Home = where.Dir()
	}
	if fits := e.Backend(); o.Backend == engine.Auto && o.Platform == engine.Host() {
		o.Backend, o.CUDA12 = fits.Backend, fits.CUDA12
		e.Note("backend %s: %s", fits.Backend, fits.Why)
	} else if o.Backend == engine.Auto {
		o.Backend = engine.CPU
	} else if o.Backend == engine.CUDA {
		o.CUDA12 = fits.CUDA12
	}
	e.Note("fetching llama.cpp %s for %s, %s", engine.Version, o.Platform, o.Backend)
	got, err := engine.Install(ctx, o)
	if err != nil {
		return err
	}
	for _, p := range got.Unpinned {
		e.Note("note: this release does not pin the content of %s; npm checked it against the registry only", p)
	}
	if e.Quiet() {
		return nil
	}
	done := "installed"
	if got.Already {
		done = "was installed already"
	}
	fmt.Fprintf(e.Stdout, "%s %s: llama.cpp %s, %s\n", got.Engine.Dir, done, got.Engine.Version, strings.Join(got.Engine.Backends, ", "))
	e.noteShadowed(where, o, got.Engine)
	return nil
}

// noteShadowed says what to do when an engine that was just installed is not
// the one a node would take.
func (e Env) noteShadowed(where home.Home, o engine.InstallOptions, installed *engine.Engine) {
	if o.Dir != "" {
		return
	}
	used, err := engine.Find(engine.Options{Executable: e.Program(), Home: where.Dir()})
	if err == nil && used.Dir != installed.Dir {
		e.Note("note: the libraries in %s are found first; to use the new ones, put this into %s:\nengine-dir: %s", used.Dir, where.ConfigFile(), installed.Dir)
	}
}

func newDevices(e Env) *cobra.Command {
	var (
		dir    string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "devices",
		Short: "List the processors and GPUs that the libraries see",
		Args:  command.Need(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := e.Engine(dir)
			if err != nil {
				return err
			}
			found, err := engine.Find(o)
			if err != nil {
				return err
			}
			info, err := engine.Probe(cmd.Context(), e.Executable, found)
			if err != nil {
				return err
			}
			if asJSON {
				return e.JSON(info)
			}
			rows := [][]string{{"NAME", "TYPE", "BACKEND", "FREE", "MEMORY", "DESCRIPTION"}}
			for _, d := range info.Devices {
				rows = append(rows, []string{d.Name, d.Type, d.Backend, bytesize.Format(int64(d.MemoryFree)), bytesize.Format(int64(d.MemoryTotal)), d.Description})
			}
			for _, p := range info.Problems {
				e.Note("note: %s", p)
			}
			return table.Columns(e.Stdout, rows, 3, 4)
		},
	}
	command.EngineDirFlag(cmd, &dir)
	command.JSONFlag(cmd, &asJSON)
	return cmd
}
