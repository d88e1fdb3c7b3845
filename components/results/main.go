// Command results reads what is left of the runs of a suite and says what came of them: lines on stderr, a JSON document,
// and a page. It ends with 1 if something failed that is not known to fail.
//
//	results conformance -known FILE -json FILE -page FILE -suite VERSION -procs N BUILD=REPORT…
//	results critest -known FILE -json FILE -page FILE -suite VERSION BUILD/RUNTIME=REPORT…
//	results oci-conformance -known FILE -json FILE -page FILE -suite VERSION PLACE/RUNTIME=DIRECTORY…
//	results list REPORT
//
// BUILD is the build of gVisor, PLACE one of these or linux. REPORT is the file that ginkgo wrote, DIRECTORY what
// scripts/oci-inside filled. The last form names the specs of a dry run, in which ginkgo calls them passed.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// suite is what came of one, and its JSON document.
type suite interface {
	// add takes in a run, of which this is left.
	add(where Where, path string) error
	// tell says what failed, and whether it is what is expected.
	tell(out io.Writer) bool
	page() Page
}

func main() {
	good, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(2)
	}
	if !good {
		os.Exit(1)
	}
}

func run(arguments []string) (bool, error) {
	if len(arguments) < 2 {
		return false, errors.New("a suite and its reports, or list and a report, are needed")
	}
	if arguments[0] == "list" {
		return true, printNames(arguments[1])
	}
	flags := flag.NewFlagSet(arguments[0], flag.ExitOnError)
	list := flags.String("known", "", "what is known to fail, and why")
	document := flags.String("json", "", "the JSON document to write")
	page := flags.String("page", "", "the page to write")
	version := flags.String("suite", "", "the suite's version")
	procs := flags.Int("procs", 1, "how many specs ran at once")
	flags.Parse(arguments[1:])

	known, err := readKnown(*list)
	if err != nil {
		return false, err
	}
	var suite suite
	switch arguments[0] {
	case "conformance":
		suite = &Conformance{Specs: Specs{Suite: *version, known: known}, Procs: *procs}
	case "critest":
		suite = &Critest{Specs{Suite: *version, known: known}}
	case "oci-conformance":
		suite = &Programs{Suite: *version, known: known}
	default:
		return false, fmt.Errorf("%s is not a suite; there are: conformance critest oci-conformance", arguments[0])
	}
	for _, argument := range flags.Args() {
		name, path, found := strings.Cut(argument, "=")
		if !found {
			return false, fmt.Errorf("%s does not say where a report is from and which it is, with = between", argument)
		}
		place, runtime, _ := strings.Cut(name, "/")
		if err := suite.add(Where{place, runtime}, path); err != nil {
			return false, err
		}
	}
	made := suite.page()
	if err := os.WriteFile(*page, []byte(made.String()), 0o644); err != nil {
		return false, err
	}
	if err := writeDocument(*document, suite); err != nil {
		return false, err
	}
	good := suite.tell(os.Stderr)
	for _, column := range made.columns {
		fmt.Fprintln(os.Stderr, column.summary)
	}
	return good, nil
}

func readKnown(path string) ([]Known, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	known, err := parseKnown(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return known, nil
}

func writeDocument(path string, suite suite) error {
	encoded, err := json.MarshalIndent(suite, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(encoded, '\n'), 0o644)
}

func printNames(path string) error {
	var specs Specs
	if err := specs.add(Where{}, path); err != nil {
		return err
	}
	for _, name := range specs.names() {
		fmt.Println(name)
	}
	return nil
}
