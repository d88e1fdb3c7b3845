//! The table for people: `docs/gaps.md`.

use std::fmt::Write as _;

use crate::{Gap, Remedy};

/// Renders the table as the Markdown page `docs/gaps.md`.
#[must_use]
pub fn render(table: &[Gap]) -> String {
    let mut page = String::from(
        "# Gaps and remedies\n\n\
         Generated from `crates/gaps/src/table.rs` by `UPDATE_DOCS=1 cargo test -p terrarium-gaps`; do not edit.\n\n\
         A rung in *italics* was measured to work and is not built yet.\n\n\
         | gap | what is missing | what breaks | remedies, cheapest first |\n|---|---|---|---|\n",
    );
    for gap in table {
        let remedies: Vec<String> = gap.remedies.iter().map(remedy).collect();
        writeln!(page, "| `{}` | {} | {} | {} |", gap.id, gap.missing, gap.breaks, remedies.join("<br>"))
            .expect("a String takes every write");
    }
    page
}

fn remedy(remedy: &Remedy) -> String {
    if remedy.built {
        format!("**{}**: {}", remedy.rung, remedy.does)
    } else {
        format!("*{}: {}*", remedy.rung, remedy.does)
    }
}
