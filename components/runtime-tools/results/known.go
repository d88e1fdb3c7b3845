package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Known is a failure that is expected, and what causes it.
type Known struct {
	// Where: linux, a build of gVisor, gvisor for all of these, or everywhere; with /RUNTIME only for that runtime.
	Places []string
	// A * in either stands for any text.
	Program string
	// Any check of the program if it is empty.
	Check string
	Cause string
}

// A repeated assertion's number.
var repeated = regexp.MustCompile(` \(\d+\)$`)

func (k Known) coversRun(run Run) bool {
	return slices.ContainsFunc(k.Places, func(place string) bool {
		place, runtime, only := strings.Cut(place, "/")
		if only && runtime != run.Runtime {
			return false
		}
		return place == "everywhere" || place == run.Place || place == "gvisor" && run.Place != "linux"
	})
}

func (k Known) covers(run Run, program, check string) bool {
	return k.coversRun(run) && matches(k.Program, program) &&
		(k.Check == "" || matches(k.Check, check) || matches(k.Check, repeated.ReplaceAllString(check, "")))
}

func matches(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if !strings.HasPrefix(text, parts[0]) {
		return false
	}
	text = text[len(parts[0]):]
	if len(parts) == 1 {
		return text == ""
	}
	for _, part := range parts[1 : len(parts)-1] {
		at := strings.Index(text, part)
		if at < 0 {
			return false
		}
		text = text[at+len(part):]
	}
	return strings.HasSuffix(text, parts[len(parts)-1])
}

// shown is what fails in what people read.
func (k Known) shown() string {
	shown := strings.ReplaceAll(k.Program, "*", "every program")
	if k.Check != "" {
		shown += ": " + strings.ReplaceAll(k.Check, "*", "…")
	}
	return shown
}

// knownAt returns the index of the first known failure that this one is, -1 if it is none.
func knownAt(known []Known, run Run, program, check string) int {
	return slices.IndexFunc(known, func(each Known) bool { return each.covers(run, program, check) })
}

// parseKnown reads the list of known failures. A line that starts at the margin and ends with a colon is a cause; the
// indented lines below it, PLACE…: PROGRAM or PLACE…: PROGRAM: CHECK, fail for it; * stands for any text. Lines that start with # are comments.
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
			places, check, found := strings.Cut(trimmed, ": ")
			if !found {
				return nil, fmt.Errorf("line %d names no place before its program", number+1)
			}
			program, check, _ := strings.Cut(check, ": ")
			known = append(known, Known{Places: strings.Fields(places), Program: program, Check: check, Cause: cause})
		}
	}
	return known, nil
}
