package main

import (
	"reflect"
	"strings"
	"testing"
)

const report = `[{"RunTime": 50000000000, "SpecReports": [
  {"LeafNodeType": "BeforeSuite", "State": "passed"},
  {"ContainerHierarchyTexts": ["[k8s.io] Streaming"], "LeafNodeType": "It",
   "LeafNodeText": "should attach [Conformance]", "State": "failed", "RunTime": 61240000000,
   "Failure": {"Message": "no answer|\nmore"}},
  {"ContainerHierarchyTexts": ["[k8s.io] Container"], "LeafNodeType": "It",
   "LeafNodeText": "should start [Conformance]", "State": "passed", "RunTime": 2000000000},
  {"ContainerHierarchyTexts": ["[k8s.io] AppArmor"], "LeafNodeType": "It",
   "LeafNodeText": "should enforce", "State": "skipped", "Failure": {"Message": "AppArmor is disabled"}},
  {"ContainerHierarchyTexts": ["[k8s.io] benchmark"], "LeafNodeType": "It", "LeafNodeText": "out of focus", "State": "skipped"}
]}]`

func results(t *testing.T, known ...Known) Results {
	t.Helper()
	run, err := parseReport([]byte(report))
	if err != nil {
		t.Fatal(err)
	}
	run.Gvisor, run.Runtime = "2026-07", "terrarium"
	results := Results{Suite: "v1.36.0", known: known}
	results.add(run)
	return results
}

func TestReport(t *testing.T) {
	found := results(t, Known{[]string{"2026-07"}, "Container * start", "was broken"}).Runs[0].Specs
	expected := []Spec{
		{Name: "Streaming should attach", State: "failed", Seconds: 61.2, Message: "no answer|"},
		{Name: "Container should start", State: "passed", Seconds: 2, Known: "was broken"},
		{Name: "AppArmor should enforce", State: "skipped", Message: "AppArmor is disabled"},
	}
	if !reflect.DeepEqual(found, expected) {
		t.Errorf("%+v", found)
	}
}

func TestReportOfNoSpec(t *testing.T) {
	broken := `[{"SpecReports": [{"LeafNodeType": "BeforeSuite", "State": "failed", "Failure": {"Message": "no socket"}}]}]`
	for text, expected := range map[string]string{broken: "no socket", `[{"SpecReports": []}]`: "no spec ran", "": "end of JSON"} {
		if _, err := parseReport([]byte(text)); err == nil || !strings.Contains(err.Error(), expected) {
			t.Errorf("%v", err)
		}
	}
}

func TestOnlyUnknownFailuresAreBad(t *testing.T) {
	attach := Known{[]string{"everywhere/terrarium"}, "Streaming*", "no terminal"}
	if results(t).tell(&strings.Builder{}) {
		t.Error("a failure that nobody knows of is good")
	}
	var said strings.Builder
	if !results(t, attach).tell(&said) || !strings.Contains(said.String(), "known    Streaming should attach (no terminal)") {
		t.Error(said.String())
	}
	passes := Known{[]string{"2026-07"}, "Container should start", "cannot"}
	if said.Reset(); !results(t, attach, passes).tell(&said) || !strings.Contains(said.String(), "PASSES   Container should start") {
		t.Error(said.String())
	}
}

func TestKnown(t *testing.T) {
	known, err := parseKnown("# comment\nNo attach:\n  2026-02 2024-07/runc: Streaming: attach\n\nOther:\n\teverywhere: a*\n")
	expected := []Known{
		{[]string{"2026-02", "2024-07/runc"}, "Streaming: attach", "No attach"},
		{[]string{"everywhere"}, "a*", "Other"},
	}
	if err != nil || !reflect.DeepEqual(known, expected) {
		t.Errorf("%v %v", known, err)
	}
	for _, wrong := range []string{"  2026-02: spec without a cause", "no colon", "Cause:\n  no place"} {
		if _, err := parseKnown(wrong); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
	for place, covered := range map[[2]string]bool{
		{"2026-02", "runc"}:      true,
		{"2024-07", "terrarium"}: false,
		{"2024-07", "runc"}:      true,
		{"2026-07", "runc"}:      false,
	} {
		if known[0].covers(Run{Gvisor: place[0], Runtime: place[1]}, "Streaming: attach") != covered {
			t.Errorf("%v", place)
		}
	}
}

func TestPatterns(t *testing.T) {
	for pattern, matched := range map[string]bool{
		"a b c": true, "a*c": true, "*": true, "a*b*c": true, "a b": false, "b*": false, "a*d*c": false, "a b c*c": false,
	} {
		if matches(pattern, "a b c") != matched {
			t.Errorf("%q", pattern)
		}
	}
}

func TestPage(t *testing.T) {
	page := results(t).page()
	for _, expected := range []string{
		"- gVisor 2026-07, terrarium: 1 specs passed, 1 failed, 1 skipped, in 50 s\n",
		"| spec | 2026-07, terrarium |\n|---|---|\n",
		"| Streaming should attach | failed, 61 s |",
		"| AppArmor should enforce | skipped |",
		"## Failed\n\nno answer\\|:\n\n- Streaming should attach (2026-07, terrarium)\n",
		"## Skipped\n\nAppArmor is disabled:\n\n- AppArmor should enforce (2026-07, terrarium)\n",
	} {
		if !strings.Contains(page, expected) {
			t.Errorf("%q is missing in\n%s", expected, page)
		}
	}
}
