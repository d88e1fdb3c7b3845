package main

import (
	"reflect"
	"strings"
	"testing"
)

const report = `[{"RunTime": 50000000000, "SpecReports": [
  {"LeafNodeType": "SynchronizedBeforeSuite", "State": "passed"},
  {"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeType": "It",
   "LeafNodeText": "should provide DNS for services [Conformance]", "State": "failed", "RunTime": 61240000000,
   "Failure": {"Message": "no answer|\nmore"}},
  {"ContainerHierarchyTexts": ["[sig-network] Services"], "LeafNodeType": "It",
   "LeafNodeText": "should serve [Conformance]", "State": "passed", "RunTime": 2000000000},
  {"ContainerHierarchyTexts": ["[sig-network] Services"], "LeafNodeType": "It",
   "LeafNodeText": "should need two nodes", "State": "skipped", "Failure": {"Message": "one node only"}},
  {"ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeType": "It", "LeafNodeText": "out of focus", "State": "skipped"}
]}]`

func TestReport(t *testing.T) {
	run, err := parseReport([]byte(report), map[string]string{"Services should serve": "was broken"})
	if err != nil {
		t.Fatal(err)
	}
	expected := []Spec{
		{Name: "DNS should provide DNS for services", State: "failed", Seconds: 61.2, Message: "no answer|"},
		{Name: "Services should serve", State: "passed", Seconds: 2, Known: "was broken"},
		{Name: "Services should need two nodes", State: "skipped", Message: "one node only"},
	}
	if !reflect.DeepEqual(run.Specs, expected) {
		t.Errorf("%+v", run.Specs)
	}
}

func TestReportOfNoSpec(t *testing.T) {
	broken := `[{"SpecReports": [{"LeafNodeType": "SynchronizedBeforeSuite", "State": "failed", "Failure": {"Message": "no node"}}]}]`
	for text, expected := range map[string]string{broken: "no node", `[{"SpecReports": []}]`: "no spec ran"} {
		if _, err := parseReport([]byte(text), nil); err == nil || !strings.Contains(err.Error(), expected) {
			t.Errorf("%v", err)
		}
	}
}

func TestOnlyUnknownFailuresAreBad(t *testing.T) {
	for cause, good := range map[string]bool{"": false, "known": true} {
		results := Results{Runs: []Run{{Gvisor: "2026-07", Specs: []Spec{{Name: "a", State: "timedout", Known: cause}}}}}
		if results.tell(&strings.Builder{}) != good {
			t.Errorf("cause %q", cause)
		}
	}
}

func TestKnown(t *testing.T) {
	causes, err := parseKnown("# comment\nNothing serves Services:\n  Services should serve\n\n  DNS should answer\nOther:\n\ta: b\n")
	expected := map[string]string{
		"Services should serve": "Nothing serves Services",
		"DNS should answer":     "Nothing serves Services",
		"a: b":                  "Other",
	}
	if err != nil || !reflect.DeepEqual(causes, expected) {
		t.Errorf("%v %v", causes, err)
	}
	for _, wrong := range []string{"  spec without a cause", "no colon"} {
		if _, err := parseKnown(wrong); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
}

func TestPage(t *testing.T) {
	run, err := parseReport([]byte(report), map[string]string{})
	if err != nil {
		t.Fatal(err)
	}
	page := Results{Kubernetes: "v1.36.4", Runs: []Run{{"2026-02", 1, run.Specs[:1]}, {"2026-07", run.Seconds, run.Specs}}}.page()
	for _, expected := range []string{
		"- gVisor 2026-07: 1 of 3 passed, 1 failed, 1 skipped, in 50 s\n",
		"| spec | 2026-02 | 2026-07 |\n|---|---|---|\n",
		`| DNS should provide DNS for services | failed, 61 s: no answer\| | failed, 61 s: no answer\| |`,
		"| Services should serve |  | passed, 2 s |",
		"| Services should need two nodes |  | skipped, 0 s: one node only |",
	} {
		if !strings.Contains(page, expected) {
			t.Errorf("%q is missing in\n%s", expected, page)
		}
	}
}
