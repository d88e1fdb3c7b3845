//! The page in docs/ is what the table of errors renders to.

use std::path::Path;

use terrarium_cluster::render_errors;

#[test]
fn the_page_in_docs_is_the_rendered_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors.md");
    let page = render_errors();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("docs/ takes files");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "docs/errors.md is stale: run UPDATE_DOCS=1 cargo test -p terrarium-cluster --test errors");
}
