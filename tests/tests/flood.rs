//! A flood of opens of a watched file hides nothing: what runs from memory meanwhile is found, every time. The same with a
//! million opens is `cargo xtask bench flood`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    process::{Child, Command, Stdio},
};

use staghound_tests::{DECOY_DIRECTORY, actor_path, in_guest, process::Agent, until};
use tempfile::TempDir;

const MEMFD_RULE: &str = "stealth/exec-from-memory";
const TAG: &str = "staghound-flood-tag";
const EXECS: usize = 50;

/// A load generator, killed when the test lets go of it.
struct Load(Child);

impl Load {
    fn start(arguments: &[&str]) -> Self {
        // Built beside the actor.
        let program = actor_path().with_file_name("load");
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn finish(mut self) {
        let child = &mut self.0;
        let status = until("end of a load generator", || child.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and needs not.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn executions_from_memory_are_found_in_a_flood_of_opens() {
    let directory = TempDir::new().unwrap();
    let decoys = directory.path().canonicalize().unwrap().join(DECOY_DIRECTORY);
    fs::create_dir(&decoys).unwrap();
    let decoy = decoys.join("flood");
    fs::write(&decoy, "decoy").unwrap();
    let agent = Agent::observe(&directory.path().join("state"), ["--output", "json"]);

    let opens = if in_guest() { "10000" } else { "200000" };
    let flood = [
        Load::start(&["open", opens, decoy.to_str().unwrap()]),
        Load::start(&["open", opens, decoy.to_str().unwrap()]),
    ];
    Load::start(&["memfd", &EXECS.to_string(), TAG]).finish();
    for load in flood {
        load.finish();
    }

    until("alert of each execution", || {
        let alerts = agent.shown();
        let found: BTreeSet<usize> = alerts
            .iter()
            .filter(|alert| alert["rule"]["id"] == MEMFD_RULE)
            .flat_map(|alert| alert["process"]["args"].as_array().into_iter().flatten())
            .filter_map(|argument| argument.as_str()?.strip_prefix(TAG)?.strip_prefix('-')?.parse().ok())
            .collect();
        (0..EXECS).all(|number| found.contains(&number)).then_some(())
    });
    assert!(
        agent
            .shown()
            .iter()
            .any(|alert| alert["event"]["file"]["path"] == decoy.to_str().unwrap()),
        "the flood itself was not found"
    );
}
