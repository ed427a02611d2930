//! The collector: agents deliver to it, consumers read from it, and what it acknowledged is durable.
//!
//! [`collector::Collector`] is the whole of it, for the binary and for tests alike.
#![forbid(unsafe_code)]

pub mod cli;
pub mod collector;
pub mod security;
pub mod sinks;
pub mod store;

mod agents;
mod cursor;
mod feed;
mod filter;
mod http;
mod ingest;
mod live;
mod metrics;
mod sequence;
mod tail;

/// Version of the collector with the commit it was built from, such as `0.1.0 (43457c4a1b2c)`.
pub const VERSION: &str = env!("STAGHOUND_COLLECTOR_VERSION");
