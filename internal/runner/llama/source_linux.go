//lint:file-ignore U1000 the structs mirror those of C field by field; what is unused keeps the others in place

package llama

import (
	"unsafe"

	"github.com/ebitengine/purego"
)

// cookieFuncs is cookie_io_functions_t of stdio.h.
type cookieFuncs struct{ read, write, seek, close uintptr }

// openStreams finds fopencookie, which glibc and musl have; nil without it.
func openStreams() *streams {
	open, err := purego.Dlsym(purego.RTLD_DEFAULT, "fopencookie")
	if err != nil {
		return nil
	}
	shut, err := purego.Dlsym(purego.RTLD_DEFAULT, "fclose")
	if err != nil {
		return nil
	}
	funcs := cookieFuncs{
		read: purego.NewCallback(func(cookie, buf, n uintptr) uintptr {
			return uintptr(sourceOf(cookie).read(cBytes(buf, n)))
		}),
		seek: purego.NewCallback(func(cookie, offset, whence uintptr) uintptr {
			off := *(**int64)(unsafe.Pointer(&offset))
			at := sourceOf(cookie).seek(*off, int(int32(whence)))
			if at < 0 {
				return ^uintptr(0)
			}
			*off = at
			return 0
		}),
	}
	var fopencookie func(unsafe.Pointer, string, cookieFuncs) uintptr
	s := &streams{}
	purego.RegisterFunc(&fopencookie, open)
	purego.RegisterFunc(&s.close, shut)
	s.open = func(src *source) uintptr { return fopencookie(unsafe.Pointer(src), "rb", funcs) }
	return s
}
