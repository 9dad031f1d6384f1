package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type member struct {
	Name, Content string
	Mode          fs.FileMode
	Time          int64
}

func TestArchivesAreReproducible(t *testing.T) {
	dir := t.TempDir()
	var files []entry
	for _, n := range []string{"skein", "LICENSE", "lib/libllama.so"} {
		from := filepath.Join(dir, filepath.Base(n))
		if err := os.WriteFile(from, []byte("content of "+n), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, entry{name: n, from: from, program: n == "skein"})
	}
	stamp := time.Unix(1_790_000_000, 0).UTC()
	want := []member{
		{"skein-1/LICENSE", "content of LICENSE", 0o644, stamp.Unix()},
		{"skein-1/lib/libllama.so", "content of lib/libllama.so", 0o644, stamp.Unix()},
		{"skein-1/skein", "content of skein", 0o755, stamp.Unix()},
	}
	for name, c := range map[string]struct {
		write func(io.Writer, string, []entry, time.Time) error
		read  func([]byte) ([]member, error)
	}{"tar": {writeTar, readTar}, "zip": {writeZip, readZip}} {
		t.Run(name, func(t *testing.T) {
			var first, second bytes.Buffer
			if err := c.write(&first, "skein-1", files, stamp); err != nil {
				t.Fatal(err)
			}
			got, err := c.read(first.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			// Neither the order nor the times of the sources may show.
			turned := slices.Clone(files)
			slices.Reverse(turned)
			for _, f := range files {
				if err := os.Chtimes(f.from, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.write(&second, "skein-1", turned, stamp); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(first.Bytes(), second.Bytes()) {
				t.Error("two archives of the same files differ")
			}
			if err := c.write(io.Discard, "skein-1", []entry{{name: "x", from: filepath.Join(dir, "absent")}}, stamp); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("an absent file gave %v", err)
			}
		})
	}
}

func readTar(data []byte) ([]member, error) {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	r := tar.NewReader(z)
	var out []member
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		out = append(out, member{h.Name, string(content), fs.FileMode(h.Mode), h.ModTime.Unix()})
	}
}

func readZip(data []byte) ([]member, error) {
	r, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, err
	}
	var out []member
	for _, f := range r.File {
		c, err := f.Open()
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(c)
		if err != nil {
			return nil, err
		}
		out = append(out, member{f.Name, string(content), f.Mode(), f.Modified.Unix()})
	}
	return out, nil
}
