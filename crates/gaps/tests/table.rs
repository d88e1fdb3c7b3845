//! The table is whole, and the page in docs/ is what it renders to.

#![allow(clippy::unwrap_used)] // Helpers of tests, which the lint takes for code of its own.

use std::collections::BTreeSet;
use std::path::Path;

use terrarium_gaps::{GapId, Report, TABLE, render};

#[test]
fn every_gap_has_one_row_and_a_ladder_in_order() {
    let ids: BTreeSet<GapId> = TABLE.iter().map(|gap| gap.id).collect();
    assert_eq!(ids.len(), TABLE.len(), "an id stands twice");
    assert_eq!(ids.last(), Some(&GapId::HostnameResolution), "the last variant has a row");
    for gap in TABLE {
        assert!(std::ptr::eq(gap.id.gap(), gap));
        assert!(!gap.remedies.is_empty(), "{} has no remedy", gap.id);
        assert!(gap.remedies.is_sorted_by_key(|remedy| (remedy.partial, remedy.rung)), "{}: cheapest first", gap.id);
    }
}

#[test]
fn ids_are_printed_as_they_are_written_to_files() {
    assert_eq!(GapId::ProcSys.to_string(), "proc-sys");
    assert_eq!(serde_json::to_string(&GapId::ProcSys).unwrap(), "\"proc-sys\"");
}

#[test]
fn the_page_in_docs_is_the_rendered_table() {
    is_generated("gaps.md", &render(TABLE));
}

#[test]
fn the_schema_in_docs_is_that_of_the_report() {
    let schema = schemars::schema_for!(Report);
    is_generated("report.schema.json", &(serde_json::to_string_pretty(&schema).unwrap() + "\n"));
}

fn is_generated(name: &str, content: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, content).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == content, "docs/{name} is stale: run UPDATE_DOCS=1 cargo test -p terrarium-gaps");
}
