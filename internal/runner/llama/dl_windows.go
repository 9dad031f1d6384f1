package llama

import "golang.org/x/sys/windows"

// dlopen looks for a library's own needs beside it first.
func dlopen(path string) (uintptr, error) {
	h, err := windows.LoadLibraryEx(path, 0, windows.LOAD_WITH_ALTERED_SEARCH_PATH)
	return uintptr(h), err
}

func dlsym(lib uintptr, name string) (uintptr, error) {
	return windows.GetProcAddress(windows.Handle(lib), name)
}

// progressCallback is null: Windows callbacks can't take the float.
func progressCallback(*progressHook) uintptr { return 0 }
