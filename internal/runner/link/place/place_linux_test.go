package place

import (
	"os"
	"testing"
)

func TestPlace(t *testing.T) {
	own := Here()
	if own.Machine == "" || own.Process != os.Getpid() {
		t.Fatalf("Here is %+v", own)
	}
	for at, want := range map[Place]int{
		{own.Machine, own.Process + 1}: own.Process + 1,
		own:                            0, // not another
		{"", own.Process + 1}:          0,
		{"elsewhere", own.Process + 1}: 0,
		{own.Machine, -1}:              0,
	} {
		if got := at.Near(own); got != want {
			t.Errorf("%+v is process %d, want %d", at, got, want)
		}
	}
}
