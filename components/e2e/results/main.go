// Command results reads what ginkgo reported of the end-to-end suite and says what came of it: one line for each spec on
// stderr, a JSON document, and a page. It ends with 1 if a spec failed that is not known to fail.
//
//	results -known FILE -json FILE -page FILE -kubernetes VERSION -procs N BUILD=REPORT…
//	results -list REPORT
//
// The second form names the specs of a dry run, in which ginkgo calls them passed.
// BUILD is the build of gVisor, REPORT the file that ginkgo wrote in a sandbox of that build.
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
	kubernetes := flag.String("kubernetes", "", "the version of the suite and of the cluster")
	procs := flag.Int("procs", 1, "how many specs ran at once")
	flag.Parse()
	if *list {
		if err := printNames(flag.Arg(0)); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(2)
		}
		return
	}
	good, err := run(*known, *document, *page, Results{Kubernetes: *kubernetes, Procs: *procs}, flag.Args())
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
	causes, err := parseKnown(string(text))
	if err != nil {
		return false, fmt.Errorf("%s: %w", known, err)
	}
	for _, argument := range arguments {
		build, path, _ := strings.Cut(argument, "=")
		report, err := os.ReadFile(path)
		if err != nil {
			return false, err
		}
		run, err := parseReport(report, causes)
		if err != nil {
			return false, fmt.Errorf("%s: %w", path, err)
		}
		run.Gvisor = build
		results.Runs = append(results.Runs, run)
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

func printNames(path string) error {
	report, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	run, err := parseReport(report, nil)
	if err != nil {
		return err
	}
	for _, name := range (Results{Runs: []Run{run}}).names() {
		fmt.Println(name)
	}
	return nil
}
