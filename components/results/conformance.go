package main

import (
	"fmt"
	"strings"
)

// Conformance is what came of Kubernetes's own end-to-end suite.
type Conformance struct {
	Specs
	// How many specs ran at once.
	Procs int `json:"procs"`
}

func (r *Conformance) page() Page {
	page := Page{title: "Conformance", target: "conformance", row: "spec"}
	page.intro = fmt.Sprintf("What came of the specs of Kubernetes %s's own end-to-end suite that are about Services, DNS, networking and\n"+
		"EndpointSlices and are marked as part of conformance, against terrarium in a gVisor sandbox. The suite is built from\n"+
		"upstream's sources and is not changed; its images hold upstream's agnhost and, for the rest, Debian's programs.\n"+
		"`make conformance` plays them; specs that ran at once in this run: %d.", strings.TrimPrefix(r.Suite, "v"), r.Procs)
	for _, run := range r.Runs {
		summary := fmt.Sprintf("gVisor %s: %d of %d passed, %d failed, %d skipped, in %.0f s", run.Place, run.count(Spec.passed),
			len(run.Specs), run.count(Spec.failed), run.count(Spec.skipped), run.Seconds)
		page.columns = append(page.columns, Column{run.Place, summary, run.cells(conformanceCell)})
	}
	return page
}

func conformanceCell(spec Spec) string {
	cell := fmt.Sprintf("%s, %.0f s", spec.State, spec.Seconds)
	switch {
	case spec.failed() && spec.Known != "":
		cell += ": " + escape(spec.Known)
	case spec.Message != "":
		cell += ": " + escape(spec.Message)
	}
	return cell
}
