//! CNI plugin: routed point-to-point veths, no bridge.
