package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
)

// checkHeaders looks at both headers of a bbolt file. When the newer one is
// damaged, bbolt quietly goes on with the older, and what was committed last
// is missing; that must be said. A file that is not there, or empty, is fine.
//
// Layout: bbolt's internal/common/page.go and meta.go; page size at byte 24,
// the header's 64 bytes from byte 16 of a page, the last 8 of them an FNV-1a
// checksum of the others.
func checkHeaders(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return nil
	}
	var page [80]byte
	size := int64(os.Getpagesize())
	for i := range int64(2) {
		if _, err := f.ReadAt(page[:], i*size); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		h := fnv.New64a()
		_, _ = h.Write(page[16:72]) // a hash takes everything
		if h.Sum64() != binary.NativeEndian.Uint64(page[72:]) {
			return fmt.Errorf("header %d of 2 is damaged, the last entries may be missing", i+1)
		}
		if i == 0 {
			size = int64(binary.NativeEndian.Uint32(page[24:]))
		}
	}
	return nil
}
