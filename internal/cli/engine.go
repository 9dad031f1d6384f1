package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/bytesize"
	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/home"
)

// newEngineCommand makes `skein engine` with the subcommands here and more.
func newEngineCommand(a *app, more ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "engine",
		Short: "The llama.cpp libraries: what is there, install others",
		Long: `The llama.cpp libraries that compute. They are looked for in --engine-dir, then
beside the program, then in SKEIN_HOME/engine.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(newEngineStatusCommand(a), newEngineInstallCommand(a), newEngineDevicesCommand(a))
	cmd.AddCommand(more...)
	return cmd
}

// engineOptions says where the engine of this SKEIN_HOME is looked for; dir is
// the value of --engine-dir, "" when not given.
func (a *app) engineOptions(dir string) (engine.Options, error) {
	where, err := a.home()
	if err != nil {
		return engine.Options{}, err
	}
	flags := map[string][]string{}
	if dir != "" {
		flags["engine-dir"] = []string{dir}
	}
	serve, _, err := a.resolve(where, "", flags)
	if err != nil {
		return engine.Options{}, err
	}
	return engine.Options{Dir: serve.EngineDir, Executable: a.resolvedExecutable(), Home: where.Dir()}, nil
}

// resolvedExecutable follows a link such as /usr/local/bin/skein to the folder
// that holds the libraries.
func (a *app) resolvedExecutable() string {
	if real, err := filepath.EvalSymlinks(a.Executable); err == nil {
		return real
	}
	return a.Executable
}

func addEngineDirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "engine-dir", "", "look in `DIR` only [SKEIN_ENGINE_DIR]")
}

// engineStatus is what `skein engine status --json` prints.
type engineStatus struct {
	Needed string             `json:"needed"` // version
	Engine *engine.Engine     `json:"engine"` // null when none is usable
	Source string             `json:"source,omitempty"`
	Looked []engine.Candidate `json:"looked"`
	Fits   engine.Choice      `json:"fits"` // the backend for this machine
}

func newEngineStatusCommand(a *app) *cobra.Command {
	var (
		dir    string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say which libraries are used and where they were looked for",
		Args:  need(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			o, err := a.engineOptions(dir)
			if err != nil {
				return err
			}
			s := engineStatus{Needed: engine.Version, Looked: engine.Search(o), Fits: a.detectBackend()}
			for _, c := range s.Looked {
				if c.Engine != nil {
					s.Engine, s.Source = c.Engine, c.Source
					break
				}
			}
			if asJSON {
				if err := a.printJSON(s); err != nil {
					return err
				}
			} else if err := a.printEngineStatus(s); err != nil {
				return err
			}
			if s.Engine == nil {
				return &engine.NotFoundError{Looked: s.Looked}
			}
			return nil
		},
	}
	addEngineDirFlag(cmd, &dir)
	addJSONFlag(cmd, &asJSON)
	return cmd
}

func (a *app) printEngineStatus(s engineStatus) error {
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
	return columns(a.Stdout, rows)
}

// detectBackend chooses the backend that fits this machine.
func (a *app) detectBackend() engine.Choice {
	m := engine.Machine{Platform: engine.Host(), Root: os.DirFS("/")}
	if runtime.GOOS == "windows" {
		drive := a.Getenv("SystemDrive")
		if drive == "" {
			drive = "C:"
		}
		m.Root = os.DirFS(drive + `\`)
	}
	for _, dir := range filepath.SplitList(a.Getenv("LD_LIBRARY_PATH")) {
		if filepath.IsAbs(dir) {
			m.LibraryDirs = append(m.LibraryDirs, filepath.ToSlash(dir))
		}
	}
	return engine.Detect(m)
}

func newEngineInstallCommand(a *app) *cobra.Command {
	var backend, dir, platform string
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Fetch the libraries for this machine",
		Long: `Fetch the llama.cpp libraries as npm packages of exactly the version this
program is written for, check them, and put them into SKEIN_HOME/engine, or
into --dir. It needs the npm client; release archives have CPU libraries inside.`,
		Example: `  skein engine install
  skein engine install --backend vulkan`,
		Args: need(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := engine.ParseBackend(backend)
			if err != nil {
				return &usageError{err: err, command: cmd.CommandPath()}
			}
			o := engine.InstallOptions{Backend: b, Dir: dir, Platform: engine.Host()}
			if platform != "" {
				if o.Platform, err = engine.ParsePlatform(platform); err != nil {
					return &usageError{err: err, command: cmd.CommandPath()}
				}
			}
			return a.installEngine(cmd.Context(), o)
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

func (a *app) installEngine(ctx context.Context, o engine.InstallOptions) error {
	where, err := a.home()
	if err != nil {
		return err
	}
	if o.Dir == "" {
		if err := where.Ensure(); err != nil {
			return err
		}
		o.Home = where.Dir()
	}
	if fits := a.detectBackend(); o.Backend == engine.Auto && o.Platform == engine.Host() {
		o.Backend, o.CUDA12 = fits.Backend, fits.CUDA12
		a.note("backend %s: %s", fits.Backend, fits.Why)
	} else if o.Backend == engine.Auto {
		o.Backend = engine.CPU
	} else if o.Backend == engine.CUDA {
		o.CUDA12 = fits.CUDA12
	}
	a.note("fetching llama.cpp %s for %s, %s", engine.Version, o.Platform, o.Backend)
	got, err := engine.Install(ctx, o)
	if err != nil {
		return err
	}
	for _, p := range got.Unpinned {
		a.note("note: this release does not pin the content of %s; npm checked it against the registry only", p)
	}
	if a.quiet {
		return nil
	}
	done := "installed"
	if got.Already {
		done = "was installed already"
	}
	fmt.Fprintf(a.Stdout, "%s %s: llama.cpp %s, %s\n", got.Engine.Dir, done, got.Engine.Version, strings.Join(got.Engine.Backends, ", "))
	a.noteShadowed(where, o, got.Engine)
	return nil
}

// noteShadowed says what to do when an engine that was just installed is not
// the one a node would take.
func (a *app) noteShadowed(where home.Home, o engine.InstallOptions, installed *engine.Engine) {
	if o.Dir != "" {
		return
	}
	used, err := engine.Find(engine.Options{Executable: a.resolvedExecutable(), Home: where.Dir()})
	if err == nil && used.Dir != installed.Dir {
		a.note("note: the libraries in %s are found first; to use the new ones, put this into %s:\nengine-dir: %s", used.Dir, where.ConfigFile(), installed.Dir)
	}
}

func newEngineDevicesCommand(a *app) *cobra.Command {
	var (
		dir    string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "devices",
		Short: "List the processors and GPUs that the libraries see",
		Args:  need(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := a.engineOptions(dir)
			if err != nil {
				return err
			}
			found, err := engine.Find(o)
			if err != nil {
				return err
			}
			info, err := engine.Probe(cmd.Context(), a.Executable, found)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(info)
			}
			rows := [][]string{{"NAME", "TYPE", "BACKEND", "FREE", "MEMORY", "DESCRIPTION"}}
			for _, d := range info.Devices {
				rows = append(rows, []string{d.Name, d.Type, d.Backend, bytesize.Format(int64(d.MemoryFree)), bytesize.Format(int64(d.MemoryTotal)), d.Description})
			}
			return columns(a.Stdout, rows, 3, 4)
		},
	}
	addEngineDirFlag(cmd, &dir)
	addJSONFlag(cmd, &asJSON)
	return cmd
}
