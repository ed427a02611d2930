//! The rule language and its matcher. No I/O, no clock, no threads: time and fields come in with the event.
//!
//! Text → syntax tree with spans → names, macros, lists and types resolved → typed graph → compiled ruleset:
//!
//! - [`ruleset::load`] takes rule files and returns a [`ruleset::Ruleset`], or all mistakes of all files.
//! - [`ruleset::Ruleset::matches`] says which conditions of rules an [`event::Event`] matches.
//! - [`ruleset::Ruleset::follow`] does so too, and knows the rules over several events: what those need is in a
//!   [`memory::Memory`]. Alerts that repeat are held back by [`throttle::Throttles`].
#![forbid(unsafe_code)]

pub mod attack;
mod check;
pub mod compile;
mod correlate;
pub mod demand;
pub mod diagnostic;
mod evaluate;
pub mod event;
pub mod example;
pub mod field;
pub mod glob;
mod ir;
mod literal;
pub mod memory;
pub mod output;
mod pack;
pub mod ruleset;
mod sigma;
pub mod source;
pub mod syntax;
mod syscalls;
pub mod throttle;
mod yaml;
