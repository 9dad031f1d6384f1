//go:build darwin || freebsd

package llama

import (
	"unsafe"

	"github.com/ebitengine/purego"
)

// openStreams finds funopen of BSD's stdio.h; nil without it.
func openStreams() *streams {
	open, err := purego.Dlsym(purego.RTLD_DEFAULT, "funopen")
	if err != nil {
		return nil
	}
	shut, err := purego.Dlsym(purego.RTLD_DEFAULT, "fclose")
	if err != nil {
		return nil
	}
	read := purego.NewCallback(func(cookie, buf, n uintptr) uintptr { // int(void *, char *, int)
		return uintptr(sourceOf(cookie).read(cBytes(buf, uintptr(max(0, int32(n))))))
	})
	seek := purego.NewCallback(func(cookie, offset, whence uintptr) uintptr { // fpos_t(void *, fpos_t, int)
		return uintptr(sourceOf(cookie).seek(int64(offset), int(int32(whence))))
	})
	var funopen func(cookie unsafe.Pointer, read, write, seek, close uintptr) uintptr
	s := &streams{}
	purego.RegisterFunc(&funopen, open)
	purego.RegisterFunc(&s.close, shut)
	s.open = func(src *source) uintptr { return funopen(unsafe.Pointer(src), read, 0, seek, 0) }
	return s
}
