//! The agent: everything between the kernel and the collector.
//!
//! hook → ring buffer → [`sensor`] → [`process`] table → [`event`] → engine → [`alert`] → [`spool`] → [`export`];
//! [`watch`] is that line as one function.

pub mod admin;
pub mod alert;
pub mod attest;
pub mod cli;
pub mod config;
pub mod coverage;
pub mod event;
pub mod export;
pub mod guard;
pub mod identity;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod observe;
pub mod packs;
pub mod policy;
pub mod preflight;
pub mod process;
pub mod redact;
pub mod reload;
pub mod report;
pub mod rules;
pub mod run;
pub mod sandbox;
pub mod sensor;
pub mod shutdown;
pub mod spool;
pub mod watch;
