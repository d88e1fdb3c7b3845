package main

import (
	"fmt"
	"slices"
	"strings"
)

// Known is a spec that is expected to fail, and why.
type Known struct {
	// Builds of gVisor, or everywhere; with /RUNTIME only for that runtime.
	Places []string
	// A * stands for any text.
	Spec  string
	Cause string
}

func (k Known) coversRun(run Run) bool {
	return slices.ContainsFunc(k.Places, func(place string) bool {
		build, runtime, only := strings.Cut(place, "/")
		return (build == "everywhere" || build == run.Gvisor) && (!only || runtime == run.Runtime)
	})
}

func (k Known) covers(run Run, spec string) bool { return k.coversRun(run) && matches(k.Spec, spec) }

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

// parseKnown reads the list of specs that are known to fail. A line that starts at the margin and ends with a colon is a
// cause; the indented lines below it, PLACE…: SPEC, fail for it. Lines that start with # are comments.
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
			return nil, fmt.Errorf("line %d is neither a cause, which ends with a colon, nor a spec below one", number+1)
		default:
			places, spec, found := strings.Cut(trimmed, ": ")
			if !found {
				return nil, fmt.Errorf("line %d names no place before its spec", number+1)
			}
			known = append(known, Known{Places: strings.Fields(places), Spec: spec, Cause: cause})
		}
	}
	return known, nil
}
