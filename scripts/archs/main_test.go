package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	small, large := 1e-12, 3e-9
	l := layout{2, 1}
	clean := []verdict{
		{Model: "a", Verdict: "right", NMSE: &small}, {Model: "b", Verdict: "right", NMSE: &large},
		{Model: "c", Verdict: "refused", Reason: "no"}, {Model: "d", Verdict: "refused", Reason: "no"},
	}
	var out strings.Builder
	if err := report(&out, []layout{l}, map[layout][]verdict{l: clean}); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"2x1     4       2      2        0      0      3e-09", "c, d: no"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, &out)
		}
	}
	for _, kind := range []string{"wrong", "error", "something new"} {
		all := append([]verdict{{Model: "x", Verdict: kind, Reason: "because"}}, clean...)
		err := report(&out, []layout{l}, map[layout][]verdict{l: all})
		if err == nil || !strings.Contains(err.Error(), "x in 2x1: "+kind+": because") {
			t.Errorf("%s: error %v", kind, err)
		}
	}
}

func TestParseLayouts(t *testing.T) {
	got, err := parseLayouts("2x1,1x3")
	if err != nil || len(got) != 2 || got[1] != (layout{1, 3}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []string{"", "2", "0x1", "axb", "2x1,"} {
		if _, err := parseLayouts(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}
