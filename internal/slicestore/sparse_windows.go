package slicestore

import (
	"os"

	"golang.org/x/sys/windows"
)

// punchable makes a file one with holes. On a file system without them the
// file takes its whole size.
func punchable(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) {
		var n uint32
		// A refusal costs room and nothing else.
		_ = windows.DeviceIoControl(windows.Handle(fd), windows.FSCTL_SET_SPARSE, nil, 0, nil, 0, &n, nil)
	})
}
