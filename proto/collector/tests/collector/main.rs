//! The collector as its peers see it: over gRPC, and as a process that is killed.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helpers fail the test")]

mod crash;
mod feed;
mod harness;
mod ingest;
mod security;
mod server;
mod sinks;
