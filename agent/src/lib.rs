//! The agent: everything between the kernel and the collector.
//!
//! hook → ring buffer → [`sensor`] → [`process`] table → [`event`] → engine → alert → [`spool`] → [`export`].

pub mod sensor;
pub mod process;
pub mod event;
pub mod spool;
pub mod export;
pub mod config;
pub mod identity;
pub mod metrics;
pub mod admin;
pub mod logging;
pub mod shutdown;
