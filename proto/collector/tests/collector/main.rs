//! The collector as its peers see it: over gRPC, and as a process that is killed.

mod crash;
mod feed;
mod harness;
mod ingest;
mod server;
