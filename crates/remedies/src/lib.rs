//! Remedies for the gaps: plan, apply, verify, revert.
