package bytesize

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	tests := []struct {
		in   string
		want int64
	}{
		{"0", 0},
		{"1024", 1024},
		{"1GB", GB},
		{"8gb", 8 * GB},
		{"1.5 GiB", GB + GB/2},
		{" 512 MB ", 512 * MB},
		{"2T", 2 * TB},
		{"7b", 7},
		{".5k", 512},
		{"9223372036854775807", 1<<63 - 1},
	}
	for _, tt := range tests {
		got, err := Parse(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("Parse(%q) = %d, %v; want %d", tt.in, got, err, tt.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{"", "GB", "-1GB", "1 XB", "1e9", "1..5GB", "NaN", "inf", "9223372036854775808", "9000000000GB", "8388608.0TB", "1 GB 2"} {
		got, err := Parse(in)
		if err == nil {
			t.Errorf("Parse(%q) = %d, want an error", in, got)
			continue
		}
		if !strings.Contains(err.Error(), in) {
			t.Errorf("Parse(%q): error %q does not quote the input", in, err)
		}
	}
}

func TestFormat(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KB", 98362432: "93.8 MB", GB: "1.0 GB", 20 * GB: "20.0 GB", 3 * TB: "3.0 TB", -MB: "-1.0 MB"} {
		if got := Format(n); got != want {
			t.Errorf("Format(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestToGB(t *testing.T) {
	for n, want := range map[int64]float64{0: 0, GB: 1, GB + GB/10: 1.1, 98362432: 0.1, 45 * GB: 45} {
		if got := ToGB(n); got != want {
			t.Errorf("ToGB(%d) = %v, want %v", n, got, want)
		}
	}
}

// What Format prints, Parse reads back to within the printed precision.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(0, 1<<60).Draw(t, "n")
		got, err := Parse(Format(n))
		if err != nil {
			t.Fatal(err)
		}
		if diff := max(got-n, n-got); diff > n/20+1 {
			t.Fatalf("%d prints as %q and reads as %d", n, Format(n), got)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"8GB", "1.5g", "", "9223372036854775808", "0.0000001TB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := Parse(s); err == nil && n < 0 {
			t.Fatalf("Parse(%q) = %d", s, n)
		}
	})
}
