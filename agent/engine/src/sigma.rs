//! Sigma (specification 2.1.0): what its conditions, values and fields mean in our terms.
//!
//! Rules are lowered into the same graph as all others, by `ruleset/sigma.rs`; nothing here knows of them. The reader of
//! YAML is our own, because it knows places; a parser with another YAML reader below it could not say where a mistake is.

pub(crate) mod condition;
pub(crate) mod field;
pub(crate) mod value;
