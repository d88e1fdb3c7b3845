// Command results reads what ginkgo reported of critest and says what came of it: one line for each spec on stderr, a JSON
// document, and a page. It ends with 1 if a spec failed that is not known to fail.
//
//	results -known FILE -json FILE -page FILE -suite VERSION BUILD/RUNTIME=REPORT…
//	results -list REPORT
//
// The second form names the specs of a dry run, in which ginkgo calls them passed.
// BUILD is the build of gVisor, REPORT the file that ginkgo wrote in a sandbox of that build with that OCI runtime.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
)

func main() {
	list := flag.Bool("list", false, "name the specs of the report, and no more")
	known := flag.String("known", "", "the specs that are known to fail, and why")
	document := flag.String("json", "", "the JSON document to write")
	page := flag.String("page", "", "the page to write")
	suite := flag.String("suite", "", "the suite's version")
	flag.Parse()
	good, err := true, error(nil)
	if *list {
		err = printNames(flag.Arg(0))
	} else {
		good, err = run(*known, *document, *page, Results{Suite: *suite}, flag.Args())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(2)
	}
	if !good {
		os.Exit(1)
	}
}

func run(known, document, page string, results Results, arguments []string) (bool, error) {
	text, err := os.ReadFile(known)
	if err != nil {
		return false, err
	}
	if results.known, err = parseKnown(string(text)); err != nil {
		return false, fmt.Errorf("%s: %w", known, err)
	}
	for _, argument := range arguments {
		where, path, _ := strings.Cut(argument, "=")
		build, runtime, found := strings.Cut(where, "/")
		if !found {
			return false, fmt.Errorf("%s is not of the form BUILD/RUNTIME=REPORT", argument)
		}
		run, err := readReport(path)
		if err != nil {
			return false, err
		}
		run.Gvisor, run.Runtime = build, runtime
		results.add(run)
	}
	encoded, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return false, err
	}
	if err := os.WriteFile(document, append(encoded, '\n'), 0o644); err != nil {
		return false, err
	}
	if err := os.WriteFile(page, []byte(results.page()), 0o644); err != nil {
		return false, err
	}
	return results.tell(os.Stderr), nil
}

func readReport(path string) (Run, error) {
	report, err := os.ReadFile(path)
	if err != nil {
		return Run{}, err
	}
	run, err := parseReport(report)
	if err != nil {
		return Run{}, fmt.Errorf("%s: %w", path, err)
	}
	return run, nil
}

func printNames(path string) error {
	run, err := readReport(path)
	if err != nil {
		return err
	}
	for _, name := range (Results{Runs: []Run{run}}).names() {
		fmt.Println(name)
	}
	return nil
}
