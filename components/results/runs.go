package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ProgramRun is what came of the validation programs with one runtime in one place.
type ProgramRun struct {
	Where
	Programs []Program `json:"programs"`
}

// Program is one of them.
type Program struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	Checks  []Check `json:"checks"`
}

// ends is the name of the check that a program comes to a good end. One that does not has left assertions out.
const ends = "comes to an end"

// status of the programs that `timeout` ended, by SIGTERM or SIGKILL.
const timedOut, killed = 124, 137

// readRun reads what scripts/oci-inside wrote: for each program NAME.out, NAME.err and NAME.status, which holds the exit
// status and the seconds that it took.
func readRun(where Where, directory string) (ProgramRun, error) {
	run := ProgramRun{Where: where}
	statuses, err := filepath.Glob(filepath.Join(directory, "*.status"))
	if err != nil {
		return run, err
	}
	if len(statuses) == 0 {
		return run, fmt.Errorf("%s has no results", directory)
	}
	for _, path := range statuses {
		program, err := readProgram(strings.TrimSuffix(path, ".status"))
		if err != nil {
			return run, err
		}
		run.Programs = append(run.Programs, program)
	}
	return run, nil
}

func readProgram(path string) (Program, error) {
	program := Program{Name: filepath.Base(path)}
	text := map[string]string{}
	for _, suffix := range []string{"status", "out", "err"} {
		content, err := os.ReadFile(path + "." + suffix)
		if err != nil {
			return program, err
		}
		text[suffix] = string(content)
	}
	code, seconds, _ := strings.Cut(strings.TrimSpace(text["status"]), " ")
	status, err := strconv.Atoi(code)
	if err != nil {
		return program, fmt.Errorf("%s.status: %w", path, err)
	}
	if program.Seconds, err = strconv.ParseFloat(seconds, 64); err != nil {
		return program, fmt.Errorf("%s.status: %w", path, err)
	}
	program.Checks = parseTAP(text["out"])
	for i := range program.Checks {
		// Said by programs that leave the rest to stderr.
		if check := &program.Checks[i]; check.Outcome == Failed && strings.HasPrefix(check.Name, "exit status") {
			check.Message = complaint(text["err"])
		}
	}
	end := Check{Name: ends, Outcome: Passed}
	switch status {
	case 0:
	case timedOut, killed:
		end.Outcome, end.Message = Failed, "does not end in time"
	default:
		end.Outcome, end.Message = Failed, complaint(text["err"])
	}
	program.Checks = append(program.Checks, end)
	return program, nil
}

// skipped says that the program asserted nothing because it cannot here.
func (p Program) skipped() bool {
	return len(p.Checks) > 1 && !slices.ContainsFunc(p.Checks, func(check Check) bool {
		return check.Name != ends && check.Outcome != Skipped
	})
}

func (p Program) passed() bool { return !p.skipped() && p.count(Failed) == 0 }

func (p Program) count(outcome Outcome) int {
	count := 0
	for _, check := range p.Checks {
		if check.Outcome == outcome && (check.Name != ends || outcome == Failed) {
			count++
		}
	}
	return count
}

func (p Program) check(name string) (Check, bool) {
	at := slices.IndexFunc(p.Checks, func(check Check) bool { return check.Name == name })
	if at < 0 {
		return Check{}, false
	}
	return p.Checks[at], true
}

func (r ProgramRun) program(name string) (Program, bool) {
	at := slices.IndexFunc(r.Programs, func(program Program) bool { return program.Name == name })
	if at < 0 {
		return Program{}, false
	}
	return r.Programs[at], true
}

// Failure is a check that failed, or that is missing where another run passed it.
type Failure struct {
	Program, Check, Message string
	Missing                 bool
	// Whether the run that is compared with passes it.
	Worse bool
	// Nil if it is not known.
	Known *Known
}

// A repeated assertion's number.
var repeated = regexp.MustCompile(` \(\d+\)$`)

// names are those that the list of known failures may have for it: that of the program is about all its assertions.
func (f Failure) names() []string {
	return []string{f.Program, f.Program + ": " + f.Check, f.Program + ": " + repeated.ReplaceAllString(f.Check, "")}
}

// failures returns what failed in this run, and what it did not get to although the baseline passes it.
func (r ProgramRun) failures(baseline *ProgramRun, known []Known) []Failure {
	var failures []Failure
	add := func(program, check, message string, missing bool) {
		failure := Failure{Program: program, Check: check, Message: message, Missing: missing}
		if at := knownAt(known, r.Where, failure.names()...); at >= 0 {
			failure.Known = &known[at]
		}
		failure.Worse = baseline == nil || baseline.passes(program, check)
		failures = append(failures, failure)
	}
	for _, program := range r.Programs {
		for _, check := range program.Checks {
			if check.Outcome == Failed {
				add(program.Name, check.Name, check.Message, false)
			}
		}
		if end, _ := program.check(ends); baseline == nil || end.Outcome == Failed {
			continue
		}
		expected, _ := baseline.program(program.Name)
		if end, _ := expected.check(ends); end.Outcome == Failed {
			// Of what it got to before, nothing need be reached by who passes.
			continue
		}
		for _, check := range expected.Checks {
			// What is skipped was looked at; what is missing was not.
			if _, found := program.check(check.Name); check.Outcome == Passed && !found {
				add(program.Name, check.Name, "is not reached", true)
			}
		}
	}
	return failures
}

// shown is the failure's name in what people read: without the number of a repetition, and as one for all that a program
// did not get to.
func (f Failure) shown() string {
	if f.Missing {
		return f.Program + ": not all assertions are reached"
	}
	return f.Program + ": " + repeated.ReplaceAllString(f.Check, "")
}

// passes says whether the check passes here. One that is not here at all, such as an error that is reported in place of
// an assertion, is no failure here.
func (r ProgramRun) passes(program, check string) bool {
	found, _ := r.program(program)
	result, has := found.check(check)
	return !has || result.Outcome == Passed
}
