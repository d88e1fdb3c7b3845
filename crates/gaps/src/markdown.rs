//! The table for people: `docs/gaps.md`.

use std::fmt::Write as _;

use crate::{Blocks, Gap, Remedy, Rung};

/// Renders the table as the Markdown page `docs/gaps.md`.
#[must_use]
pub fn render(table: &[Gap]) -> String {
    let mut page = String::from(
        "# Gaps and remedies\n\n\
         Generated from `crates/gaps/src/table.rs` by `UPDATE_DOCS=1 cargo test -p terrarium-gaps`; do not edit.\n\n\
         `terrarium doctor` says which of them the sandbox at hand has, and what terrarium does about each; the report behind\n\
         it is described by [report.schema.json](report.schema.json). A rung in *italics* was measured to work and is not\n\
         built yet. While one in **bold** is open the node does not start, or no Pod runs.\n\n\
         Scenarios leave out each remedy that is built, in real sandboxes, and look for what breaks:\n\
         [gaps.rs](../tests/scenarios/gaps.rs), [experiments.rs](../tests/scenarios/experiments.rs) and\n\
         [resources.rs](../tests/scenarios/resources.rs). Not shown there: kube-proxy, crun, youki and flannel, which the tests\n\
         do not have (the rules, routes and links that they ask for are tried by hand); on 2024-07 the route without a device,\n\
         which answers like one with a silent neighbour.\n\n\
         | gap | what is missing | what breaks | remedies, cheapest whole one first | hint |\n|---|---|---|---|---|\n",
    );
    for gap in table {
        let remedies: Vec<String> = gap.remedies.iter().map(remedy).collect();
        let name = if gap.blocks > Blocks::Nothing { format!("**`{}`**", gap.id) } else { format!("`{}`", gap.id) };
        let Gap { missing, breaks, hint, .. } = gap;
        writeln!(page, "| {name} | {missing} | {breaks} | {} | {hint} |", remedies.join("<br>"))
            .expect("a String takes every write");
    }
    page.push_str("\n| rung | costs, while the cluster runs |\n|---|---|\n");
    for rung in [Rung::Flag, Rung::Mount, Rung::Namespace, Rung::Fuse, Rung::Intercept, Rung::Replacement] {
        writeln!(page, "| {rung} | {} |", rung.cost()).expect("a String takes every write");
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
