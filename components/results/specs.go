package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// ginkgoSuite is what is read of ginkgo's JSON report, which holds one such object for each suite that ran. The names are
// those of types.Report in github.com/onsi/ginkgo/v2/types.
type ginkgoSuite struct {
	RunTime     time.Duration
	SpecReports []struct {
		ContainerHierarchyTexts []string
		LeafNodeType            string
		LeafNodeText            string
		State                   string
		RunTime                 time.Duration
		Failure                 struct{ Message string }
	}
}

// Specs is what came of a suite whose specs ginkgo runs.
type Specs struct {
	// Its version.
	Suite string    `json:"suite"`
	Runs  []SpecRun `json:"runs"`

	known []Known
}

// SpecRun is what came of the specs that ran in one place.
type SpecRun struct {
	Where
	// Of the whole run: less than the specs took together where several ran at once.
	Seconds float64 `json:"seconds"`
	Specs   []Spec  `json:"specs"`
}

// Spec is what came of one spec.
type Spec struct {
	// As the suite names it, without the marks that nearly all of one suite have.
	Name string `json:"name"`
	// As ginkgo names it: passed, failed, skipped, panicked, timedout, interrupted, aborted.
	State   string  `json:"state"`
	Seconds float64 `json:"seconds"`
	// The first line of what failed, or of why it was skipped.
	Message string `json:"message,omitempty"`
	// Why it is known to fail, where it is, whether it did or not.
	Known string `json:"known,omitempty"`
}

func (s Spec) passed() bool { return s.State == "passed" }

func (s Spec) skipped() bool { return s.State == "skipped" }

// failed says that the spec neither passed nor chose not to run.
func (s Spec) failed() bool { return !s.passed() && !s.skipped() }

func (r *Specs) add(where Where, path string) error {
	report, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	run, err := parseReport(report)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	run.Where = where
	for i := range run.Specs {
		spec := &run.Specs[i]
		if at := knownAt(r.known, where, spec.Name); at >= 0 {
			spec.Known = r.known[at].Cause
		}
	}
	r.Runs = append(r.Runs, run)
	return nil
}

// tell has a line for each spec.
func (r *Specs) tell(out io.Writer) bool {
	good := true
	for _, run := range r.Runs {
		for _, spec := range run.Specs {
			word, remark := spec.State, spec.Message
			switch {
			case spec.failed() && spec.Known == "":
				good, word = false, "FAILED"
			case spec.failed():
				word, remark = "known", spec.Known
			case spec.passed() && spec.Known != "":
				word, remark = "PASSES", "and is still on the list of known failures"
			}
			if remark != "" {
				remark = " (" + remark + ")"
			}
			fmt.Fprintf(out, "%-8s %s %s%s\n", word, run.Where, spec.Name, remark)
		}
	}
	return good
}

// names are those of the specs that ran anywhere.
func (r *Specs) names() []string {
	var names []string
	for _, run := range r.Runs {
		for _, spec := range run.Specs {
			names = append(names, spec.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (r SpecRun) count(is func(Spec) bool) int {
	count := 0
	for _, spec := range r.Specs {
		if is(spec) {
			count++
		}
	}
	return count
}

func (r SpecRun) cells(show func(Spec) string) map[string]string {
	cells := map[string]string{}
	for _, spec := range r.Specs {
		cells[spec.Name] = show(spec)
	}
	return cells
}

// parseReport returns the specs that ran, in the order in which they did.
func parseReport(report []byte) (SpecRun, error) {
	var suites []ginkgoSuite
	if err := json.Unmarshal(report, &suites); err != nil {
		return SpecRun{}, err
	}
	var run SpecRun
	for _, suite := range suites {
		run.Seconds += tenths(suite.RunTime)
		for _, each := range suite.SpecReports {
			message := firstLine(each.Failure.Message)
			if each.LeafNodeType != "It" {
				// Without what comes before and after the specs, what they say means nothing.
				if each.State == "failed" || each.State == "panicked" {
					return SpecRun{}, fmt.Errorf("the suite's %s failed: %s", each.LeafNodeType, message)
				}
				continue
			}
			// What is out of focus is skipped, too, but without a word.
			if each.State == "pending" || each.State == "skipped" && message == "" {
				continue
			}
			name := specName(append(each.ContainerHierarchyTexts, each.LeafNodeText))
			run.Specs = append(run.Specs, Spec{Name: name, State: each.State, Seconds: tenths(each.RunTime), Message: message})
		}
	}
	if len(run.Specs) == 0 {
		return SpecRun{}, errors.New("no spec ran: the focus matches none")
	}
	return run, nil
}

func tenths(duration time.Duration) float64 { return duration.Round(time.Second / 10).Seconds() }

// The pages are about these, so each line would say the same.
var marks = []string{"[k8s.io]", "[sig-network]", "[Conformance]"}

func specName(texts []string) string {
	words := strings.Fields(strings.Join(texts, " "))
	return strings.Join(slices.DeleteFunc(words, func(word string) bool { return slices.Contains(marks, word) }), " ")
}

func firstLine(message string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(message), "\n")
	return line
}
