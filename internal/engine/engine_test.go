package engine

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	linux64  = Platform{"linux", "amd64"}
	linuxArm = Platform{"linux", "arm64"}
	macArm   = Platform{"darwin", "arm64"}
	win64    = Platform{"windows", "amd64"}
)

// elfHeader is the shortest file that names its machine as a shared library.
func elfHeader(t *testing.T, m elf.Machine) []byte {
	t.Helper()
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(m), Version: 1, Ehsize: 64, Shentsize: 64, Phentsize: 56}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, h); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// machoHeader is a Mach-O library's header without load commands.
func machoHeader() []byte {
	var b bytes.Buffer
	for _, v := range []uint32{0xfeedfacf, 0x0100000c, 0, 6, 0, 0, 0, 0} {
		b.Write(binary.LittleEndian.AppendUint32(nil, v))
	}
	return b.Bytes()
}

// peHeader is a Windows library's header without sections.
func peHeader() []byte {
	b := make([]byte, 0x80)
	copy(b, "MZ")
	b[0x3c] = 0x40
	copy(b[0x40:], "PE\x00\x00\x64\x86")
	return append(b[:0x44], append([]byte{0x64, 0x86}, make([]byte, 120)...)...)
}

// plant writes files; those named like libllama get content that fits p.
func plant(t *testing.T, dir string, p Platform, names ...string) string {
	t.Helper()
	content := map[Platform][]byte{linux64: elfHeader(t, elf.EM_X86_64), linuxArm: elfHeader(t, elf.EM_AARCH64), macArm: machoHeader(), win64: peHeader()}[p]
	for _, n := range names {
		path := filepath.Join(dir, filepath.FromSlash(n))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var npmLinux = []string{"libllama.v0.5.0.so", "libggml.v0.5.0.so", "libggml-base.so", "libggml-cpu-haswell.so", "libggml-cpu-x64.so", "libllama-common.so"}

func under(prefix string, names []string) []string {
	var out []string
	for _, n := range names {
		out = append(out, prefix+n)
	}
	return out
}

func TestInspectLayouts(t *testing.T) {
	for name, c := range map[string]struct {
		platform Platform
		files    []string
		want     Engine // paths relative to the folder
	}{
		"npm": {linux64, npmLinux,
			Engine{"", "libllama.v0.5.0.so", "libggml-base.so", "libggml.v0.5.0.so", []string{"cpu"}, "0.5.0"}},
		"npm, nested as packed": {linux64, under("package/bins/linux-x64/", npmLinux),
			Engine{"package/bins/linux-x64", "package/bins/linux-x64/libllama.v0.5.0.so", "package/bins/linux-x64/libggml-base.so", "package/bins/linux-x64/libggml.v0.5.0.so", []string{"cpu"}, "0.5.0"}},
		"npm cuda": {linux64, []string{"libllama.cuda.v0.5.0.so", "libggml.cuda.v0.5.0.so", "libggml-base.so", "libggml-cpu-x64.so", "libggml-cuda.so"},
			Engine{"", "libllama.cuda.v0.5.0.so", "libggml-base.so", "libggml.cuda.v0.5.0.so", []string{"cpu", "cuda"}, "0.5.0"}},
		"official, with symbolic link names": {linux64, []string{"libllama.so", "libllama.so.0", "libllama.so.0.5.0", "libggml.so", "libggml.so.0", "libggml-base.so", "libggml-base.so.0", "libggml-cpu.so", "libggml-rpc.so"},
			Engine{"", "libllama.so", "libggml-base.so", "libggml.so", []string{"cpu", "rpc"}, "0.5.0"}},
		"official, version unknown": {linuxArm, []string{"bin/libllama.so", "bin/libggml.so", "bin/libggml-base.so", "bin/libggml-cpu.so"},
			Engine{"bin", "bin/libllama.so", "bin/libggml-base.so", "bin/libggml.so", []string{"cpu"}, ""}},
		"mac": {macArm, []string{"libllama.metal.v0.5.0.dylib", "libggml.metal.v0.5.0.dylib", "libggml-base.dylib", "libggml-metal.so", "libggml-blas.so", "libggml-cpu-apple_m1.so"},
			Engine{"", "libllama.metal.v0.5.0.dylib", "libggml-base.dylib", "libggml.metal.v0.5.0.dylib", []string{"blas", "cpu", "metal"}, "0.5.0"}},
		"windows": {win64, []string{"llama.v0.5.0.dll", "ggml.v0.5.0.dll", "ggml-base.dll", "ggml-cpu-zen4.dll", "llama-common.dll"},
			Engine{"", "llama.v0.5.0.dll", "ggml-base.dll", "ggml.v0.5.0.dll", []string{"cpu"}, "0.5.0"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := plant(t, t.TempDir(), c.platform, c.files...)
			got, err := Inspect(dir, c.platform)
			if err != nil {
				t.Fatal(err)
			}
			want := c.want
			for _, p := range []*string{&want.Dir, &want.Libllama, &want.Base, &want.Libggml} {
				*p = filepath.Join(dir, filepath.FromSlash(*p))
			}
			if diff := cmp.Diff(&want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestInspectSaysWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		plant func(t *testing.T, dir string)
		want  string
	}{
		"absent": {func(t *testing.T, dir string) {
			if err := os.Remove(dir); err != nil {
				t.Fatal(err)
			}
		}, "does not exist"},
		"a file": {func(t *testing.T, dir string) {
			if err := errors.Join(os.Remove(dir), os.WriteFile(dir, nil, 0o644)); err != nil {
				t.Fatal(err)
			}
		}, "is a file; name the folder that holds it"},
		"empty":    {func(t *testing.T, dir string) {}, "holds no libllama.so"},
		"half":     {func(t *testing.T, dir string) { plant(t, dir, linux64, "libllama.so", "libggml-base.so") }, "holds libllama.so but not libggml, a backend such as libggml-cpu"},
		"no base":  {func(t *testing.T, dir string) { plant(t, dir, linux64, "libllama.so", "libggml.so", "libggml-cpu.so") }, "holds libllama.so but not libggml-base"},
		"other OS": {func(t *testing.T, dir string) { plant(t, dir, win64, "llama.dll", "ggml.dll") }, "holds llama.dll, a library for another operating system; linux/amd64 is needed"},
		"other CPU": {func(t *testing.T, dir string) { plant(t, dir, linuxArm, npmLinux...) },
			"libllama.v0.5.0.so: is for linux/arm64; linux/amd64 is needed"},
		"other version by name": {func(t *testing.T, dir string) {
			plant(t, dir, linux64, "libllama.v0.4.0.so", "libggml.v0.4.0.so", "libggml-base.so", "libggml-cpu-x64.so")
		}, "holds llama.cpp 0.4.0, and this build works with 0.5.0 only"},
		"other version by note": {func(t *testing.T, dir string) {
			plant(t, dir, linux64, "libllama.so", "libggml.so", "libggml-base.so", "libggml-cpu.so")
			if err := os.WriteFile(filepath.Join(dir, "_nlcBuildMetadata.json"), []byte(`{"buildOptions":{"llamaCpp":{"release":"v0.6.1"}}}`), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "holds llama.cpp 0.6.1, and this build works with 0.5.0 only"},
		"text": {func(t *testing.T, dir string) {
			plant(t, dir, linux64, npmLinux...)
			if err := os.WriteFile(filepath.Join(dir, "libllama.v0.5.0.so"), []byte("version https://git-lfs"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "libllama.v0.5.0.so: is not a library; install it again"},
		"cut off": {func(t *testing.T, dir string) {
			plant(t, dir, linux64, npmLinux...)
			if err := os.WriteFile(filepath.Join(dir, "libllama.v0.5.0.so"), []byte("\x7fELF\x02"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "libllama.v0.5.0.so: is damaged"},
		"nested wins the message": {func(t *testing.T, dir string) { plant(t, dir, linux64, "bins/linux-x64/libllama.so") },
			"holds libllama.so but not libggml-base, libggml"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c.plant(t, dir)
			_, err := Inspect(dir, linux64)
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got %v\nwant %s...", err, c.want)
			}
		})
	}
}

func TestSearchOrder(t *testing.T) {
	root := t.TempDir()
	exe := filepath.Join(root, "bin", "skein")
	home := filepath.Join(root, "home")
	named := plant(t, filepath.Join(root, "named"), linux64, npmLinux...)
	o := Options{Executable: exe, Home: home, Platform: linux64}

	_, err := Find(o)
	var missing *NotFoundError
	if !errors.As(err, &missing) || len(missing.Looked) != 2 {
		t.Fatalf("want two places looked at, got %v", err)
	}
	for _, part := range []string{"llama.cpp 0.5.0", filepath.Join(root, "bin", "lib"), filepath.Join(home, "engine"), "skein engine install"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}

	find := func(o Options, want string) {
		t.Helper()
		e, err := Find(o)
		if err != nil {
			t.Fatal(err)
		}
		if e.Dir != want {
			t.Errorf("found %s, want %s", e.Dir, want)
		}
	}
	cpu := plant(t, filepath.Join(home, "engine", "0.5.0-cpu"), linux64, npmLinux...)
	find(o, cpu)
	cuda := plant(t, filepath.Join(home, "engine", "0.5.0-vulkan"), linux64, npmLinux...)
	find(o, cpu)
	if err := os.WriteFile(filepath.Join(home, "engine", "current"), []byte("0.5.0-vulkan\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	find(o, cuda)
	beside := plant(t, filepath.Join(root, "bin"), linux64, npmLinux...)
	find(o, beside)
	lib := plant(t, filepath.Join(root, "bin", "lib"), linux64, npmLinux...)
	find(o, lib)
	o.Dir = named
	find(o, named)

	o.Dir = filepath.Join(root, "nothing")
	if _, err := Find(o); !errors.As(err, &missing) || len(missing.Looked) != 1 {
		t.Errorf("a named folder must be the only one looked at, got %v", err)
	}
	o.Dir = ""
	var sources []string
	for _, c := range Search(o) {
		sources = append(sources, c.Source+" "+filepath.Base(c.Dir))
	}
	if diff := cmp.Diff([]string{"beside the binary lib", "beside the binary bin", "SKEIN_HOME 0.5.0-vulkan", "SKEIN_HOME 0.5.0-cpu"}, sources); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestParsePlatform(t *testing.T) {
	if p, err := ParsePlatform("linux/arm64"); err != nil || p != linuxArm {
		t.Errorf("got %v, %v", p, err)
	}
	for _, bad := range []string{"", "linux", "/amd64", "linux/"} {
		if _, err := ParsePlatform(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
