// Package doctor is `skein doctor`: it looks at everything that a node needs of a
// machine, and says of each finding what to do.
//
// It belongs to package cli, which mounts it. It changes nothing and leaves
// nothing behind. Everything runs in the goroutine of the command.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/bytesize"
	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/cli/table"
	"github.com/skein-run/skein/internal/config"
	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/home"
	"github.com/skein-run/skein/internal/hostinfo"
)

// Grades of a finding. Only bad ones make the doctor fail.
const (
	Good = "ok"
	Hint = "hint" // works, could be better
	Warn = "warn" // works now, may not later
	Bad  = "bad"  // does not work
)

// Finding is one line of `skein doctor`.
type Finding struct {
	Check string `json:"check"`
	Grade string `json:"grade"`
	Found string `json:"found"`
	Fix   string `json:"fix,omitempty"`
}

// Room below which a machine is in trouble, in bytes.
const (
	littleMemory = 512 << 20
	littleDisk   = 2 << 30
	noDisk       = 100 << 20
)

// Env is what the command needs of the program around it.
type Env struct {
	Stdout io.Writer
	JSON   func(v any) error // prints a document

	Executable string                    // of the child that loads the library
	Program    func() string             // the same, with links followed
	Home       func() (home.Home, error) // SKEIN_HOME
	Settings   func(home.Home) (config.Serve, error)
	Backend    func() engine.Choice // the one that fits this machine
	// Alive says why no node answers at an address.
	Alive func(ctx context.Context, address, key string) error
}

// New makes `skein doctor`.
func New(e Env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:        "doctor",
		SuggestFor: []string{"check", "diagnose"},
		Short:      "Check this machine, each finding with its fix",
		Long: `Check what a node needs on this machine: memory, disk, the folder of its
files, the llama.cpp libraries, models, and the port of its API. It changes
nothing. The exit code is 1 when something does not work.`,
		Args: command.Need(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &doctor{Env: e}
			if err := d.examine(cmd.Context()); err != nil {
				return err
			}
			return d.report(asJSON)
		},
	}
	command.JSONFlag(cmd, &asJSON)
	return cmd
}

// doctor collects findings.
type doctor struct {
	Env
	findings []Finding
}

func (d *doctor) add(check, grade, found, fix string) {
	d.findings = append(d.findings, Finding{check, grade, found, fix})
}

// examine runs every check; one that fails does not keep the next from
// running. Its error is only that the user stopped it, or that there is no
// home to look at.
func (d *doctor) examine(ctx context.Context) error {
	where, err := d.Home()
	if err != nil {
		return err
	}
	d.machine(ctx)
	d.homeFolder(where)
	d.disk(ctx, where)
	serve, err := d.Settings(where)
	if err != nil {
		d.add("settings", Bad, err.Error(), "correct it; the engine, the models and the port are checked after that")
		return context.Cause(ctx)
	}
	d.add("settings", Good, "readable: "+where.ConfigFile()+" and SKEIN_* variables", "")
	d.engine(ctx, where, serve)
	d.models(serve)
	d.port(ctx, where, serve)
	return context.Cause(ctx)
}

func (d *doctor) report(asJSON bool) error {
	bad := 0
	for _, f := range d.findings {
		if f.Grade == Bad {
			bad++
		}
	}
	if asJSON {
		if err := d.JSON(struct {
			OK       bool      `json:"ok"`
			Findings []Finding `json:"findings"`
		}{bad == 0, d.findings}); err != nil {
			return err
		}
	} else {
		var rows [][]string
		for _, f := range d.findings {
			rows = append(rows, []string{f.Grade, f.Check, f.Found})
			if f.Fix != "" {
				rows = append(rows, []string{"", "", "fix: " + f.Fix})
			}
		}
		if err := table.Columns(d.Stdout, rows); err != nil {
			return err
		}
	}
	if bad > 0 {
		return &command.ExitError{Code: 1}
	}
	return nil
}

