package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Results is the JSON document.
type Results struct {
	Kubernetes string `json:"kubernetes"`
	// How many specs ran at once.
	Procs int   `json:"procs"`
	Runs  []Run `json:"runs"`
}

// Run is what came of the specs in one build of gVisor.
type Run struct {
	Gvisor string `json:"gvisor"`
	// Of the whole run: less than the specs took together where several ran at once.
	Seconds float64 `json:"seconds"`
	Specs   []Spec  `json:"specs"`
}

// tell says what came of each run, and whether it is what is expected.
func (r Results) tell(out io.Writer) bool {
	good := true
	for _, run := range r.Runs {
		for _, spec := range run.Specs {
			switch {
			case spec.failed() && spec.Known == "":
				good = false
				fmt.Fprintf(out, "FAILED   %s\n         %s\n", spec.Name, spec.Message)
			case spec.failed():
				fmt.Fprintf(out, "known    %s (%s)\n", spec.Name, spec.Known)
			case spec.passed() && spec.Known != "":
				fmt.Fprintf(out, "PASSES   %s, and is still on the list of those that are known to fail\n", spec.Name)
			default:
				fmt.Fprintf(out, "%-8s %s\n", spec.State, spec.Name)
			}
		}
		fmt.Fprintln(out, run.summary())
	}
	return good
}

func (r Run) summary() string {
	var passed, failed, skipped int
	for _, spec := range r.Specs {
		switch {
		case spec.passed():
			passed++
		case spec.failed():
			failed++
		default:
			skipped++
		}
	}
	return fmt.Sprintf("gVisor %s: %d of %d passed, %d failed, %d skipped, in %.0f s", r.Gvisor, passed, len(r.Specs), failed,
		skipped, r.Seconds)
}

// page is the Markdown document, with a column for each build.
func (r Results) page() string {
	var out strings.Builder
	fmt.Fprintf(&out, "# Conformance\n\n<!-- Generated: UPDATE_DOCS=1 make conformance -->\n\n")
	fmt.Fprintf(&out, "What came of the specs of Kubernetes %s's own end-to-end suite that are about Services, DNS, networking and\n"+
		"EndpointSlices and are marked as part of conformance, against terrarium in a gVisor sandbox. The suite is built from\n"+
		"upstream's sources and is not changed; its images hold upstream's agnhost and, for the rest, Debian's programs.\n"+
		"`make conformance` plays them; specs that ran at once in this run: %d.\n\n",
		strings.TrimPrefix(r.Kubernetes, "v"), r.Procs)
	for _, run := range r.Runs {
		fmt.Fprintf(&out, "- %s\n", run.summary())
	}
	out.WriteString("\n| spec |")
	for _, run := range r.Runs {
		fmt.Fprintf(&out, " %s |", run.Gvisor)
	}
	fmt.Fprintf(&out, "\n|---|%s\n", strings.Repeat("---|", len(r.Runs)))
	for _, name := range r.names() {
		fmt.Fprintf(&out, "| %s |", escape(name))
		for _, run := range r.Runs {
			fmt.Fprintf(&out, " %s |", run.cell(name))
		}
		out.WriteString("\n")
	}
	return out.String()
}

func (r Results) names() []string {
	var names []string
	for _, run := range r.Runs {
		for _, spec := range run.Specs {
			names = append(names, spec.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (r Run) cell(name string) string {
	at := slices.IndexFunc(r.Specs, func(spec Spec) bool { return spec.Name == name })
	if at < 0 {
		return ""
	}
	spec := r.Specs[at]
	cell := fmt.Sprintf("%s, %.0f s", spec.State, spec.Seconds)
	switch {
	case spec.failed() && spec.Known != "":
		cell += ": " + escape(spec.Known)
	case spec.Message != "":
		cell += ": " + escape(spec.Message)
	}
	return cell
}

func escape(text string) string {
	return strings.NewReplacer("|", "\\|", "<", "&lt;").Replace(text)
}
