// Command notices writes THIRD_PARTY_NOTICES.md: every Go module that is linked
// into skein on any platform with its licence, and the texts of what is shipped
// beside it. With -check it only compares, and fails when a module is missing
// or one too many is listed. Run from the repository's root.
package main

import (
	"bytes"
	"embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const file = "THIRD_PARTY_NOTICES.md"

// texts are the licences of what is no Go module.
//
//go:embed texts
var texts embed.FS

// shipped is what a release holds beside Go modules.
var shipped = []struct{ name, what, text string }{
	{"llama.cpp 0.5.0", "the engine libraries (libllama, libggml), loaded at run time; they contain llamafile's matrix kernels (MIT, Copyright 2024 Mozilla Foundation)", "texts/llama.cpp.txt"},
	{"node-llama-cpp 3.22.1", "the builds of those libraries", "texts/node-llama-cpp.txt"},
	{"@huggingface/jinja 0.5.11", "the chat template engine, bundled into the binary", "texts/huggingface-jinja.txt"},
}

func main() {
	check := flag.Bool("check", false, "compare with the file instead of writing it")
	flag.Parse()
	if err := run(*check); err != nil {
		fmt.Fprintln(os.Stderr, "notices:", err)
		os.Exit(1)
	}
}

func run(check bool) error {
	modules, err := linked()
	if err != nil {
		return err
	}
	want, err := render(modules)
	if err != nil {
		return err
	}
	if !check {
		return os.WriteFile(file, want, 0o644)
	}
	have, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !bytes.Equal(have, want) {
		return errors.New(file + " does not match the modules that are linked; run `make notices`")
	}
	return nil
}

// module is a Go module with the folder of its sources.
type module struct{ path, version, dir string }

// linked gives the modules of the binary, over all platforms, sorted.
func linked() ([]module, error) {
	found := map[module]bool{}
	for _, platform := range []string{"linux/amd64", "linux/arm64", "darwin/arm64", "darwin/amd64", "windows/amd64", "windows/arm64"} {
		system, arch, _ := strings.Cut(platform, "/")
		cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}\t{{.Version}}\t{{.Dir}}{{end}}{{end}}", "./cmd/skein")
		cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH="+arch, "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("list modules for %s: %w", platform, err)
		}
		for line := range strings.Lines(string(out)) {
			if parts := strings.Split(strings.TrimSpace(line), "\t"); len(parts) == 3 {
				found[module{parts[0], parts[1], parts[2]}] = true
			}
		}
	}
	var all []module
	for m := range found {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b module) int { return strings.Compare(a.path, b.path) })
	return all, nil
}

func render(modules []module) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("# Third-party notices\n\nSkein itself is under the Apache License 2.0 (LICENSE). A release also holds what is\nlisted here. This file is written by `make notices`; do not edit it.\n")
	section := func(name, what string, licence []byte) {
		fmt.Fprintf(&b, "\n## %s\n\n", name)
		if what != "" {
			fmt.Fprintf(&b, "%s.\n\n", strings.ToUpper(what[:1])+what[1:])
		}
		b.WriteString("```text\n")
		for line := range strings.Lines(string(licence)) {
			b.WriteString(strings.TrimRight(line, " \t\r\n") + "\n")
		}
		b.WriteString("```\n")
	}
	for _, s := range shipped {
		licence, err := texts.ReadFile(s.text)
		if err != nil {
			return nil, err
		}
		section(s.name, s.what, bytes.TrimSpace(licence))
	}
	goLicence, err := texts.ReadFile("texts/go.txt")
	if err != nil {
		return nil, err
	}
	section("The Go runtime and standard library", "linked into the binary", bytes.TrimSpace(goLicence))
	for _, m := range modules {
		licence, err := licenceOf(m)
		if err != nil {
			return nil, err
		}
		section(m.path, "", bytes.TrimSpace(licence))
	}
	return b.Bytes(), nil
}

// licenceOf reads a module's licence and, where there is one, its NOTICE.
func licenceOf(m module) ([]byte, error) {
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.path, err)
	}
	var out []byte
	for _, prefix := range []string{"LICENSE", "LICENCE", "COPYING", "NOTICE"} {
		for _, e := range entries {
			if e.IsDir() || !strings.HasPrefix(strings.ToUpper(e.Name()), prefix) {
				continue
			}
			data, err := os.ReadFile(filepath.Join(m.dir, e.Name()))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", m.path, err)
			}
			out = append(append(out, data...), '\n', '\n')
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s %s has no licence file; it cannot be shipped", m.path, m.version)
	}
	return out, nil
}