func (d *doctor) machine(ctx context.Context) {
	f, err := hostinfo.Read(ctx)
	if err != nil {
		d.add("machine", Bad, err.Error(), "check that this user may read the system's facts (/proc, sysctl)")
		return
	}
	chip := f.Chip
	if chip == "" {
		chip = "processor"
	}
	cores := fmt.Sprintf("%d cores", f.CoresPhysical)
	if f.CoresLogical != f.CoresPhysical {
		cores += fmt.Sprintf(" (%d threads)", f.CoresLogical)
	}
	if f.CoresUsable < f.CoresLogical {
		cores += fmt.Sprintf(", %d usable", f.CoresUsable)
	}
	d.add("machine", Good, fmt.Sprintf("%s, %s/%s, %s, %s", f.System, f.OS, f.Arch, chip, cores), "")
	memory := fmt.Sprintf("%s of %s available", bytesize.Format(int64(f.MemoryAvailable)), bytesize.Format(int64(f.MemoryTotal)))
	if f.MemoryLimited {
		memory += " (limited by the container)"
	}
	if f.MemoryAvailable < littleMemory {
		d.add("memory", Warn, memory, "close other programs; only the smallest models fit")
		return
	}
	d.add("memory", Good, memory, "")
}

// homeFolder checks that SKEIN_HOME can be written to, and that nobody else
// can read the keys in it. It leaves nothing behind.
func (d *doctor) homeFolder(where home.Home) {
	dir := where.Dir()
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		parent := dir
		for errors.Is(err, fs.ErrNotExist) && filepath.Dir(parent) != parent {
			parent = filepath.Dir(parent)
			_, err = os.Stat(parent)
		}
		if err == nil {
			err = tryWrite(parent)
		}
		if err != nil {
			d.add("home", Bad, fmt.Sprintf("%s is not there and cannot be made: %v", dir, err), "set SKEIN_HOME to a folder you may write to")
			return
		}
		d.add("home", Good, dir+" is not there yet; the first node makes it", "")
	case err != nil:
		d.add("home", Bad, err.Error(), "set SKEIN_HOME to a folder you may read")
	case !info.IsDir():
		d.add("home", Bad, dir+" is a file", "move it away, or set SKEIN_HOME to a folder")
	case tryWrite(dir) != nil:
		d.add("home", Bad, fmt.Sprintf("%s cannot be written to: %v", dir, tryWrite(dir)), "give this user the folder, or set SKEIN_HOME to another")
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0:
		d.add("home", Warn, fmt.Sprintf("%s is open to other users (mode %o)", dir, info.Mode().Perm()), "chmod 700 "+dir)
	default:
		d.add("home", Good, dir, "")
	}
}

