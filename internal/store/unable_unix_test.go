//go:build unix

package store

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestUnableIsNotDamaged: a file that can't be opened for want of something else
// is left where it is, with all that is in it.
func TestUnableIsNotDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	l := openAt(t, path)
	want := entries(1, 5)
	if err := l.Append(want...); err != nil {
		t.Fatal(err)
	}
	shut(t, l)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	none := old
	none.Cur = 1
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	_, err := Open(path)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, syscall.EMFILE) {
		t.Errorf("opened without a descriptor: %v", err)
	}
	if _, err := os.Stat(path + ".damaged"); err == nil {
		t.Error("it was put aside as damaged")
	}
	l = openAt(t, path)
	defer shut(t, l)
	if got := all(t, l, 1); len(got) != len(want) || l.Damage() != "" {
		t.Errorf("%d entries are left of %d; damage %q", len(got), len(want), l.Damage())
	}
}

// TestUnable tells errors of the machine from those of the file.
func TestUnable(t *testing.T) {
	for _, err := range []error{syscall.EROFS, syscall.EACCES, syscall.ENOSPC, syscall.EMFILE, syscall.ENOMEM} {
		if !unable(&os.PathError{Op: "open", Path: "x", Err: err}) {
			t.Errorf("%v counts as damage", err)
		}
	}
	if unable(errors.New("the file is damaged")) {
		t.Error("damage counts as an error of the machine")
	}
}
