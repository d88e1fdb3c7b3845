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

// Spec is what came of one spec.
type Spec struct {
	// As the suite names it, without the mark that it is part of conformance.
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

// failed says that the spec neither passed nor chose not to run.
func (s Spec) failed() bool { return !s.passed() && s.State != "skipped" }

// parseReport returns the specs that ran, in the order in which they did. causes says why a spec is known to fail.
func parseReport(report []byte, causes map[string]string) (Run, error) {
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
			run.Specs = append(run.Specs, Spec{
				Name:    name,
				State:   each.State,
				Seconds: tenths(each.RunTime),
				Message: message,
				Known:   causes[name],
			})
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
		// The page is about these two, so each line would say the same.
		if word != "[sig-network]" && word != "[Conformance]" {
			kept = append(kept, word)
		}
	}
	return strings.Join(kept, " ")
}

func firstLine(message string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(message), "\n")
	return line
}

// parseKnown reads the list of specs that are known to fail. A line that starts at the margin and ends with a colon is a
// cause; the indented lines below it are the specs that fail for it. Lines that start with # are comments.
func parseKnown(text string) (map[string]string, error) {
	causes := map[string]string{}
	cause := ""
	for number, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "" || strings.HasPrefix(line, "#"):
		case line == trimmed && strings.HasSuffix(line, ":"):
			cause = strings.TrimSuffix(line, ":")
		case line == trimmed || cause == "":
			return nil, fmt.Errorf("line %d is neither a cause, which ends with a colon, nor a spec below one", number+1)
		default:
			causes[trimmed] = cause
		}
	}
	return causes, nil
}
