package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Results is the JSON document.
type Results struct {
	Suite string `json:"suite"`
	Runs  []Run  `json:"runs"`

	baseline *Run
	judged   string
	known    []Known
}

const unexplained = "Not explained"

// tell says what came of each run, and whether it is what is expected.
func (r *Results) tell(out io.Writer) bool {
	good := true
	for _, run := range r.Runs {
		said := map[string]bool{}
		for _, failure := range run.failures(r.baseline, r.known) {
			word := "known   "
			switch {
			case failure.Cause != "":
			case run.Runtime == r.judged && failure.Worse:
				good, word = false, "FAILED  "
			default:
				word = "fails   "
			}
			line := fmt.Sprintf("%s %s/%s %s", word, run.Place, run.Runtime, failure.shown())
			if !said[line] {
				fmt.Fprintf(out, "%s (%s)\n", line, cmp.Or(failure.Cause, failure.Message))
			}
			said[line] = true
		}
		fmt.Fprintln(out, run.summary())
	}
	for _, stale := range r.stale() {
		fmt.Fprintf(out, "PASSES   %s: %s, and is still on the list of known failures\n", stale.Program, stale.Check)
	}
	return good
}

// stale returns the known failures that did not fail in any of the runs that they are about.
func (r *Results) stale() []Known {
	var stale []Known
	for _, known := range r.known {
		played, failed := false, false
		for _, run := range r.Runs {
			if !known.coversRun(run) {
				continue
			}
			played = true
			failed = failed || slices.ContainsFunc(run.failures(r.baseline, nil), func(failure Failure) bool {
				return known.covers(run, failure.Program, failure.Check)
			})
		}
		if played && !failed {
			stale = append(stale, known)
		}
	}
	return stale
}

func (r Run) title() string {
	if r.Place == "linux" {
		return r.Runtime + " on Linux"
	}
	return r.Runtime + " in gVisor " + r.Place
}

func (r Run) summary() string {
	var programs, skipped, passed, failed int
	for _, program := range r.Programs {
		if program.passed() {
			programs++
		}
		if program.skipped() {
			skipped++
		}
		passed += program.count(Passed)
		failed += program.count(Failed)
	}
	return fmt.Sprintf("%s: %d of %d programs pass, %d are skipped; of the assertions %d pass, %d fail", r.title(), programs,
		len(r.Programs), skipped, passed, failed)
}

// page is the Markdown document: a column for each run, then the failures by their causes.
func (r *Results) page() string {
	var out strings.Builder
	fmt.Fprintf(&out, "# OCI runtime\n\n<!-- Generated: UPDATE_DOCS=1 make oci-conformance -->\n\n")
	fmt.Fprintf(&out, "What came of the validation programs of the Open Container Initiative's runtime-tools %s with terrarium's runtime and\n"+
		"with runc 1.1, on Linux (cgroup v1) and in gVisor. The programs are built from upstream's sources; the containers' root\n"+
		"has Debian's BusyBox. `make oci-conformance` plays them.\n\n", strings.TrimPrefix(r.Suite, "v"))
	for _, run := range r.Runs {
		fmt.Fprintf(&out, "- %s\n", run.summary())
	}
	out.WriteString("\nA cell has the number of assertions that pass, and of those that fail.\n\n| program |")
	for _, run := range r.Runs {
		fmt.Fprintf(&out, " %s |", run.title())
	}
	fmt.Fprintf(&out, "\n|---|%s\n", strings.Repeat("---|", len(r.Runs)))
	for _, name := range r.names() {
		fmt.Fprintf(&out, "| %s |", name)
		for _, run := range r.Runs {
			fmt.Fprintf(&out, " %s |", run.cell(name))
		}
		out.WriteString("\n")
	}
	out.WriteString(r.causes())
	return out.String()
}

func (r *Results) names() []string {
	var names []string
	for _, run := range r.Runs {
		for _, program := range run.Programs {
			names = append(names, program.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (r Run) cell(name string) string {
	program, found := r.program(name)
	switch {
	case !found:
		return ""
	case program.skipped():
		return "skipped"
	case program.passed() && program.count(Passed) == 0:
		return "passes" // without a word
	case program.passed():
		return fmt.Sprint(program.count(Passed))
	default:
		return fmt.Sprintf("%d, **%d fail**", program.count(Passed), program.count(Failed))
	}
}

// causes lists the failures under what causes them, each with where it fails: those that are known as the list of these
// has them, the others by themselves.
func (r *Results) causes() string {
	type row struct {
		order          int
		cause, failure string
	}
	where := map[row][]string{}
	var rows []row
	for _, run := range r.Runs {
		for _, failure := range run.failures(r.baseline, r.known) {
			key := row{len(r.known), unexplained, failure.shown()}
			if at := knownAt(r.known, run, failure.Program, failure.Check); at >= 0 {
				// The first line that says the same, of which there may be one for each place.
				first := slices.IndexFunc(r.known, func(known Known) bool {
					return known.Cause == r.known[at].Cause && known.shown() == r.known[at].shown()
				})
				key = row{first, failure.Cause, r.known[at].shown()}
			}
			if _, found := where[key]; !found {
				rows = append(rows, key)
			}
			if !slices.Contains(where[key], run.title()) {
				where[key] = append(where[key], run.title())
			}
		}
	}
	slices.SortStableFunc(rows, func(a, b row) int { return a.order - b.order })
	var out strings.Builder
	last := ""
	for _, each := range rows {
		if last == "" {
			out.WriteString("\n## What fails, and why\n")
		}
		if each.cause != last {
			fmt.Fprintf(&out, "\n**%s**\n\n", escape(each.cause))
			last = each.cause
		}
		fmt.Fprintf(&out, "- %s (%s)\n", escape(each.failure), r.shortly(where[each]))
	}
	return out.String()
}

// shortly names runs: all of them by one word, and those of a runtime everywhere, or everywhere in gVisor, by the runtime.
func (r *Results) shortly(titles []string) string {
	if len(titles) == len(r.Runs) {
		return "everywhere"
	}
	for _, runtime := range r.runtimes() {
		var all, inGVisor []string
		for _, run := range r.Runs {
			if run.Runtime == runtime {
				all = append(all, run.title())
				if run.Place != "linux" {
					inGVisor = append(inGVisor, run.title())
				}
			}
		}
		titles = replace(titles, all, runtime+" everywhere")
		titles = replace(titles, inGVisor, runtime+" in gVisor")
	}
	return strings.Join(titles, ", ")
}

func (r *Results) runtimes() []string {
	var runtimes []string
	for _, run := range r.Runs {
		if !slices.Contains(runtimes, run.Runtime) {
			runtimes = append(runtimes, run.Runtime)
		}
	}
	return runtimes
}

// replace puts one name where several are, if all of them are there.
func replace(titles, several []string, one string) []string {
	isOneOf := func(title string) bool { return slices.Contains(several, title) }
	found := slices.DeleteFunc(slices.Clone(titles), func(title string) bool { return !isOneOf(title) })
	if len(several) < 2 || len(found) != len(several) {
		return titles
	}
	return append(slices.DeleteFunc(slices.Clone(titles), isOneOf), one)
}

func escape(text string) string {
	return strings.NewReplacer("|", "\\|", "<", "&lt;").Replace(text)
}
