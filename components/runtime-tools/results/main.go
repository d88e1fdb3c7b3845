// Command results reads what the programs of the runtime-tools' validation suite said and says what came of it: what
// failed, and the sums, on stderr, a JSON document, and a page. It ends with 1 if a runtime failed something that
// the baseline passes and that is not known.
//
//	results -known FILE -json FILE -page FILE -suite VERSION -baseline PLACE/RUNTIME -judged RUNTIME PLACE/RUNTIME=DIRECTORY…
//
// PLACE is linux or a build of gVisor, DIRECTORY what scripts/oci-inside filled there.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
)

func main() {
	known := flag.String("known", "", "the failures that are known, and why")
	document := flag.String("json", "", "the JSON document to write")
	page := flag.String("page", "", "the page to write")
	suite := flag.String("suite", "", "the version of the suite")
	baseline := flag.String("baseline", "linux/runc", "the run that the others are compared with")
	judged := flag.String("judged", "terrarium", "the runtime that must be as good as the baseline")
	flag.Parse()
	results := Results{Suite: *suite, judged: *judged}
	good, err := results.run(*known, *document, *page, *baseline, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(2)
	}
	if !good {
		os.Exit(1)
	}
}

func (r *Results) run(known, document, page, baseline string, arguments []string) (bool, error) {
	text, err := os.ReadFile(known)
	if err != nil {
		return false, err
	}
	if r.known, err = parseKnown(string(text)); err != nil {
		return false, fmt.Errorf("%s: %w", known, err)
	}
	for _, argument := range arguments {
		name, directory, _ := strings.Cut(argument, "=")
		place, runtime, _ := strings.Cut(name, "/")
		run, err := readRun(place, runtime, directory)
		if err != nil {
			return false, err
		}
		r.Runs = append(r.Runs, run)
		if name == baseline {
			r.baseline = &run
		}
	}
	encoded, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return false, err
	}
	if err := os.WriteFile(document, append(encoded, '\n'), 0o644); err != nil {
		return false, err
	}
	if err := os.WriteFile(page, []byte(r.page()), 0o644); err != nil {
		return false, err
	}
	return r.tell(os.Stderr), nil
}
