package main

import (
	"reflect"
	"testing"
)

func TestKnown(t *testing.T) {
	known, err := parseKnown("# comment\nNo attach:\n  gvisor linux/runc: p\n\n  2026-02 2024-07/runc: q: a: b\nOther:\n\teverywhere: a*\n")
	expected := []Known{
		{[]string{"gvisor", "linux/runc"}, "p", "No attach"},
		{[]string{"2026-02", "2024-07/runc"}, "q: a: b", "No attach"},
		{[]string{"everywhere"}, "a*", "Other"},
	}
	if err != nil || !reflect.DeepEqual(known, expected) {
		t.Errorf("%+v %v", known, err)
	}
	for _, wrong := range []string{"  2026-02: p without a cause", "no colon", "Cause:\n  p"} {
		if _, err := parseKnown(wrong); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
	for _, each := range []struct {
		run   Where
		name  string
		index int
	}{
		{Where{"2024-07", "terrarium"}, "p", 0},
		{Where{"linux", "runc"}, "p", 0},
		{Where{"linux", "terrarium"}, "p", -1},
		{Where{"2026-02", "runc"}, "q: a: b", 1},
		{Where{"2026-02", ""}, "q: a: b", 1},
		{Where{"2024-07", "terrarium"}, "q: a: b", -1},
		{Where{"2024-07", "runc"}, "q: a: b", 1},
		{Where{"2026-07", "runc"}, "q: a: b", -1},
		{Where{"linux", "runc"}, "all", 2},
	} {
		if found := knownAt(known, each.run, each.name); found != each.index {
			t.Errorf("%+v: %d", each, found)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, each := range []struct {
		pattern, text string
		matches       bool
	}{
		{"mounts", "mounts", true},
		{"mounts", "mounts[0]", false},
		{"mounts[*] (*) found*", "mounts[0] (/proc) found in order", true},
		{"mounts[*] (*) found", "mounts[0] (/proc) found in order", false},
		{"*", "", true},
		{"a*a", "a", false},
		{"a*c", "a b c", true},
		{"a*b*c", "a b c", true},
		{"b*", "a b c", false},
		{"a*d*c", "a b c", false},
		{"a b c*c", "a b c", false},
	} {
		if matches(each.pattern, each.text) != each.matches {
			t.Errorf("%+v", each)
		}
	}
}
