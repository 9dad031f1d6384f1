// Command dist makes the release archives: for each platform the binary, the
// engine libraries, the demo model and the licences, in a tar.gz, or a zip for
// Windows, and SHA256SUMS over them. Two runs on one commit give the same
// bytes: files are sorted and carry the time of the commit. Run from the
// repository's root by `make dist`.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/engine"
)

const module = "github.com/skein-run/skein"

// demo is the model inside each archive.
const demo = "models/demo/skein-demo-4m-q8_0.gguf"

// platforms are those a release is made for.
var platforms = []engine.Platform{
	{OS: "linux", Arch: "amd64"}, {OS: "linux", Arch: "arm64"},
	{OS: "darwin", Arch: "amd64"}, {OS: "darwin", Arch: "arm64"},
	{OS: "windows", Arch: "amd64"}, {OS: "windows", Arch: "arm64"},
}

// release is what the flags say.
type release struct {
	version, commit, out string
	partial              bool
	stamp                time.Time // of every file in the archives
}

func main() {
	var r release
	var only string
	flag.StringVar(&r.version, "version", "dev", "version of the release")
	flag.StringVar(&r.commit, "commit", "", "short commit")
	flag.StringVar(&r.out, "out", "dist", "folder for the archives")
	flag.BoolVar(&r.partial, "partial", false, "succeed even when a platform's engine cannot be fetched")
	flag.StringVar(&only, "platform", "", "make the archive of this OS/ARCH only")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := r.run(ctx, only); err != nil {
		fmt.Fprintln(os.Stderr, "dist:", err)
		os.Exit(1)
	}
}

func (r *release) run(ctx context.Context, only string) error {
	wanted := platforms
	if only != "" {
		p, err := engine.ParsePlatform(only)
		if err != nil {
			return err
		}
		wanted = []engine.Platform{p}
	}
	var err error
	if r.stamp, err = commitTime(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(r.out); err != nil {
		return err
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	var sums bytes.Buffer
	var incomplete []error
	for _, p := range wanted {
		name, missing, err := r.archive(ctx, p)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		if missing != nil {
			incomplete = append(incomplete, fmt.Errorf("%s: %w", name, missing))
		}
		data, err := os.ReadFile(filepath.Join(r.out, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(data), name)
		fmt.Printf("%s  %.1f MB\n", name, float64(len(data))/(1<<20))
	}
	if err := os.WriteFile(filepath.Join(r.out, "SHA256SUMS"), sums.Bytes(), 0o644); err != nil {
		return err
	}
	if len(incomplete) == 0 {
		return nil
	}
	err = fmt.Errorf("%d of %d archives have no engine inside, because npm could not fetch it:\n%w", len(incomplete), len(wanted), errors.Join(incomplete...))
	if r.partial {
		fmt.Fprintln(os.Stderr, "dist:", err)
		return nil
	}
	return fmt.Errorf("%w\nthey are named no-engine; DISTFLAGS=-partial accepts that", err)
}

// commitTime is SOURCE_DATE_EPOCH, or else the time of the commit.
func commitTime(ctx context.Context) (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		out, err := exec.CommandContext(ctx, "git", "log", "-1", "--format=%ct").Output()
		if err != nil {
			return time.Time{}, fmt.Errorf("read the time of the commit: %w; outside a git checkout set SOURCE_DATE_EPOCH", err)
		}
		text = string(out)
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the time of the commit: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// archive makes one archive and gives its name. missing says why the engine
// could not be put into it.
func (r *release) archive(ctx context.Context, p engine.Platform) (name string, missing, err error) {
	binary := "skein"
	if p.OS == "windows" {
		binary += ".exe"
	}
	work := filepath.Join("build", "dist", p.OS+"-"+p.Arch)
	built := filepath.Join(work, binary)
	if err := r.build(ctx, p, built); err != nil {
		return "", nil, err
	}
	files := []entry{
		{name: binary, from: built, program: true},
		{name: "LICENSE", from: "LICENSE"},
		{name: "THIRD_PARTY_NOTICES.md", from: "THIRD_PARTY_NOTICES.md"},
		{name: "models/" + filepath.Base(demo), from: demo},
	}
	// A tree without a README can still be packed.
	if _, err := os.Stat("README.md"); err == nil {
		files = append(files, entry{name: "README.md", from: "README.md"})
	}
	title := "skein-" + r.version + "-" + p.OS + "-" + p.Arch
	libraries, missing := r.engine(ctx, p, filepath.Join("build", "dist", "engine", p.OS+"-"+p.Arch))
	if ctx.Err() != nil {
		return "", nil, context.Cause(ctx)
	}
	if missing != nil {
		title += "-no-engine"
		note := filepath.Join(work, "ENGINE-MISSING.txt")
		text := "This archive holds no llama.cpp libraries.\nRun `skein engine install` once; it needs the npm client.\n"
		if err := os.WriteFile(note, []byte(text), 0o644); err != nil {
			return "", nil, err
		}
		files = append(files, entry{name: filepath.Base(note), from: note})
	}
	files = append(files, libraries...)
	write, suffix := writeTar, ".tar.gz"
	if p.OS == "windows" {
		write, suffix = writeZip, ".zip"
	}
	var b bytes.Buffer
	if err := write(&b, title, files, r.stamp); err != nil {
		return "", nil, err
	}
	return title + suffix, missing, os.WriteFile(filepath.Join(r.out, title+suffix), b.Bytes(), 0o644)
}

func (r *release) build(ctx context.Context, p engine.Platform, out string) error {
	stamp := module + "/internal/buildinfo."
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X "+stamp+"version="+r.version+" -X "+stamp+"commit="+r.commit, "-o", out, "./cmd/skein")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.OS, "GOARCH="+p.Arch)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	return nil
}

// engine fetches the CPU libraries of a platform, on a Mac those with Metal,
// and lists them as files of lib/.
func (r *release) engine(ctx context.Context, p engine.Platform, dir string) ([]entry, error) {
	if _, err := engine.Install(ctx, engine.InstallOptions{Backend: engine.CPU, Platform: p, Dir: dir}); err != nil {
		return nil, err
	}
	var out []entry
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, entry{name: "lib/" + d.Name(), from: path})
		}
		return err
	})
	return out, err
}
