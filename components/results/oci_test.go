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
	run, err := readRun(baseline, directory)
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
	if _, err := readRun(baseline, t.TempDir()); err == nil {
		t.Error("a directory without results is taken")
	}
}

func runOf(place, runtime string, checks ...Check) ProgramRun {
	return ProgramRun{Where{place, runtime}, []Program{{"p", 1, append(checks, Check{ends, Passed, ""})}}}
}

func TestOnlyWhatTheBaselinePassesIsBad(t *testing.T) {
	baseline := runOf("linux", "runc", Check{"a", Passed, ""}, Check{"b", Failed, ""})
	for _, each := range []struct {
		run  ProgramRun
		good bool
	}{
		{runOf("linux", "terrarium", Check{"a", Passed, ""}, Check{"b", Failed, ""}), true},
		{runOf("linux", "terrarium", Check{"a", Failed, ""}, Check{"b", Passed, ""}), false},
		{runOf("linux", "terrarium", Check{"a", Skipped, ""}), true},
		{runOf("linux", "terrarium"), false}, // not reached
		{runOf("2026-07", "terrarium", Check{"a", Failed, ""}), true},
		{runOf("2026-07", "runc", Check{"a", Failed, ""}), true},
	} {
		known := []Known{{Places: []string{"gvisor/terrarium"}, Failure: "p: a", Cause: "has none"}}
		programs := Programs{Runs: []ProgramRun{baseline, each.run}, known: known}
		if programs.tell(&strings.Builder{}) != each.good {
			t.Errorf("%+v", each.run)
		}
	}
}

func TestKnownFailuresAreThoseOfTheProgramOrOfTheAssertion(t *testing.T) {
	known := []Known{
		{[]string{"everywhere"}, "p", "of the program"},
		{[]string{"everywhere"}, "q: a: b", "of the assertion"},
		{[]string{"everywhere"}, "*: *c*", "of all programs"},
	}
	for failure, cause := range map[Failure]string{
		{Program: "p", Check: "anything"}: "of the program",
		{Program: "q", Check: "a: b (3)"}: "of the assertion",
		{Program: "q", Check: "c d"}:      "of all programs",
		{Program: "q", Check: "d"}:        "",
	} {
		at := knownAt(known, baseline, failure.names()...)
		if (at < 0) != (cause == "") || at >= 0 && known[at].Cause != cause {
			t.Errorf("%+v: %d", failure, at)
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
	programs := Programs{Runs: []ProgramRun{
		runOf("linux", "runc"), runOf("linux", "terrarium"), runOf("a", "runc"), runOf("a", "terrarium"),
		runOf("b", "runc"), runOf("b", "terrarium"),
	}}
	titles := func(runs ...int) (titles []string) {
		for _, run := range runs {
			titles = append(titles, programs.Runs[run].title())
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
		if shortly := programs.shortly(each.titles); shortly != each.expected {
			t.Errorf("%s, not %s", shortly, each.expected)
		}
	}
}

func TestPageOfPrograms(t *testing.T) {
	passes := runOf("linux", "runc", Check{"a", Passed, ""}, Check{"b", Passed, ""})
	ours := runOf("2026-07", "terrarium", Check{"a", Passed, ""}, Check{"b", Failed, ""}, Check{"b (2)", Failed, ""}, Check{"c", Failed, ""})
	known := []Known{{[]string{"gvisor"}, "p: b*", "has none|"}, {[]string{"linux"}, "p", ""}}
	programs := &Programs{Suite: "v0.9.0", Runs: []ProgramRun{passes, ours}, known: known}
	expectPage(t, programs,
		"- runc on Linux: 1 of 1 programs pass, 0 are skipped; of the assertions 2 pass, 0 fail\n",
		"| program | runc on Linux | terrarium in gVisor 2026-07 |\n|---|---|---|\n| p | 2 | 1, **3 fail** |\n",
		"\n**has none\\|**\n\n- p: b… (terrarium in gVisor 2026-07)\n",
		"\n**Not explained**\n\n- p: c (terrarium in gVisor 2026-07)\n",
	)
	if stale := programs.stale(); len(stale) != 1 || stale[0].Places[0] != "linux" {
		t.Errorf("%+v", stale)
	}
}
