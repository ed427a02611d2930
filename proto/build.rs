//! Compiles `staghound/v1/*.proto` with protox, so that nobody needs protoc.

use prost::Message as _;
use std::{env, error::Error, fs, path::PathBuf};

const FILES: [&str; 5] = [
    "staghound/v1/alert.proto",
    "staghound/v1/run.proto",
    "staghound/v1/ingest.proto",
    "staghound/v1/feed.proto",
    "staghound/v1/agents.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("staghound.v1.descriptors"), descriptors.encode_to_vec())?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    Ok(())
}
