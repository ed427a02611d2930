//! The rule language and its matcher. No I/O, no clock, no threads: time and fields come in with the event.
//!
//! Text → syntax tree with spans → names, macros, lists and types resolved → typed IR → compiled ruleset.
#![forbid(unsafe_code)]

pub mod event;
pub mod field;
