package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// suite is what is read of ginkgo's JSON report, which holds one such object for each suite that ran. The names are those
// of types.Report in github.com/onsi/ginkgo/v2/types.
type suite struct {
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

// Run is what came of the specs in one build of gVisor with one OCI runtime.
type Run struct {
	Gvisor  string  `json:"gvisor"`
	Runtime string  `json:"runtime"`
	Seconds float64 `json:"seconds"`
	Specs   []Spec  `json:"specs"`
}

// Spec is what came of one spec.
type Spec struct {
	// As the suite names it, without the marks that nearly all of them have.
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

// parseReport returns the specs that ran.
func parseReport(report []byte) (Run, error) {
	var suites []suite
	if err := json.Unmarshal(report, &suites); err != nil {
		return Run{}, err
	}
	var run Run
	for _, suite := range suites {
		run.Seconds += tenths(suite.RunTime)
		for _, each := range suite.SpecReports {
			message := firstLine(each.Failure.Message)
			if each.LeafNodeType != "It" {
				// Without what comes before and after the specs, what they say means nothing.
				if each.State == "failed" || each.State == "panicked" {
					return Run{}, fmt.Errorf("the suite's %s failed: %s", each.LeafNodeType, message)
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
		return Run{}, errors.New("no spec ran: the focus matches none")
	}
	return run, nil
}

func tenths(duration time.Duration) float64 { return duration.Round(time.Second / 10).Seconds() }

func specName(texts []string) string {
	words := strings.Fields(strings.Join(texts, " "))
	kept := words[:0]
	for _, word := range words {
		if word != "[k8s.io]" && word != "[Conformance]" {
			kept = append(kept, word)
		}
	}
	return strings.Join(kept, " ")
}

func firstLine(message string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(message), "\n")
	return line
}
