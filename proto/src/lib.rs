//! The wire contract of Staghound: messages and services of package `staghound.v1`, generated from `staghound/v1/*.proto`.
//!
//! Knows nothing of agent, engine or collector. JSON is the canonical proto3 JSON of these messages, made by [`json`].
#![forbid(unsafe_code)]

pub mod json;
pub mod text;

/// Messages and services of package `staghound.v1`.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::wildcard_enum_match_arm,
    unused_qualifications,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("staghound.v1");
}

/// The version of the contract that this crate speaks, as told in hello and welcome.
pub const CONTRACT_VERSION: u32 = 1;

/// The encoded `FileDescriptorSet` of the package, its imports included; for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/staghound.v1.descriptors"));
