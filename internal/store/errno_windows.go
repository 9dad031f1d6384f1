package store

import (
	"errors"

	"golang.org/x/sys/windows"
)

// busy is an error of the machine, not of the file: it may be gone at the next try.
func busy(err error) bool {
	return errors.Is(err, windows.ERROR_TOO_MANY_OPEN_FILES) || errors.Is(err, windows.ERROR_NOT_ENOUGH_MEMORY)
}

func full(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}
func readOnly(err error) bool { return errors.Is(err, windows.ERROR_WRITE_PROTECT) }
