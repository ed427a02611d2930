//! The agent: everything between the kernel and the collector.

pub mod admin;
pub mod config;
pub mod export;
pub mod identity;
pub mod logging;
pub mod metrics;
pub mod shutdown;
pub mod spool;
