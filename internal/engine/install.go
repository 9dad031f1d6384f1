package engine

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// maxLibrary bounds one unpacked file; the largest there is, a CUDA backend,
// has 375 MB.
const maxLibrary = 2 << 30

// InstallOptions say what to install where.
type InstallOptions struct {
	Backend  Backend
	CUDA12   bool     // with CUDA: the build for the CUDA 12 runtime
	Platform Platform // zero: Host. Another one prepares an archive for it.
	Home     string   // SKEIN_HOME; the engine goes to Home/engine/<version>-<backend>
	Dir      string   // when set, the exact folder, instead of one in Home
	// Pack fetches the archive of a package into a folder and gives its path;
	// nil: the npm client on the PATH.
	Pack func(ctx context.Context, p Package, into string) (archive string, err error)
}

func (o *InstallOptions) validate() error {
	if o.Platform == (Platform{}) {
		o.Platform = Host()
	}
	if o.Pack == nil {
		o.Pack = npmPack
	}
	switch {
	case o.Backend == "" || o.Backend == Auto:
		return errors.New("install engine: choose a backend first")
	case o.Home == "" && o.Dir == "":
		return errors.New("install engine: no folder to install into")
	}
	return nil
}

// Installed is the outcome of an Install.
type Installed struct {
	Engine   *Engine   `json:"engine"`
	Backend  Backend   `json:"backend"`
	Packages []Package `json:"packages"`
	// Already tells that the folder held exactly this before.
	Already bool `json:"already"`
	// Unpinned are the packages whose content this release does not pin: npm
	// checked them against the registry's word only.
	Unpinned []string `json:"unpinned,omitempty"`
}

// Install fetches the libraries of a backend and puts them in place in one
// step: the folder holds the old engine or the new one, never a part. It
// refuses to replace a folder that holds anything else.
func Install(ctx context.Context, o InstallOptions) (*Installed, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	packages, err := Packages(o.Platform, o.Backend, o.CUDA12)
	if err != nil {
		return nil, fmt.Errorf("install engine: %w", err)
	}
	target := o.Dir
	if target == "" {
		target = filepath.Join(HomeDir(o.Home), Version+"-"+string(o.Backend))
	}
	if target, err = filepath.Abs(target); err != nil {
		return nil, fmt.Errorf("install engine: %w", err)
	}
	want := note{Version: Version, Backend: o.Backend, Platform: o.Platform, Packages: packages}
	out := &Installed{Backend: o.Backend, Packages: packages}
	for _, p := range packages {
		if p.Integrity == "" {
			out.Unpinned = append(out.Unpinned, p.String())
		}
	}
	if e := holds(target, want); e != nil {
		out.Engine, out.Already = e, true
		return out, o.markCurrent(target)
	}
	if err := replaceable(target); err != nil {
		return nil, fmt.Errorf("install engine: %w", err)
	}
	if err := fetch(ctx, o, want, target); err != nil {
		return nil, fmt.Errorf("install engine: %w", err)
	}
	if out.Engine, err = Inspect(target, o.Platform); err != nil {
		return nil, fmt.Errorf("install engine: %s %w", target, err)
	}
	return out, o.markCurrent(target)
}

// markCurrent makes the engine just asked for the first one found in Home.
func (o *InstallOptions) markCurrent(target string) error {
	if o.Dir != "" {
		return nil
	}
	if err := os.WriteFile(filepath.Join(HomeDir(o.Home), currentFile), []byte(filepath.Base(target)+"\n"), 0o600); err != nil {
		return fmt.Errorf("install engine: %w", err)
	}
	return nil
}

// holds gives the engine in dir when Install put exactly want there.
func holds(dir string, want note) *Engine {
	data, err := os.ReadFile(filepath.Join(dir, noteFile))
	if err != nil {
		return nil
	}
	expected, err := encodeNote(want)
	if err != nil || !bytes.Equal(data, expected) {
		return nil
	}
	e, err := Inspect(dir, want.Platform)
	if err != nil {
		return nil
	}
	return e
}

func encodeNote(n note) ([]byte, error) {
	data, err := json.MarshalIndent(n, "", "  ")
	return append(data, '\n'), err
}

// replaceable refuses a folder that holds anything but an engine.
func replaceable(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() || e.Name() != noteFile && e.Name() != licenceFile && !library.MatchString(e.Name()) {
			return fmt.Errorf("%s holds %s, which is no part of an engine; name an empty or new folder with --dir", dir, e.Name())
		}
	}
	return nil
}

