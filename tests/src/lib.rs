//! Harness of the live-kernel tests.
