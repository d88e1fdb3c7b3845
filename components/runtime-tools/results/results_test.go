package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestAssertions(t *testing.T) {
	checks := parseTAP(`TAP version 13
ok 1 - cpu shares is set correctly
# expect: 1, actual: 1
not ok 2 - cpu shares is set correctly
# expect: 2, actual: 1
not ok 3 - shared root propagation exposes "/target736271/mount90817/example"
  ---
  {
    "error": "exit status 1",
    "stderr": "no such container\nmore"
  }
  ...
ok 4 # SKIP linux.sysctl not set
not ok 5 # TODO we need an (r)bind spec to test against
1..5
`)
	expected := []Check{
		{Name: "cpu shares is set correctly", Outcome: Passed},
		{Name: "cpu shares is set correctly (2)", Outcome: Failed, Message: "expect: 2, actual: 1"},
		{Name: `shared root propagation exposes "/target…/mount…/example"`, Outcome: Failed, Message: "no such container"},
		{Name: "linux.sysctl not set", Outcome: Skipped},
		{Name: "we need an (r)bind spec to test against", Outcome: Skipped},
	}
	if !reflect.DeepEqual(checks, expected) {
		t.Errorf("%+v", checks)
	}
}

func TestErrorInPlaceOfAnAssertion(t *testing.T) {
	checks := parseTAP("TAP version 13\n  ---\n  {\n    \"error\": \"hook must fail\"\n  }\n  ...\n1..0\n")
	if !reflect.DeepEqual(checks, []Check{{Name: "hook must fail", Outcome: Failed}}) {
		t.Errorf("%+v", checks)
	}
}

func TestAssertionsOfTheContainer(t *testing.T) {
	checks := parseTAP(`TAP version 13
  ---
  {
    "stderr": "",
    "stdout": "TAP version 13\nok 1 - a\nnot ok 2 - b\n# expect: c\n1..2\n"
  }
  ...
not ok 1 - check hostname
not ok 2 - d
1..2
`)
	expected := []Check{
		{Name: "check hostname: a", Outcome: Passed},
		{Name: "check hostname: b", Outcome: Failed, Message: "expect: c"},
		{Name: "d", Outcome: Failed},
	}
	if !reflect.DeepEqual(checks, expected) {
		t.Errorf("%+v", checks)
	}
}

