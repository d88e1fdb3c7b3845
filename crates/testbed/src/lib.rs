//! Real gVisor sandboxes for make up, tests and benches.
