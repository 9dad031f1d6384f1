package engine

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"debug/elf"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// tarball builds an npm archive from names and contents.
func tarball(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WriteHeader(&tar.Header{Name: "package/bins/x/libllama.v9.so", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// macPackage stands for a package that is not pinned, so that its content is
// the test's to choose.
func macPackage(t *testing.T) []byte {
	files := map[string][]byte{
		"package/LICENSE": []byte("MIT"),
		"package/bins/mac-arm64-metal/llama-addon.node":      []byte("not wanted"),
		"package/bins/mac-arm64-metal/libllama-common.dylib": []byte("not wanted"),
		"package/dist/libllama.dylib":                        []byte("not wanted"),
		"package/bins/../../../libggml-rpc.so":               []byte("kept inside"),
	}
	for _, n := range []string{"libllama.metal.v0.5.0.dylib", "libggml.metal.v0.5.0.dylib", "libggml-base.dylib", "libggml-metal.so", "libggml-cpu-apple_m1.so"} {
		files["package/bins/mac-arm64-metal/"+n] = machoHeader()
	}
	return tarball(t, files)
}

// packing gives a Pack function that hands out content and counts its calls.
func packing(content []byte, calls *int) func(context.Context, Package, string) (string, error) {
	return func(_ context.Context, _ Package, into string) (string, error) {
		*calls++
		name := filepath.Join(into, "p.tgz")
		return name, os.WriteFile(name, content, 0o644)
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestInstall(t *testing.T) {
	home := t.TempDir()
	calls := 0
	o := InstallOptions{Backend: Metal, Platform: macArm, Home: home, Pack: packing(macPackage(t), &calls)}
	got, err := Install(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(home, "engine", "0.5.0-metal")
	if got.Engine.Dir != dir || got.Already || len(got.Unpinned) != 1 {
		t.Errorf("got %+v", got)
	}
	want := []string{"LICENSE.node-llama-cpp", "engine.json", "libggml-base.dylib", "libggml-cpu-apple_m1.so", "libggml-metal.so", "libggml-rpc.so", "libggml.metal.v0.5.0.dylib", "libllama.metal.v0.5.0.dylib"}
	if diff := cmp.Diff(want, list(t, dir)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if diff := cmp.Diff([]string{"0.5.0-metal", "current"}, list(t, filepath.Join(home, "engine"))); diff != "" {
		t.Errorf("left behind: -want +got\n%s", diff)
	}
	again, err := Install(t.Context(), o)
	if err != nil || !again.Already || calls != 1 {
		t.Errorf("second install: %+v, %v, %d fetches", again, err, calls)
	}
	// A damaged engine is replaced.
	if err := os.Remove(filepath.Join(dir, "libggml-base.dylib")); err != nil {
		t.Fatal(err)
	}
	repaired, err := Install(t.Context(), o)
	if err != nil || repaired.Already || calls != 2 {
		t.Errorf("repair: %+v, %v, %d fetches", repaired, err, calls)
	}
	if diff := cmp.Diff([]string{"0.5.0-metal", "current"}, list(t, filepath.Join(home, "engine"))); diff != "" {
		t.Errorf("left behind: -want +got\n%s", diff)
	}
}

func TestInstallRefuses(t *testing.T) {
	calls := 0
	elfs := map[string][]byte{}
	for _, n := range npmLinux {
		elfs["package/bins/linux-x64/"+n] = elfHeader(t, elf.EM_X86_64)
	}
	for name, c := range map[string]struct {
		o    InstallOptions
		want string
	}{
		"content that is not the pinned one": {InstallOptions{Backend: CPU, Platform: linux64, Pack: packing(tarball(t, elfs), &calls)},
			"install engine: check @node-llama-cpp/linux-x64@3.22.1: the registry sent other content"},
		"a package without libraries": {InstallOptions{Backend: Metal, Platform: macArm, Pack: packing(tarball(t, nil), &calls)},
			"holds no libllama.dylib"},
		"no archive": {InstallOptions{Backend: Metal, Platform: macArm, Pack: packing([]byte("<html><body>not found</body></html>"), &calls)}, "unpack @node-llama-cpp/mac-arm64-metal@3.22.1: gzip: invalid header"},
		"failing client": {InstallOptions{Backend: Metal, Platform: macArm, Pack: func(context.Context, Package, string) (string, error) {
			return "", errors.New("no network")
		}}, "fetch @node-llama-cpp/mac-arm64-metal@3.22.1: no network"},
		"backend without package":  {InstallOptions{Backend: CUDA, Platform: macArm}, "no cuda package exists for darwin/arm64 (there is cpu, metal)"},
		"platform without package": {InstallOptions{Backend: CPU, Platform: Platform{"plan9", "386"}}, "no llama.cpp package exists for plan9/386"},
		"auto":                     {InstallOptions{Backend: Auto}, "choose a backend first"},
	} {
		t.Run(name, func(t *testing.T) {
			c.o.Home = t.TempDir()
			_, err := Install(t.Context(), c.o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant ...%s...", err, c.want)
			}
			if entries, err := os.ReadDir(filepath.Join(c.o.Home, "engine")); err == nil && len(entries) > 0 {
				t.Errorf("left behind: %v", entries)
			}
		})
	}
}

func TestInstallNeverReplacesOtherFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.txt"), []byte("years of work"), 0o644); err != nil {
		t.Fatal(err)
	}
	calls := 0
	_, err := Install(t.Context(), InstallOptions{Backend: Metal, Platform: macArm, Dir: dir, Pack: packing(macPackage(t), &calls)})
	if err == nil || !strings.Contains(err.Error(), "holds thesis.txt") || calls != 0 {
		t.Errorf("got %v after %d fetches", err, calls)
	}
	if diff := cmp.Diff([]string{"thesis.txt"}, list(t, dir)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestCUDA12ReplacesCUDA13(t *testing.T) {
	dir := t.TempDir()
	first := tarball(t, map[string][]byte{"package/bins/linux-x64-cuda/libggml-cuda.so": []byte("13")})
	second := tarball(t, map[string][]byte{"package/bins/linux-x64-cuda/fallback/libggml-cuda.so": []byte("12")})
	for _, content := range [][]byte{first, second} {
		archive := filepath.Join(t.TempDir(), "p.tgz")
		if err := os.WriteFile(archive, content, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := unpack(archive, dir); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(dir, "libggml-cuda.so")); err != nil || string(got) != "12" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestVerify(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "p.tgz")
	if err := os.WriteFile(archive, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum512([]byte("content"))
	if err := verify(archive, "sha512-"+base64.StdEncoding.EncodeToString(sum[:])); err != nil {
		t.Error(err)
	}
	if err := verify(archive, "sha512-AAAA"); err == nil {
		t.Error("another hash was accepted")
	}
}

// TestPins guards the lock file: a platform silently losing its pin would turn
// a checked install into an unchecked one. When the registry has the packages
// named here, run `make engine-lock` and shorten the list.
func TestPins(t *testing.T) {
	known := []string{"mac-arm64-metal", "mac-x64", "win-arm64", "win-x64", "win-x64-cuda", "win-x64-cuda-ext", "win-x64-vulkan"}
	var unpinned []string
	for _, p := range []Platform{linux64, linuxArm, {"darwin", "amd64"}, macArm, win64, {"windows", "arm64"}} {
		for _, b := range []Backend{CPU, CUDA, Vulkan, Metal} {
			packages, err := Packages(p, b, true)
			if err != nil {
				continue // no such backend there; TestInstallRefuses covers it
			}
			for _, q := range packages {
				short := strings.TrimPrefix(q.Name, "@node-llama-cpp/")
				if q.Integrity == "" && !slices.Contains(unpinned, short) {
					unpinned = append(unpinned, short)
				}
			}
		}
	}
	slices.Sort(unpinned)
	if diff := cmp.Diff(known, unpinned); diff != "" {
		t.Errorf("packages without a pin: -known +now\n%s", diff)
	}
	if _, err := pinned([]byte(`{"packages":{"node_modules/@node-llama-cpp/linux-x64":{"version":"3.21.1","integrity":"sha512-x"}}}`)); err == nil {
		t.Error("a lock of another version was accepted")
	}
	if bytes.Contains(lock, []byte("resolved")) {
		t.Error("the lock file names a registry; npm must run with omit-lockfile-registry-resolved")
	}
}

func TestDetect(t *testing.T) {
	files := func(names ...string) fstest.MapFS {
		m := fstest.MapFS{}
		for _, n := range names {
			m[n] = &fstest.MapFile{}
		}
		return m
	}
	const usr = "usr/lib/x86_64-linux-gnu/"
	for name, c := range map[string]struct {
		platform Platform
		files    fstest.MapFS
		dirs     []string
		want     Backend
		cuda12   bool
	}{
		"bare":                       {linux64, files("etc/passwd"), nil, CPU, false},
		"nvidia and cuda 13":         {linux64, files("dev/nvidiactl", "usr/local/cuda-13.0/lib64/libcudart.so.13", "usr/local/cuda-13.0/lib64/libcublas.so.13"), nil, CUDA, false},
		"nvidia, cuda 12 and 13":     {linux64, files("dev/nvidiactl", usr+"libcudart.so.13", usr+"libcublas.so.13", usr+"libcudart.so.12", usr+"libcublas.so.12"), nil, CUDA, false},
		"nvidia and cuda 12":         {linux64, files("proc/driver/nvidia/version", usr+"libcudart.so.12", usr+"libcublas.so.12"), nil, CUDA, true},
		"cuda in LD_LIBRARY_PATH":    {linux64, files("dev/nvidiactl", "home/me/cuda/libcudart.so.12", "home/me/cuda/libcublas.so.12"), []string{"/home/me/cuda"}, CUDA, true},
		"half a cuda":                {linux64, files("dev/nvidiactl", usr+"libcudart.so.12"), nil, CPU, false},
		"nvidia without cuda":        {linux64, files("dev/nvidiactl", usr+"libvulkan.so.1"), nil, Vulkan, false},
		"cuda without driver":        {linux64, files(usr+"libcudart.so.13", usr+"libcublas.so.13"), nil, CPU, false},
		"gpu and vulkan":             {linux64, files("dev/dri/renderD128", "usr/lib64/libvulkan.so.1"), nil, Vulkan, false},
		"gpu without vulkan":         {linux64, files("dev/dri/renderD128"), nil, CPU, false},
		"vulkan loader without gpu":  {linux64, files(usr + "libvulkan.so.1"), nil, CPU, false},
		"linux on arm":               {linuxArm, files("dev/nvidiactl", "usr/lib/libvulkan.so.1"), nil, CPU, false},
		"apple chip":                 {macArm, files(), nil, Metal, false},
		"intel mac":                  {Platform{"darwin", "amd64"}, files(), nil, CPU, false},
		"windows, nvidia, cuda 13":   {win64, files("Windows/System32/nvcuda.dll", "Program Files/NVIDIA GPU Computing Toolkit/CUDA/v13.0/x"), nil, CUDA, false},
		"windows, nvidia, no cuda":   {win64, files("Windows/System32/nvcuda.dll", "Windows/System32/vulkan-1.dll"), nil, Vulkan, false},
		"windows, nothing":           {win64, files("Windows/System32/kernel32.dll"), nil, CPU, false},
		"windows on arm, vulkan dll": {Platform{"windows", "arm64"}, files("Windows/System32/vulkan-1.dll"), nil, CPU, false},
	} {
		t.Run(name, func(t *testing.T) {
			got := Detect(Machine{Platform: c.platform, Root: c.files, LibraryDirs: c.dirs})
			if got.Backend != c.want || got.CUDA12 != c.cuda12 || got.Why == "" {
				t.Errorf("got %+v, want %s", got, c.want)
			}
			if _, err := Packages(c.platform, got.Backend, got.CUDA12); err != nil {
				t.Errorf("chosen, but %v", err)
			}
		})
	}
}

func TestNpmReason(t *testing.T) {
	got := npmReason("npm warn Unknown user config\nnpm error code E404\nnpm error 404 No match found for version 3.22.1\nnpm error A complete log of this run can be found in: /x\n")
	if want := "404 No match found for version 3.22.1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := npmReason("\n"); !strings.Contains(got, "npm ping") {
		t.Errorf("got %q", got)
	}
}
