package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

// entry is a file of an archive.
type entry struct {
	name    string // slash-separated, below the archive's folder
	from    string // file to read
	program bool   // executable
}

func (e entry) mode() fs.FileMode {
	if e.program {
		return 0o755
	}
	return 0o644
}

func sorted(files []entry) []entry {
	return slices.SortedFunc(slices.Values(files), func(a, b entry) int { return strings.Compare(a.name, b.name) })
}

// writeTar writes files below folder. What could differ between two machines
// (owners, times, order) is set.
func writeTar(w io.Writer, folder string, files []entry, stamp time.Time) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	for _, e := range sorted(files) {
		data, err := os.ReadFile(e.from)
		if err != nil {
			return err
		}
		h := &tar.Header{Name: folder + "/" + e.name, Typeflag: tar.TypeReg, Size: int64(len(data)), Mode: int64(e.mode()), ModTime: stamp, Format: tar.FormatUSTAR}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := t.Write(data); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), z.Close())
}

// writeZip is writeTar as a zip.
func writeZip(w io.Writer, folder string, files []entry, stamp time.Time) error {
	z := zip.NewWriter(w)
	for _, e := range sorted(files) {
		data, err := os.ReadFile(e.from)
		if err != nil {
			return err
		}
		h := &zip.FileHeader{Name: folder + "/" + e.name, Method: zip.Deflate, Modified: stamp}
		h.SetMode(e.mode())
		f, err := z.CreateHeader(h)
		if err != nil {
			return err
		}
		if _, err := f.Write(data); err != nil {
			return err
		}
	}
	return z.Close()
}
