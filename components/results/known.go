package main

import (
	"fmt"
	"slices"
	"strings"
)

// Where is where a suite was played, and with what.
type Where struct {
	// linux, or a build of gVisor.
	Place string `json:"place"`
	// The OCI runtime; empty where it makes no difference.
	Runtime string `json:"runtime,omitempty"`
}

func (w Where) String() string {
	if w.Runtime == "" {
		return w.Place
	}
	return w.Place + "/" + w.Runtime
}

// Known is a failure that is expected, and what causes it.
type Known struct {
	// linux, a build of gVisor, gvisor for all of these, or everywhere; with /RUNTIME only for that runtime.
	Places []string
	// A * stands for any text.
	Failure string
	Cause   string
}

func (k Known) coversRun(run Where) bool {
	return slices.ContainsFunc(k.Places, func(place string) bool {
		place, runtime, only := strings.Cut(place, "/")
		if only && runtime != run.Runtime {
			return false
		}
		return place == "everywhere" || place == run.Place || place == "gvisor" && run.Place != "linux"
	})
}

// covers says whether it is about a failure there that has these names.
func (k Known) covers(run Where, names ...string) bool {
	return k.coversRun(run) && slices.ContainsFunc(names, func(name string) bool { return matches(k.Failure, name) })
}

// knownAt returns the index of the first known failure that one with these names is, -1 if it is none.
func knownAt(known []Known, run Where, names ...string) int {
	return slices.IndexFunc(known, func(each Known) bool { return each.covers(run, names...) })
}

func matches(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	text, found := strings.CutPrefix(text, parts[0])
	for _, part := range parts[1 : len(parts)-1] {
		if !found {
			return false
		}
		_, text, found = strings.Cut(text, part)
	}
	return found && strings.HasSuffix(text, parts[len(parts)-1])
}

// parseKnown reads a list of known failures. A line that starts at the margin and ends with a colon is a cause; the
// indented lines below it, PLACE…: FAILURE, fail for it. Lines that start with # are comments.
func parseKnown(text string) ([]Known, error) {
	var known []Known
	cause := ""
	for number, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "" || strings.HasPrefix(line, "#"):
		case line == trimmed && strings.HasSuffix(line, ":"):
			cause = strings.TrimSuffix(line, ":")
		case line == trimmed || cause == "":
			return nil, fmt.Errorf("line %d is neither a cause, which ends with a colon, nor a failure below one", number+1)
		default:
			places, failure, found := strings.Cut(trimmed, ": ")
			if !found {
				return nil, fmt.Errorf("line %d names no place before what fails", number+1)
			}
			known = append(known, Known{Places: strings.Fields(places), Failure: failure, Cause: cause})
		}
	}
	return known, nil
}
