package cli

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/skein-run/skein/internal/config"
	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/home"
	"github.com/skein-run/skein/internal/hostinfo"
)

// Grades of a finding. Only bad ones make the doctor fail.
const (
	gradeGood = "ok"
	gradeHint = "hint" // works, could be better
	gradeWarn = "warn" // works now, may not later
	gradeBad  = "bad"  // does not work
)

// finding is one line of `skein doctor`.
type finding struct {
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

// newDoctorCommand makes `skein doctor`.
func newDoctorCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check this machine, each finding with its fix",
		Long: `Check what a node needs on this machine: memory, disk, the folder of its
files, the llama.cpp libraries, models, and the port of its API. It changes
nothing. The exit code is 1 when something does not work.`,
		Args: need(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &doctor{app: a}
			if err := d.examine(cmd.Context()); err != nil {
				return err
			}
			return d.report(asJSON)
		},
	}
	addJSONFlag(cmd, &asJSON)
	return cmd
}

// doctor collects findings.
type doctor struct {
	*app
	findings []finding
}

func (d *doctor) add(check, grade, found, fix string) {
	d.findings = append(d.findings, finding{check, grade, found, fix})
}

// examine runs every check; one that fails does not keep the next from
// running. Its error is only that the user stopped it, or that there is no
// home to look at.
func (d *doctor) examine(ctx context.Context) error {
	where, err := d.home()
	if err != nil {
		return err
	}
	d.machine(ctx)
	d.homeFolder(where)
	d.disk(ctx, where)
	serve, _, err := d.resolve(where, "", nil)
	if err != nil {
		d.add("settings", gradeBad, err.Error(), "correct it; the engine, the models and the port are checked after that")
		return context.Cause(ctx)
	}
	d.add("settings", gradeGood, "readable: "+where.ConfigFile()+" and SKEIN_* variables", "")
	d.engine(ctx, where, serve)
	d.models(serve)
	d.port(ctx, where, serve)
	return context.Cause(ctx)
}