// tryWrite makes a file in dir and takes it away again.
func tryWrite(dir string) error {
	f, err := os.CreateTemp(dir, ".skein-doctor-")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func (d *doctor) disk(ctx context.Context, where home.Home) {
	s, err := hostinfo.Disk(ctx, where.Dir())
	if err != nil {
		d.add("disk", Warn, err.Error(), "check the file system of SKEIN_HOME")
		return
	}
	found := fmt.Sprintf("%s free of %s at %s", bytesize.Format(int64(s.Free)), bytesize.Format(int64(s.Total)), s.Path)
	switch {
	case s.Free < noDisk:
		d.add("disk", Bad, found, "make room, or set SKEIN_HOME to a folder on another disk")
	case s.Free < littleDisk:
		d.add("disk", Warn, found, "make room before you fetch models")
	default:
		d.add("disk", Good, found, "")
	}
}

func (d *doctor) engine(ctx context.Context, where home.Home, serve config.Serve) {
	fits := d.Backend()
	found, err := engine.Find(engine.Options{Dir: serve.EngineDir, Executable: d.Program(), Home: where.Dir()})
	if err != nil {
		fix := "skein engine install"
		if serve.EngineDir != "" {
			fix = "name another folder with engine-dir, or leave it out"
		}
		d.add("engine", Bad, strings.TrimPrefix(err.Error(), "find engine: "), fix)
		d.npm()
		return
	}
	info, err := engine.Probe(ctx, d.Executable, found)
	if err != nil {
		d.add("engine", Bad, err.Error(), "skein engine install --backend cpu")
		d.npm()
		return
	}
	d.add("engine", Good, fmt.Sprintf("llama.cpp %s in %s", info.Version, found.Dir), "")
	var devices []string
	for _, dev := range info.Devices {
		devices = append(devices, fmt.Sprintf("%s (%s)", dev.Name, dev.Description))
	}
	list := strings.Join(devices, ", ")
	if fits.Backend != engine.CPU && !slices.Contains(found.Backends, string(fits.Backend)) {
		d.add("devices", Hint, list+"; "+fits.Why, "skein engine install --backend "+string(fits.Backend))
		d.npm()
		return
	}
	for _, p := range info.Problems {
		d.add("devices", Hint, p, "install the driver and loader that it needs, or skein engine install --backend cpu")
	}
	d.add("devices", Good, list, "")
}

// npm is only spoken of when something is to be installed with it.
func (d *doctor) npm() {
	if _, err := exec.LookPath("npm"); err != nil {
		d.add("npm", Hint, "not on the PATH; `skein engine install` needs it", "install Node.js, or use a release archive, which has the libraries inside")
	}
}

// models checks that every folder of models can be read and that there is
// something to load.
func (d *doctor) models(serve config.Serve) {
	count := 0
	for _, dir := range serve.ModelsDirs {
		n, err := countModels(dir)
		if err != nil {
			d.add("models", Bad, err.Error(), "correct models-dir, or give this user the right to read the folder")
		}
		count += n
	}
	bundled := filepath.Join(filepath.Dir(d.Program()), "models")
	n, err := countModels(bundled)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.add("models", Warn, err.Error(), "make the folder readable, or unpack skein again")
	}
	found := fmt.Sprintf("%d .gguf files in models-dir, %d beside the program", count, n)
	if count+n == 0 {
		d.add("models", Hint, found, "skein models add FILE.gguf")
		return
	}
	d.add("models", Good, found, "")
}

// countModels counts the .gguf files in dir and below.
func countModels(dir string) (int, error) {
	n := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !e.IsDir() && strings.EqualFold(filepath.Ext(path), ".gguf") {
			n++
		}
		return nil
	})
	return n, err
}

// port checks that the API's port is ours or free.
func (d *doctor) port(ctx context.Context, where home.Home, serve config.Serve) {
	if node, err := where.ReadNode(); err == nil {
		if err := d.Alive(ctx, node.API, node.APIKey); err != nil {
			d.add("node", Bad, fmt.Sprintf("process %d does not answer at %s: %v", node.PID, node.API, err), "stop it and start it again")
			return
		}
		d.add("node", Good, fmt.Sprintf("running at %s (process %d, %s)", node.API, node.PID, node.Version), "")
		return
	}
	if serve.APIPort == 0 {
		d.add("port", Good, "any free one is taken", "")
		return
	}
	address := net.JoinHostPort(serve.APIHost, strconv.Itoa(serve.APIPort))
	l, err := net.Listen("tcp", address)
	if err == nil {
		err = l.Close()
	}
	if err == nil {
		d.add("port", Good, address+" is free", "")
		return
	}
	found := fmt.Sprintf("%s cannot be used: %v", address, err)
	if owner, ok := hostinfo.Listener(ctx, serve.APIPort); ok {
		found = fmt.Sprintf("%s is in use by %s (process %d)", address, owner.Name, owner.PID)
	}
	d.add("port", Bad, found, "stop that program, or choose another port with --api-port or SKEIN_API_PORT")
}
