package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Programs is what came of the validation programs of the OCI's runtime-tools.
type Programs struct {
	// Their version.
	Suite string       `json:"suite"`
	Runs  []ProgramRun `json:"runs"`

	known []Known
}

// The run that the others are compared with.
var baseline = Where{"linux", "runc"}

// The runtime that must be as good as that.
const judged = "terrarium"

const unexplained = "Not explained"

func (r *Programs) add(where Where, path string) error {
	run, err := readRun(where, path)
	r.Runs = append(r.Runs, run)
	return err
}

// compared returns the run that the others are compared with, nil if there is none.
func (r *Programs) compared() *ProgramRun {
	if at := slices.IndexFunc(r.Runs, func(run ProgramRun) bool { return run.Where == baseline }); at >= 0 {
		return &r.Runs[at]
	}
	return nil
}

// tell has a line for each failure that has a name of its own, and for what is on the list of known failures without reason.
func (r *Programs) tell(out io.Writer) bool {
	good := true
	for _, run := range r.Runs {
		said := map[string]bool{}
		for _, failure := range run.failures(r.compared(), r.known) {
			word, remark := "fails", failure.Message
			switch {
			case failure.Known != nil:
				word, remark = "known", failure.Known.Cause
			case run.Runtime == judged && failure.Worse:
				good, word = false, "FAILED"
			}
			line := fmt.Sprintf("%-8s %s %s", word, run.Where, failure.shown())
			if !said[line] {
				fmt.Fprintf(out, "%s (%s)\n", line, remark)
			}
			said[line] = true
		}
	}
	for _, stale := range r.stale() {
		fmt.Fprintf(out, "PASSES   %s (and is still on the list of known failures)\n", stale.Failure)
	}
	return good
}

// stale returns the known failures that did not fail in any of the runs that they are about.
func (r *Programs) stale() []Known {
	return slices.DeleteFunc(slices.Clone(r.known), func(known Known) bool {
		played := false
		for _, run := range r.Runs {
			if !known.coversRun(run.Where) {
				continue
			}
			played = true
			if slices.ContainsFunc(run.failures(r.compared(), nil), func(failure Failure) bool {
				return known.covers(run.Where, failure.names()...)
			}) {
				return true
			}
		}
		return !played
	})
}

func (r ProgramRun) title() string {
	if r.Place == "linux" {
		return r.Runtime + " on Linux"
	}
	return r.Runtime + " in gVisor " + r.Place
}

func (r ProgramRun) summary() string {
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

func (r *Programs) page() Page {
	page := Page{title: "OCI runtime", target: "oci-conformance", row: "program", sections: r.causes()}
	page.intro = fmt.Sprintf("What came of the validation programs of the Open Container Initiative's runtime-tools %s with terrarium's runtime and\n"+
		"with runc 1.1, on Linux (cgroup v1) and in gVisor. The programs are built from upstream's sources; the containers' root\n"+
		"has Debian's BusyBox. `make oci-conformance` plays them.", strings.TrimPrefix(r.Suite, "v"))
	page.legend = "A cell has the number of assertions that pass, and of those that fail."
	for _, run := range r.Runs {
		cells := map[string]string{}
		for _, program := range run.Programs {
			cells[program.Name] = program.cell()
		}
		page.columns = append(page.columns, Column{run.title(), run.summary(), cells})
	}
	return page
}

func (p Program) cell() string {
	switch {
	case p.skipped():
		return "skipped"
	case p.passed() && p.count(Passed) == 0:
		return "passes" // without a word
	case p.passed():
		return fmt.Sprint(p.count(Passed))
	default:
		return fmt.Sprintf("%d, **%d fail**", p.count(Passed), p.count(Failed))
	}
}

// causes lists the failures under what causes them, each with where it fails: those that are known as the list of these
// has them, the others by themselves.
func (r *Programs) causes() string {
	type row struct {
		order          int
		cause, failure string
	}
	where := map[row][]string{}
	var rows []row
	for _, run := range r.Runs {
		for _, failure := range run.failures(r.compared(), r.known) {
			key := row{len(r.known), unexplained, failure.shown()}
			if known := failure.Known; known != nil {
				// The first line that says the same, of which there may be one for each place.
				first := slices.IndexFunc(r.known, func(each Known) bool {
					return each.Cause == known.Cause && each.Failure == known.Failure
				})
				key = row{first, known.Cause, shown(known.Failure)}
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

// shown is a line of the list of known failures in what people read.
func shown(failure string) string {
	program, check, has := strings.Cut(failure, ": ")
	program = strings.ReplaceAll(program, "*", "every program")
	if !has {
		return program
	}
	return program + ": " + strings.ReplaceAll(check, "*", "…")
}

// shortly names runs: all of them by one word, and those of a runtime everywhere, or everywhere in gVisor, by the runtime.
func (r *Programs) shortly(titles []string) string {
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

func (r *Programs) runtimes() []string {
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