func TestProgramsThatEndBadly(t *testing.T) {
	directory := t.TempDir()
	for name, content := range map[string]string{
		"late.out": "ok 1 - a\n", "late.err": "", "late.status": "124 60.0\n",
		"broken.out": "", "broken.err": "failed to create the container\nerror: no such file\nexit status 1\n", "broken.status": "1 0.2\n",
	} {
		if err := os.WriteFile(filepath.Join(directory, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run, err := readRun("linux", "runc", directory)
	if err != nil {
		t.Fatal(err)
	}
	expected := []Program{
		{"broken", 0.2, []Check{{ends, Failed, "error: no such file"}}},
		{"late", 60, []Check{{"a", Passed, ""}, {ends, Failed, "does not end in time"}}},
	}
	if !reflect.DeepEqual(run.Programs, expected) {
		t.Errorf("%+v", run.Programs)
	}
	if _, err := readRun("linux", "runc", t.TempDir()); err == nil {
		t.Error("a directory without results is taken")
	}
}

func runOf(place, runtime string, checks ...Check) Run {
	return Run{place, runtime, []Program{{"p", 1, append(checks, Check{ends, Passed, ""})}}}
}

func TestOnlyWhatTheBaselinePassesIsBad(t *testing.T) {
	baseline := runOf("linux", "runc", Check{"a", Passed, ""}, Check{"b", Failed, ""})
	for _, each := range []struct {
		run  Run
		good bool
	}{
		{runOf("linux", "terrarium", Check{"a", Passed, ""}, Check{"b", Failed, ""}), true},
		{runOf("linux", "terrarium", Check{"a", Failed, ""}, Check{"b", Passed, ""}), false},
		{runOf("linux", "terrarium", Check{"a", Skipped, ""}), true},
		{runOf("linux", "terrarium"), false}, // not reached
		{runOf("2026-07", "terrarium", Check{"a", Failed, ""}), true},
		{runOf("2026-07", "runc", Check{"a", Failed, ""}), true},
	} {
		known := []Known{{Places: []string{"gvisor/terrarium"}, Program: "p", Check: "a", Cause: "has none"}}
		results := Results{Runs: []Run{baseline, each.run}, baseline: &baseline, judged: "terrarium", known: known}
		if results.tell(&strings.Builder{}) != each.good {
			t.Errorf("%+v", each.run)
		}
	}
}

func TestWhoPassesNeedNotReachWhatTheBaselineFailedAfter(t *testing.T) {
	baseline := runOf("linux", "runc", Check{"a", Passed, ""})
	baseline.Programs[0].Checks[1].Outcome = Failed
	if failures := runOf("linux", "terrarium").failures(&baseline, nil); len(failures) != 0 {
		t.Errorf("%+v", failures)
	}
}

func TestRunsAreNamedShortly(t *testing.T) {
	results := Results{Runs: []Run{
		runOf("linux", "runc"), runOf("linux", "terrarium"), runOf("a", "runc"), runOf("a", "terrarium"),
		runOf("b", "runc"), runOf("b", "terrarium"),
	}}
	titles := func(runs ...int) (titles []string) {
		for _, run := range runs {
			titles = append(titles, results.Runs[run].title())
		}
		return titles
	}
	for _, each := range []struct {
		titles   []string
		expected string
	}{
		{titles(0, 1, 2, 3, 4, 5), "everywhere"},
		{titles(0, 2, 4), "runc everywhere"},
		{titles(2, 3, 4, 5), "runc in gVisor, terrarium in gVisor"},
		{titles(1, 2, 4), "terrarium on Linux, runc in gVisor"},
		{titles(0, 3), "runc on Linux, terrarium in gVisor a"},
	} {
		if shortly := results.shortly(each.titles); shortly != each.expected {
			t.Errorf("%s, not %s", shortly, each.expected)
		}
	}
}

func TestKnown(t *testing.T) {
	known, err := parseKnown("# comment\nNo hugetlb:\n  gvisor linux/runc: p\n\n  everywhere: q: a: b\n")
	expected := []Known{
		{[]string{"gvisor", "linux/runc"}, "p", "", "No hugetlb"},
		{[]string{"everywhere"}, "q", "a: b", "No hugetlb"},
	}
	if err != nil || !reflect.DeepEqual(known, expected) {
		t.Errorf("%+v %v", known, err)
	}
	for _, wrong := range []string{"  linux: p without a cause", "no colon", "Cause:\n  p"} {
		if _, err := parseKnown(wrong); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
	for _, each := range []struct {
		run            Run
		program, check string
		known          bool
	}{
		{runOf("2024-07", "terrarium"), "p", "anything", true},
		{runOf("linux", "runc"), "p", "anything", true},
		{runOf("linux", "terrarium"), "p", "anything", false},
		{runOf("linux", "terrarium"), "q", "a: b (3)", true},
		{runOf("linux", "terrarium"), "q", "c", false},
	} {
		if (knownAt(known, each.run, each.program, each.check) >= 0) != each.known {
			t.Errorf("%+v", each)
		}
	}
}

func TestPage(t *testing.T) {
	baseline := runOf("linux", "runc", Check{"a", Passed, ""}, Check{"b", Passed, ""})
	ours := runOf("2026-07", "terrarium", Check{"a", Passed, ""}, Check{"b", Failed, ""}, Check{"b (2)", Failed, ""})
	known := []Known{{Places: []string{"gvisor"}, Program: "p", Check: "b*", Cause: "has none|"}, {Places: []string{"linux"}, Program: "p"}}
	results := Results{Suite: "v0.9.0", Runs: []Run{baseline, ours}, baseline: &baseline, known: known}
	page := results.page()
	for _, expected := range []string{
		"- runc on Linux: 1 of 1 programs pass, 0 are skipped; of the assertions 2 pass, 0 fail\n",
		"| program | runc on Linux | terrarium in gVisor 2026-07 |\n|---|---|---|\n| p | 2 | 1, **2 fail** |\n",
		"\n**has none\\|**\n\n- p: b… (terrarium in gVisor 2026-07)\n",
	} {
		if !strings.Contains(page, expected) {
			t.Errorf("%q is missing in\n%s", expected, page)
		}
	}
	if stale := results.stale(); len(stale) != 1 || stale[0].Places[0] != "linux" {
		t.Errorf("%+v", stale)
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
	} {
		if matches(each.pattern, each.text) != each.matches {
			t.Errorf("%+v", each)
		}
	}
}
