// Package bytesize reads and prints amounts of memory and disk the way the
// management API counts them: 1 KB = 2^10, 1 MB = 2^20, 1 GB = 2^30 bytes. It
// is a leaf: it imports nothing of ours, holds no state, and any package may
// call it from any goroutine.
package bytesize

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Units in bytes.
const (
	KB int64 = 1 << 10
	MB int64 = 1 << 20
	GB int64 = 1 << 30
	TB int64 = 1 << 40
)

// unit maps what a person may write, in any case, to bytes. "KiB" and "KB"
// are the same amount here: memory is sold, and counted by the API, in powers
// of two.
func unit(name string) (int64, bool) {
	switch strings.ToLower(name) {
	case "", "b":
		return 1, true
	case "k", "kb", "kib":
		return KB, true
	case "m", "mb", "mib":
		return MB, true
	case "g", "gb", "gib":
		return GB, true
	case "t", "tb", "tib":
		return TB, true
	}
	return 0, false
}

// Parse reads "8GB", "1.5 g", "512MiB" or a plain number of bytes. Negative,
// infinite, and too large amounts are errors.
func Parse(text string) (int64, error) {
	s := strings.TrimSpace(text)
	end := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if end < 0 {
		end = len(s)
	}
	bytes, ok := unit(strings.TrimSpace(s[end:]))
	if !ok || end == 0 {
		return 0, fmt.Errorf("%q is not a size; write a number with a unit, such as 512MB or 8GB", text)
	}
	if n, err := strconv.ParseInt(s[:end], 10, 64); err == nil {
		if n > math.MaxInt64/bytes {
			return 0, fmt.Errorf("%q is too large for a size", text)
		}
		return n * bytes, nil
	}
	f, err := strconv.ParseFloat(s[:end], 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a size; write a number with a unit, such as 512MB or 8GB", text)
	}
	f *= float64(bytes)
	// 2^63 is exactly representable; anything from it on would overflow.
	if f >= 1<<63 {
		return 0, fmt.Errorf("%q is too large for a size", text)
	}
	return int64(math.Round(f)), nil
}

// Format prints n with the largest unit that keeps it at one or more, rounded
// to one decimal: "512 B", "1.5 MB", "20.0 GB".
func Format(n int64) string {
	switch abs := max(n, -n); {
	case abs >= TB:
		return fmt.Sprintf("%.1f TB", float64(n)/float64(TB))
	case abs >= GB:
		return fmt.Sprintf("%.1f GB", float64(n)/float64(GB))
	case abs >= MB:
		return fmt.Sprintf("%.1f MB", float64(n)/float64(MB))
	case abs >= KB:
		return fmt.Sprintf("%.1f KB", float64(n)/float64(KB))
	}
	return strconv.FormatInt(n, 10) + " B"
}

// ToGB gives n in GB, rounded to one decimal: the form of every *_gb field of
// the management API.
func ToGB(n int64) float64 {
	return math.Round(float64(n)/float64(GB)*10) / 10
}
