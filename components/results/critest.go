package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Critest is what came of the suite of Kubernetes' cri-tools.
type Critest struct{ Specs }

func (r *Critest) page() Page {
	page := Page{title: "critest", target: "critest", row: "spec"}
	page.intro = fmt.Sprintf("What came of critest %s, the suite of Kubernetes' cri-tools for container runtimes, against the containerd of a\n"+
		"terrarium node in a gVisor sandbox. The suite is built from upstream's sources; its images are made here, of Debian's\n"+
		"programs, and a registry on loopback has them. Only the digest of one image is another. The suite has no specs about\n"+
		"SELinux where the kernel has none. `make critest` plays it; the runtime is that of `up --oci-runtime`.",
		strings.TrimPrefix(r.Suite, "v"))
	for _, run := range r.Runs {
		title := critestTitle(run)
		summary := fmt.Sprintf("gVisor %s: %d specs passed, %d failed, %d skipped, in %.0f s", title, run.count(Spec.passed),
			run.count(Spec.failed), run.count(Spec.skipped), run.Seconds)
		page.columns = append(page.columns, Column{title, summary, run.cells(critestCell)})
	}
	page.sections = r.reasons("Failed", Spec.failed) + r.reasons("Skipped", Spec.skipped)
	return page
}

func critestTitle(run SpecRun) string { return run.Place + ", " + run.Runtime }

// critestCell has no reasons: many specs share one.
func critestCell(spec Spec) string {
	if spec.skipped() {
		return spec.State
	}
	return fmt.Sprintf("%s, %.0f s", spec.State, spec.Seconds)
}

// reasons is a section of the page: of the specs that are so, why, and where.
func (r *Critest) reasons(title string, are func(Spec) bool) string {
	var reasons []string
	affected := map[string]map[string][]string{}
	for _, run := range r.Runs {
		for _, spec := range run.Specs {
			if !are(spec) {
				continue
			}
			reason := cmp.Or(spec.Known, spec.Message)
			if spec.skipped() {
				reason = spec.Message
			}
			if affected[reason] == nil {
				reasons = append(reasons, reason)
				affected[reason] = map[string][]string{}
			}
			affected[reason][spec.Name] = append(affected[reason][spec.Name], critestTitle(run))
		}
	}
	if len(reasons) == 0 {
		return ""
	}
	var out strings.Builder
	fmt.Fprintf(&out, "\n## %s\n", title)
	for _, reason := range reasons {
		fmt.Fprintf(&out, "\n%s:\n\n", escape(reason))
		for _, name := range slices.Sorted(maps.Keys(affected[reason])) {
			fmt.Fprintf(&out, "- %s (%s)\n", escape(name), strings.Join(affected[reason][name], "; "))
		}
	}
	return out.String()
}
