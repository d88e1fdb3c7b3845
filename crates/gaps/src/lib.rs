//! The gap table: what gVisor sandboxes lack, as data.
