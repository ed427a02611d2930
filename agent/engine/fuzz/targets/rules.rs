//! Gives `entry::rules` any bytes.
#![no_main]
#![expect(dead_code, reason = "the other target uses the other function")]

#[path = "../entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entry::rules(bytes));