func (d *doctor) report(asJSON bool) error {
	bad := 0
	for _, f := range d.findings {
		if f.Grade == gradeBad {
			bad++
		}
	}
	if asJSON {
		if err := d.printJSON(struct {
			OK       bool      `json:"ok"`
			Findings []finding `json:"findings"`
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
		if err := columns(d.Stdout, rows); err != nil {
			return err
		}
	}
	if bad > 0 {
		return &exitError{ExitFailure}
	}
	return nil
}

func (d *doctor) machine(ctx context.Context) {
	f, err := hostinfo.Read(ctx)
	if err != nil {
		d.add("machine", gradeBad, err.Error(), "check that this user may read the system's facts (/proc, sysctl)")
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
	d.add("machine", gradeGood, fmt.Sprintf("%s, %s/%s, %s, %s", f.System, f.OS, f.Arch, chip, cores), "")
	memory := fmt.Sprintf("%s of %s available", bytesize.Format(int64(f.MemoryAvailable)), bytesize.Format(int64(f.MemoryTotal)))
	if f.MemoryLimited {
		memory += " (limited by the container)"
	}
	if f.MemoryAvailable < littleMemory {
		d.add("memory", gradeWarn, memory, "close other programs; only the smallest models fit")
		return
	}
	d.add("memory", gradeGood, memory, "")
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
			d.add("home", gradeBad, fmt.Sprintf("%s is not there and cannot be made: %v", dir, err), "set SKEIN_HOME to a folder you may write to")
			return
		}
		d.add("home", gradeGood, dir+" is not there yet; the first node makes it", "")
	case err != nil:
		d.add("home", gradeBad, err.Error(), "set SKEIN_HOME to a folder you may read")
	case !info.IsDir():
		d.add("home", gradeBad, dir+" is a file", "move it away, or set SKEIN_HOME to a folder")
	case tryWrite(dir) != nil:
		d.add("home", gradeBad, fmt.Sprintf("%s cannot be written to: %v", dir, tryWrite(dir)), "give this user the folder, or set SKEIN_HOME to another")
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0:
		d.add("home", gradeWarn, fmt.Sprintf("%s is open to other users (mode %o)", dir, info.Mode().Perm()), "chmod 700 "+dir)
	default:
		d.add("home", gradeGood, dir, "")
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
		d.add("disk", gradeWarn, err.Error(), "check the file system of SKEIN_HOME")
		return
	}
	found := fmt.Sprintf("%s free of %s at %s", bytesize.Format(int64(s.Free)), bytesize.Format(int64(s.Total)), s.Path)
	switch {
	case s.Free < noDisk:
		d.add("disk", gradeBad, found, "make room, or set SKEIN_HOME to a folder on another disk")
	case s.Free < littleDisk:
		d.add("disk", gradeWarn, found, "make room before you fetch models")
	default:
		d.add("disk", gradeGood, found, "")
	}
}

func (d *doctor) engine(ctx context.Context, where home.Home, serve config.Serve) {
	fits := d.detectBackend()
	found, err := engine.Find(engine.Options{Dir: serve.EngineDir, Executable: d.resolvedExecutable(), Home: where.Dir()})
	if err != nil {
		fix := "skein engine install"
		if serve.EngineDir != "" {
			fix = "name another folder with engine-dir, or leave it out"
		}
		d.add("engine", gradeBad, strings.TrimPrefix(err.Error(), "find engine: "), fix)
		d.npm()
		return
	}
	info, err := engine.Probe(ctx, d.Executable, found)
	if err != nil {
		d.add("engine", gradeBad, err.Error(), "skein engine install --backend cpu")
		d.npm()
		return
	}
	d.add("engine", gradeGood, fmt.Sprintf("llama.cpp %s in %s", info.Version, found.Dir), "")
	var devices []string
	for _, dev := range info.Devices {
		devices = append(devices, fmt.Sprintf("%s (%s)", dev.Name, dev.Description))
	}
	list := strings.Join(devices, ", ")
	if fits.Backend != engine.CPU && !slices.Contains(found.Backends, string(fits.Backend)) {
		d.add("devices", gradeHint, list+"; "+fits.Why, "skein engine install --backend "+string(fits.Backend))
		d.npm()
		return
	}
	d.add("devices", gradeGood, list, "")
}

// npm is only spoken of when something is to be installed with it.
func (d *doctor) npm() {
	if _, err := exec.LookPath("npm"); err != nil {
		d.add("npm", gradeHint, "not on the PATH; `skein engine install` needs it", "install Node.js, or use a release archive, which has the libraries inside")
	}
}

// models checks that every folder of models can be read and that there is
// something to load.
func (d *doctor) models(serve config.Serve) {
	count := 0
	for _, dir := range serve.ModelsDirs {
		n, err := countModels(dir)
		if err != nil {
			d.add("models", gradeBad, err.Error(), "correct models-dir, or give this user the right to read the folder")
		}
		count += n
	}
	bundled := filepath.Join(filepath.Dir(d.resolvedExecutable()), "models")
	n, err := countModels(bundled)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.add("models", gradeWarn, err.Error(), "make the folder readable, or unpack skein again")
	}
	found := fmt.Sprintf("%d .gguf files in models-dir, %d beside the program", count, n)
	if count+n == 0 {
		d.add("models", gradeHint, found, "skein models add FILE.gguf")
		return
	}
	d.add("models", gradeGood, found, "")
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
		c, err := d.dial(node.API, node.APIKey)
		if err == nil {
			alive, cancel := context.WithTimeout(ctx, aliveTimeout)
			defer cancel()
			err = c.Alive(alive)
			c.Close()
		}
		if err != nil {
			d.add("node", gradeBad, fmt.Sprintf("process %d does not answer at %s: %v", node.PID, node.API, err), "stop it and start it again")
			return
		}
		d.add("node", gradeGood, fmt.Sprintf("running at %s (process %d, %s)", node.API, node.PID, node.Version), "")
		return
	}
	if serve.APIPort == 0 {
		d.add("port", gradeGood, "any free one is taken", "")
		return
	}
	address := net.JoinHostPort(serve.APIHost, strconv.Itoa(serve.APIPort))
	l, err := net.Listen("tcp", address)
	if err == nil {
		err = l.Close()
	}
	if err == nil {
		d.add("port", gradeGood, address+" is free", "")
		return
	}
	found := fmt.Sprintf("%s cannot be used: %v", address, err)
	if owner, ok := hostinfo.Listener(ctx, serve.APIPort); ok {
		found = fmt.Sprintf("%s is in use by %s (process %d)", address, owner.Name, owner.PID)
	}
	d.add("port", gradeBad, found, "stop that program, or choose another port with --api-port or SKEIN_API_PORT")
}
