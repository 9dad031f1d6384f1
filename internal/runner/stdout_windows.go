package runner

import (
	"fmt"
	"os"

	"golang.org/x/sys/windows"
)

// claimStdout keeps standard output for frames: the process's handle is
// replaced before the library's C runtime is loaded and reads it.
func claimStdout() (*os.File, error) {
	frames := os.Stdout
	errHandle, err := windows.GetStdHandle(windows.STD_ERROR_HANDLE)
	if err != nil {
		return nil, fmt.Errorf("redirect stdout: %w", err)
	}
	if err := windows.SetStdHandle(windows.STD_OUTPUT_HANDLE, errHandle); err != nil {
		return nil, fmt.Errorf("redirect stdout: %w", err)
	}
	return frames, nil
}
