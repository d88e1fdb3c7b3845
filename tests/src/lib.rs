//! Scenarios in real gVisor sandboxes.
