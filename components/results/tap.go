package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// Outcome is what came of a check.
type Outcome string

const (
	Passed  Outcome = "passed"
	Failed  Outcome = "failed"
	Skipped Outcome = "skipped"
)

// Check is one assertion of a program, or how the program ended.
type Check struct {
	// Without what differs from run to run; where a program says the same again, with a number.
	Name    string  `json:"name"`
	Outcome Outcome `json:"outcome"`
	// What the program says of a failure.
	Message string `json:"message,omitempty"`
}

var (
	assertion = regexp.MustCompile(`^(not )?ok\b *\d* *(?:- )?(?:# (SKIP|TODO) ?)?(.*)$`)
	// Container IDs, and the random part of the names of temporary files.
	random = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9]{5,}`)
)

// parseTAP returns the assertions that a program printed in the Test Anything Protocol. The output of programs that
// print several documents, or that of a program in the container, is taken as one.
func parseTAP(output string) []Check {
	var checks []Check
	said := map[string]int{}
	add := func(outcome Outcome, description string) {
		name := strings.TrimSpace(random.ReplaceAllString(description, "…"))
		said[name]++
		if said[name] > 1 {
			name = fmt.Sprintf("%s (%d)", name, said[name])
		}
		checks = append(checks, Check{Name: name, Outcome: outcome})
	}
	explain := func(message string) {
		if message != "" && len(checks) > 0 {
			if last := &checks[len(checks)-1]; last.Outcome == Failed && last.Message == "" {
				last.Message = message
			}
		}
	}

	var inside []Check // what the container asserted, of which the next assertion is the sum
	scanner := bufio.NewScanner(strings.NewReader(output))
	scanner.Buffer(nil, 1<<20)
	var block *strings.Builder // the YAML that follows an assertion; it is JSON
	for scanner.Scan() {
		line := scanner.Text()
		switch {
		case line == "  ---":
			block = &strings.Builder{}
		case line == "  ..." && block != nil:
			var fields map[string]any
			if json.Unmarshal([]byte(block.String()), &fields) == nil {
				message, stdout := diagnosis(fields), fmt.Sprint(fields["stdout"])
				switch {
				case strings.HasPrefix(stdout, "TAP version"):
					inside = parseTAP(stdout)
				case len(fields) == 1 && fields["error"] != nil && len(checks) == 0:
					// Programs about hooks print this in place of an assertion, and nothing when all is well.
					add(Failed, message)
				default:
					explain(message)
				}
			}
			block = nil
		case block != nil:
			block.WriteString(line + "\n")
		case strings.HasPrefix(line, "# "):
			explain(strings.TrimPrefix(line, "# "))
		default:
			found := assertion.FindStringSubmatch(line)
			switch {
			case found == nil:
			case inside != nil:
				for _, check := range inside {
					add(check.Outcome, found[3]+": "+check.Name)
					explain(check.Message)
				}
				inside = nil
			case found[2] != "": // what is still to do is not asserted, either
				add(Skipped, found[3])
			case found[1] == "":
				add(Passed, found[3])
			default:
				add(Failed, found[3])
			}
		}
	}
	return checks
}

// diagnosis returns what a block of diagnostics says of a failure.
func diagnosis(fields map[string]any) string {
	for _, key := range []string{"stderr", "error", "actual"} {
		if value := fields[key]; value != nil {
			if text := complaint(fmt.Sprint(value)); text != "" {
				return text
			}
		}
	}
	return ""
}

// complaint returns the line that says most of what a runtime or a program wrote: around an error there may be warnings, and
// the program's own words that something failed.
func complaint(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for _, line := range lines {
		if strings.Contains(line, "error") && !strings.Contains(line, "level=warning") && !strings.HasSuffix(line, "occurred:") {
			return strings.TrimSpace(line)
		}
	}
	for _, line := range lines {
		if !strings.Contains(line, "level=warning") && !strings.HasSuffix(line, "occurred:") {
			return strings.TrimSpace(line)
		}
	}
	return lines[0]
}
