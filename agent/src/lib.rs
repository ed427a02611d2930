//! The agent: everything between the kernel and the collector.
//!
//! hook → ring buffer → [`sensor`] → process table → engine → alert → spool → export.

pub mod event;
pub mod process;
pub mod sensor;
