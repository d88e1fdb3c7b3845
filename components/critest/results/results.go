package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Results is the JSON document.
type Results struct {
	Suite string `json:"suite"`
	Runs  []Run  `json:"runs"`

	known []Known
}

// add takes in a run, and says of its specs which are known to fail.
func (r *Results) add(run Run) {
	for i := range run.Specs {
		spec := &run.Specs[i]
		if at := slices.IndexFunc(r.known, func(known Known) bool { return known.covers(run, spec.Name) }); at >= 0 {
			spec.Known = r.known[at].Cause
		}
	}
	r.Runs = append(r.Runs, run)
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
			case spec.skipped():
				fmt.Fprintf(out, "skipped  %s (%s)\n", spec.Name, spec.Message)
			default:
				fmt.Fprintf(out, "%-8s %s\n", spec.State, spec.Name)
			}
		}
		fmt.Fprintln(out, run.summary())
	}
	return good
}

func (r Run) title() string { return r.Gvisor + ", " + r.Runtime }

func (r Run) summary() string {
	count := func(is func(Spec) bool) int {
		return len(slices.DeleteFunc(slices.Clone(r.Specs), func(spec Spec) bool { return !is(spec) }))
	}
	return fmt.Sprintf("gVisor %s: %d specs passed, %d failed, %d skipped, in %.0f s", r.title(), count(Spec.passed),
		count(Spec.failed), count(Spec.skipped), r.Seconds)
}

// page is the Markdown document: a column for each run, then why specs failed or were skipped.
func (r Results) page() string {
	var out strings.Builder
	fmt.Fprintf(&out, "# critest\n\n<!-- Generated: UPDATE_DOCS=1 make critest -->\n\n")
	fmt.Fprintf(&out, "What came of critest %s, the suite of Kubernetes' cri-tools for container runtimes, against the containerd of a\n"+
		"terrarium node in a gVisor sandbox. The suite is built from upstream's sources; its images are made here, of Debian's\n"+
		"programs, and a registry on loopback has them. Only the digest of one image is another. The suite has no specs about\n"+
		"SELinux where the kernel has none. `make critest` plays it; the runtime is that of `up --oci-runtime`.\n\n",
		strings.TrimPrefix(r.Suite, "v"))
	for _, run := range r.Runs {
		fmt.Fprintf(&out, "- %s\n", run.summary())
	}
	out.WriteString("\n| spec |")
	for _, run := range r.Runs {
		fmt.Fprintf(&out, " %s |", run.title())
	}
	fmt.Fprintf(&out, "\n|---|%s\n", strings.Repeat("---|", len(r.Runs)))
	for _, name := range r.names() {
		fmt.Fprintf(&out, "| %s |", escape(name))
		for _, run := range r.Runs {
			fmt.Fprintf(&out, " %s |", run.cell(name))
		}
		out.WriteString("\n")
	}
	out.WriteString(r.reasons("Failed", Spec.failed))
	out.WriteString(r.reasons("Skipped", Spec.skipped))
	return out.String()
}

// reasons is a section of the page: of the specs that are so, why, and where.
func (r Results) reasons(title string, are func(Spec) bool) string {
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
			affected[reason][spec.Name] = append(affected[reason][spec.Name], run.title())
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
	if spec.skipped() {
		return spec.State
	}
	return fmt.Sprintf("%s, %.0f s", spec.State, spec.Seconds)
}

func escape(text string) string {
	return strings.NewReplacer("|", "\\|", "<", "&lt;", "*", "\\*").Replace(text)
}
