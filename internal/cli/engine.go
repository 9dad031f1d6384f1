package cli

import (
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/cli/benchcmd"
	"github.com/skein-run/skein/internal/cli/enginecmd"
	"github.com/skein-run/skein/internal/engine"
)

// newEngineCommand makes `skein engine`.
func newEngineCommand(a *app) *cobra.Command {
	return enginecmd.New(enginecmd.Env{
		Stdout: a.Stdout, Note: a.note, JSON: a.printJSON, Quiet: func() bool { return a.quiet },
		Executable: a.Executable, Program: a.resolvedExecutable, Home: a.home,
		Backend: a.detectBackend, Engine: a.engineOptions, Model: a.localModel,
	})
}

// newBenchCommand makes `skein bench`.
func newBenchCommand(a *app) *cobra.Command {
	return benchcmd.New(benchcmd.Env{
		Stdout: a.Stdout, Note: a.note, JSON: a.printJSON, Executable: a.Executable, Engine: a.engineOptions, Model: a.localModel,
		APIKey: func() string { return a.flagOr(a.apiKey, "SKEIN_API_KEY") },
	})
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
