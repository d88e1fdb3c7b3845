package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Page is a Markdown document: the runs' summaries, a table with a column for each, and what the suite adds to these.
type Page struct {
	title string
	// What makes it.
	target string
	intro  string
	// How the cells are to be read, if they do not say so themselves.
	legend string
	// What a row is about.
	row     string
	columns []Column
	// Sections below the table.
	sections string
}

// Column is a run.
type Column struct {
	title, summary string
	// By the name of their row.
	cells map[string]string
}

func (p Page) String() string {
	var out strings.Builder
	fmt.Fprintf(&out, "# %s\n\n<!-- Generated: UPDATE_DOCS=1 make %s -->\n\n%s\n\n", p.title, p.target, p.intro)
	for _, column := range p.columns {
		fmt.Fprintf(&out, "- %s\n", column.summary)
	}
	if p.legend != "" {
		fmt.Fprintf(&out, "\n%s\n", p.legend)
	}
	fmt.Fprintf(&out, "\n| %s |", p.row)
	rows := map[string]bool{}
	for _, column := range p.columns {
		fmt.Fprintf(&out, " %s |", column.title)
		for name := range column.cells {
			rows[name] = true
		}
	}
	fmt.Fprintf(&out, "\n|---|%s\n", strings.Repeat("---|", len(p.columns)))
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		fmt.Fprintf(&out, "| %s |", escape(name))
		for _, column := range p.columns {
			fmt.Fprintf(&out, " %s |", column.cells[name])
		}
		out.WriteString("\n")
	}
	out.WriteString(p.sections)
	return out.String()
}

func escape(text string) string {
	return strings.NewReplacer("|", "\\|", "<", "&lt;", "*", "\\*").Replace(text)
}
