package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const report = `[{"RunTime": 50000000000, "SpecReports": [
  {"LeafNodeType": "SynchronizedBeforeSuite", "State": "passed"},
  {"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeType": "It",
   "LeafNodeText": "should answer [Conformance]", "State": "failed", "RunTime": 61240000000,
   "Failure": {"Message": "no answer|\nmore"}},
  {"ContainerHierarchyTexts": ["[k8s.io] Container"], "LeafNodeType": "It",
   "LeafNodeText": "should start [Conformance]", "State": "passed", "RunTime": 2000000000},
  {"ContainerHierarchyTexts": ["[sig-network] Services"], "LeafNodeType": "It",
   "LeafNodeText": "should need two nodes", "State": "skipped", "Failure": {"Message": "one node only"}},
  {"ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeType": "It", "LeafNodeText": "out of focus", "State": "skipped"}
]}]`

// specs has added the report of each of these places.
func specs(t *testing.T, known []Known, places ...Where) Specs {
	t.Helper()
	path := filepath.Join(t.TempDir(), "report.json")
	if err := os.WriteFile(path, []byte(report), 0o644); err != nil {
		t.Fatal(err)
	}
	specs := Specs{Suite: "v1.36.0", known: known}
	for _, place := range places {
		if err := specs.add(place, path); err != nil {
			t.Fatal(err)
		}
	}
	return specs
}

func TestReport(t *testing.T) {
	found := specs(t, []Known{{[]string{"2026-07"}, "Container * start", "was broken"}}, Where{"2026-07", "runc"})
	expected := []Spec{
		{Name: "DNS should answer", State: "failed", Seconds: 61.2, Message: "no answer|"},
		{Name: "Container should start", State: "passed", Seconds: 2, Known: "was broken"},
		{Name: "Services should need two nodes", State: "skipped", Message: "one node only"},
	}
	if !reflect.DeepEqual(found.Runs, []SpecRun{{Where{"2026-07", "runc"}, 50, expected}}) {
		t.Errorf("%+v", found.Runs)
	}
	names := []string{"Container should start", "DNS should answer", "Services should need two nodes"}
	if !reflect.DeepEqual(found.names(), names) {
		t.Errorf("%q", found.names())
	}
}

func TestReportOfNoSpec(t *testing.T) {
	broken := `[{"SpecReports": [{"LeafNodeType": "SynchronizedBeforeSuite", "State": "failed", "Failure": {"Message": "no node"}}]}]`
	for text, expected := range map[string]string{broken: "no node", `[{"SpecReports": []}]`: "no spec ran", "": "end of JSON"} {
		if _, err := parseReport([]byte(text)); err == nil || !strings.Contains(err.Error(), expected) {
			t.Errorf("%v", err)
		}
	}
}

func TestOnlyUnknownFailuresAreBad(t *testing.T) {
	answers := Known{[]string{"everywhere/runc"}, "DNS*", "no name"}
	starts := Known{[]string{"2026-07"}, "Container should start", "cannot"}
	for _, each := range []struct {
		runtime string
		known   []Known
		good    bool
		said    string
	}{
		{"runc", nil, false, "FAILED   2026-07/runc DNS should answer (no answer|)\n"},
		{"terrarium", []Known{answers}, false, "FAILED   2026-07/terrarium DNS should answer (no answer|)\n"},
		{"runc", []Known{answers}, true, "known    2026-07/runc DNS should answer (no name)\npassed   2026-07/runc Container should start\n"},
		{"runc", []Known{answers, starts}, true, "PASSES   2026-07/runc Container should start"},
		{"runc", []Known{answers}, true, "skipped  2026-07/runc Services should need two nodes (one node only)\n"},
	} {
		specs := specs(t, each.known, Where{"2026-07", each.runtime})
		var said strings.Builder
		if specs.tell(&said) != each.good || !strings.Contains(said.String(), each.said) {
			t.Errorf("%+v: %s", each, said.String())
		}
	}
}

func expectPage(t *testing.T, suite suite, expected ...string) {
	t.Helper()
	page := suite.page().String()
	for _, each := range expected {
		if !strings.Contains(page, each) {
			t.Errorf("%q is missing in\n%s", each, page)
		}
	}
}

func TestPageOfConformance(t *testing.T) {
	specs := specs(t, nil, Where{"2026-02", ""}, Where{"2026-07", ""})
	specs.Runs[0].Specs = specs.Runs[0].Specs[:1]
	expectPage(t, &Conformance{specs, 5},
		"specs of Kubernetes 1.36.0's own", "at once in this run: 5.\n\n- gVisor 2026-02",
		"- gVisor 2026-07: 1 of 3 passed, 1 failed, 1 skipped, in 50 s\n\n| spec |",
		"| spec | 2026-02 | 2026-07 |\n|---|---|---|\n",
		`| DNS should answer | failed, 61 s: no answer\| | failed, 61 s: no answer\| |`,
		"| Container should start |  | passed, 2 s |",
		"| Services should need two nodes |  | skipped, 0 s: one node only |",
	)
}

func TestPageOfCritest(t *testing.T) {
	expectPage(t, &Critest{specs(t, nil, Where{"2026-07", "terrarium"})},
		"- gVisor 2026-07, terrarium: 1 specs passed, 1 failed, 1 skipped, in 50 s\n",
		"| spec | 2026-07, terrarium |\n|---|---|\n",
		"| DNS should answer | failed, 61 s |",
		"| Services should need two nodes | skipped |",
		"## Failed\n\nno answer\\|:\n\n- DNS should answer (2026-07, terrarium)\n",
		"## Skipped\n\none node only:\n\n- Services should need two nodes (2026-07, terrarium)\n",
	)
}
