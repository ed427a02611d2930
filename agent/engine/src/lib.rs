//! The rule language and its matcher. No I/O, no clock, no threads: time and fields come in with the event.
#![forbid(unsafe_code)]