// fetch unpacks the packages beside target and moves the result there.
func fetch(ctx context.Context, o InstallOptions, want note, target string) (err error) {
	parent := filepath.Dir(target)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(parent, ".engine-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	fresh := filepath.Join(work, "new")
	if err := os.Mkdir(fresh, 0o755); err != nil {
		return err
	}
	for i, p := range want.Packages {
		into := filepath.Join(work, fmt.Sprintf("pack%d", i))
		if err := os.Mkdir(into, 0o755); err != nil {
			return err
		}
		archive, err := o.Pack(ctx, p, into)
		if err != nil {
			return fmt.Errorf("fetch %s: %w", p, err)
		}
		if err := verify(archive, p.Integrity); err != nil {
			return fmt.Errorf("check %s: %w", p, err)
		}
		if err := unpack(archive, fresh); err != nil {
			return fmt.Errorf("unpack %s: %w", p, err)
		}
	}
	data, err := encodeNote(want)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(fresh, noteFile), data, 0o644); err != nil {
		return err
	}
	if _, err := Inspect(fresh, o.Platform); err != nil {
		return fmt.Errorf("what %s brought %w", want.Packages[0], err)
	}
	old := filepath.Join(work, "old")
	if err := os.Rename(target, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; stop the node that uses these libraries and try again", err)
	}
	return os.Rename(fresh, target)
}

// verify compares an archive with its pinned hash.
func verify(archive, integrity string) error {
	if integrity == "" {
		return nil
	}
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha512.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := "sha512-" + base64.StdEncoding.EncodeToString(h.Sum(nil)); got != integrity {
		return fmt.Errorf("the registry sent other content than this release was made with (got %s, want %s); nothing was installed; check which registry npm uses (npm config get registry)", got, integrity)
	}
	return nil
}

const licenceFile = "LICENSE.node-llama-cpp"

// library is every file that belongs to an engine on any system.
var library = regexp.MustCompile(`^(lib)?(llama|ggml)[A-Za-z0-9._-]*\.(so|dylib|dll|metal|metallib)(\.[0-9.]+)?$`)

// unneeded are libraries for programs of llama.cpp that skein does not run.
var unneeded = regexp.MustCompile(`^(lib)?llama-common`)

// unpack writes the libraries of an npm archive into dir, without their
// folders. Of two files of one name the later archive's stays: that is how the
// CUDA 12 build replaces the CUDA 13 one.
func unpack(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	r := tar.NewReader(zipped)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Base(h.Name)
		switch {
		case h.Typeflag != tar.TypeReg:
			continue
		case h.Name == "package/LICENSE":
			name = licenceFile
		case !strings.HasPrefix(h.Name, "package/bins/") || !library.MatchString(name) || unneeded.MatchString(name):
			continue
		}
		if h.Size > maxLibrary {
			return fmt.Errorf("%s has %d bytes, more than a library can have", h.Name, h.Size)
		}
		if err := writeFile(filepath.Join(dir, name), r); err != nil {
			return err
		}
	}
}

func writeFile(name string, r io.Reader) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// npmPack fetches a package's archive with the npm client, which knows the
// person's registry, proxy and certificates.
func npmPack(ctx context.Context, p Package, into string) (string, error) {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", errors.New("npm is not on the PATH; install Node.js (it brings npm), or put the llama.cpp " + Version +
			" libraries in a folder and name it with --engine-dir; release archives of skein have them inside")
	}
	cmd := exec.CommandContext(ctx, npm, "pack", "--loglevel=error", "--ignore-scripts", "--pack-destination", into, p.String())
	cmd.Dir = into
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", fmt.Errorf("npm pack: %w: %s", err, npmReason(stderr.String()+stdout.String()))
	}
	found, err := filepath.Glob(filepath.Join(into, "*.tgz"))
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("npm pack left %d archives, want 1", len(found))
	}
	return found[0], nil
}

// npmReason shortens what npm said to the lines that tell why.
func npmReason(output string) string {
	var said []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "npm error"))
		if line == "" || strings.HasPrefix(line, "npm warn") || strings.HasPrefix(line, "A complete log") ||
			strings.HasPrefix(line, "code ") || strings.Contains(line, "In most cases you or one of your dependencies") {
			continue
		}
		said = append(said, line)
		if len(said) == 3 {
			break
		}
	}
	if len(said) == 0 {
		return "it gave no reason; is the registry reachable (npm ping)?"
	}
	return strings.Join(said, "; ")
}
