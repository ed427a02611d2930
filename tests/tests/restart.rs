//! Restart without a gap: pinned programs go on recording while no agent runs, and leave nothing when they are removed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs,
    os::fd::{FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
};

use staghound_tests::{
    DECOY_DIRECTORY, DECOY_RULE,
    process::{Agent, output, staghound},
    until,
};
use tempfile::TempDir;

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;

/// Decoys to read, and a directory for pins, which is gone at the end whatever happens.
struct Place {
    state: TempDir,
    pins: PathBuf,
}

impl Place {
    fn new(name: &str) -> Self {
        let state = TempDir::new().unwrap();
        fs::create_dir(state.path().join(DECOY_DIRECTORY)).unwrap();
        let pins = PathBuf::from(format!("/sys/fs/bpf/staghound-test-{}-{name}", std::process::id()));
        Self { state, pins }
    }

    fn agent(&self) -> Agent {
        let pin = format!("--pin={}", self.pins.display());
        Agent::observe(self.state.path(), ["--output", "json", &pin])
    }

    /// Reads decoys of these numbers, each once, by processes of their own.
    fn read(&self, numbers: std::ops::Range<u32>) {
        let directory = self.state.path().join(DECOY_DIRECTORY);
        for number in numbers.clone() {
            fs::write(directory.join(number.to_string()), "decoy").unwrap();
        }
        let script = format!(
            "cd {}; i={}; while [ $i -lt {} ]; do cat $i >/dev/null; i=$((i+1)); done",
            directory.display(),
            numbers.start,
            numbers.end
        );
        assert!(
            Command::new("/bin/sh")
                .args(["-c", &script])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Reads so many decoys, at a pace at which agents come and go meanwhile.
    fn read_slowly(&self, reads: u32) {
        let directory = self.state.path().join(DECOY_DIRECTORY);
        for number in 0..reads {
            fs::write(directory.join(number.to_string()), "decoy").unwrap();
        }
        let script = format!(
            "cd {}; i=0; while [ $i -lt {reads} ]; do cat $i >/dev/null; sleep 0.02; i=$((i+1)); done",
            directory.display()
        );
        let status = Command::new("/bin/sh").args(["-c", &script]).status().unwrap();
        assert!(status.success());
    }

    fn unpin(&self) -> staghound_tests::process::Output {
        output(staghound(["unpin"]).arg(&self.pins))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.pins.exists() {
            self.unpin();
        }
    }
}

/// How often the read of each decoy was told.
fn told(agent: &Agent) -> BTreeMap<u32, usize> {
    let mut told = BTreeMap::new();
    for alert in agent.shown() {
        if alert["rule"]["id"] == DECOY_RULE
            && let Some(number) = number_in(alert["message"].as_str().unwrap_or_default())
        {
            *told.entry(number).or_default() += 1;
        }
    }
    told
}

fn number_in(message: &str) -> Option<u32> {
    let (_, rest) = message.split_once(&format!("{DECOY_DIRECTORY}/"))?;
    rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

fn each_once(numbers: std::ops::Range<u32>) -> BTreeMap<u32, usize> {
    numbers.map(|number| (number, 1)).collect()
}

fn until_told(agent: &Agent, numbers: std::ops::Range<u32>) {
    until(&format!("alerts about the decoys {numbers:?}"), || {
        let told = told(agent);
        numbers.clone().all(|number| told.contains_key(&number)).then_some(())
    });
}

/// The number of a pinned program, as the kernel tells it.
fn program_id(path: &Path) -> u32 {
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let request = [path.as_ptr() as u64, 0];
    let program = bpf(BPF_OBJ_GET, &request).unwrap();
    let info = fs::read_to_string(format!(
        "/proc/self/fdinfo/{}",
        std::os::fd::AsRawFd::as_raw_fd(&program)
    ))
    .unwrap();
    let id = info.lines().find_map(|line| line.strip_prefix("prog_id:")).unwrap();
    id.trim().parse().unwrap()
}

fn is_loaded(program: u32) -> bool {
    bpf(BPF_PROG_GET_FD_BY_ID, &[u64::from(program), 0]).is_ok()
}

fn bpf(command: libc::c_long, request: &[u64; 2]) -> std::io::Result<OwnedFd> {
    // SAFETY: both commands read at most the 16 bytes of `request`, and the path that the first points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, request.as_ptr(), size_of_val(request)) };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned it, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(result).unwrap()) })
}

fn programs(pins: &Path) -> Vec<u32> {
    let generations = fs::read_dir(pins).unwrap().map(|entry| entry.unwrap().path());
    generations
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("generation_"))
        .flat_map(|path| fs::read_dir(path).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("program_"))
        .map(|path| program_id(&path))
        .collect()
}

#[test]
fn what_happens_while_no_agent_runs_is_told_by_the_next_one_once() {
    let place = Place::new("killed");
    let mut agent = place.agent();
    place.read(0..20);
    until_told(&agent, 0..20);
    let before = programs(&place.pins);
    agent.running.kill();
    agent.running.wait();
    place.read(20..120);

    let mut agent = place.agent();
    assert_eq!(programs(&place.pins), before, "the programs were used as they ran");
    place.read(120..140);
    until_told(&agent, 20..140);
    assert_eq!(told(&agent), each_once(20..140));
    for alert in agent.shown().iter().filter(|alert| alert["rule"]["id"] == DECOY_RULE) {
        let number = number_in(alert["message"].as_str().unwrap()).unwrap();
        assert_eq!(alert["unattended"].as_bool().unwrap_or(false), number < 120, "{alert}");
    }
    assert!(agent.metric("staghound_unattended_records_total").unwrap() >= 100.0);

    // Ended as it should be, and what happens then is told by the next one likewise.
    agent.running.terminate();
    place.read(140..160);
    let mut agent = place.agent();
    until_told(&agent, 140..160);
    assert_eq!(told(&agent), each_once(140..160));
    agent.running.terminate();

    let unpinned = place.unpin();
    assert_eq!(unpinned.code(), Some(0), "{unpinned:?}");
    assert!(unpinned.text().contains("link_process_exec"), "{unpinned:?}");
    assert!(!place.pins.exists());
    for program in before {
        until("the end of a program", || (!is_loaded(program)).then_some(()));
    }
}

#[test]
fn other_settings_take_over_on_the_same_rings() {
    let place = Place::new("upgraded");
    let mut agent = place.agent();
    place.read(0..10);
    until_told(&agent, 0..10);
    let before = programs(&place.pins);
    agent.running.kill();
    agent.running.wait();
    place.read(10..40);
    let pin = format!("--pin={}", place.pins.display());
    // Other programs than before, as an upgrade has.
    let agent = Agent::observe(place.state.path(), ["--output", "json", "--sensor-hook=raw", &pin]);
    place.read(40..50);
    until_told(&agent, 10..50);
    assert_eq!(told(&agent), each_once(10..50));
    let after = programs(&place.pins);
    assert!(
        after.iter().all(|program| !before.contains(program)),
        "{before:?} {after:?}"
    );
}

/// Reads go on while the agent is killed and another takes over, once with the same programs and once with others. What is
/// missing at most is what the killed one had taken from the rings and not shown yet.
#[test]
fn under_load_nothing_is_lost_but_what_the_killed_agent_held() {
    const READS: u32 = 600;
    const HELD_MAX: u32 = 16;
    let place = Place::new("loaded");
    let pin = format!("--pin={}", place.pins.display());
    let same = ["--output", "json", "--sensor-hook=auto", &pin];
    let other = ["--output", "json", "--sensor-hook=raw", &pin];
    let mut agent = Agent::observe(place.state.path(), same);
    let mut shown: Vec<BTreeMap<u32, usize>> = Vec::new();
    std::thread::scope(|scope| {
        let load = scope.spawn(|| place.read_slowly(READS));
        for (enough, arguments) in [(READS / 4, &same[..]), (READS / 2, &other[..])] {
            until("alerts before the kill", || {
                told(&agent)
                    .last_key_value()
                    .filter(|(last, _)| **last >= enough)
                    .map(|_| ())
            });
            agent.running.kill();
            agent.running.wait();
            shown.push(told(&agent));
            agent = Agent::observe(place.state.path(), arguments);
        }
        load.join().unwrap();
    });
    until_told(&agent, READS - 1..READS);
    shown.push(told(&agent));
    assert_eq!(
        agent
            .metric("staghound_records_lost_total{cause=\"process_ring_full\"")
            .unwrap_or(0.0),
        0.0
    );

    let mut times: BTreeMap<u32, usize> = BTreeMap::new();
    for (number, count) in shown.iter().flatten() {
        *times.entry(*number).or_default() += count;
    }
    assert!(times.values().all(|count| *count == 1), "told twice: {times:?}");
    let missing: Vec<u32> = (0..READS).filter(|number| !times.contains_key(number)).collect();
    let held = |number: &u32| {
        shown.windows(2).any(|pair| {
            let last = pair[0].last_key_value().map_or(0, |(last, _)| *last);
            let first = pair[1].first_key_value().map_or(READS, |(first, _)| *first);
            (last + 1..first).contains(number) && first - last <= HELD_MAX
        })
    };
    assert!(missing.iter().all(held), "{missing:?} of {shown:?}");
}

#[test]
fn pins_that_cannot_be_used_are_replaced() {
    let place = Place::new("stale");
    let mut agent = place.agent();
    agent.running.kill();
    agent.running.wait();
    place.read(0..5);
    fs::remove_file(place.pins.join("STATE")).unwrap();
    let agent = place.agent();
    assert!(
        agent.running.stderr().contains("are replaced"),
        "{}",
        agent.running.stderr()
    );
    place.read(5..10);
    until_told(&agent, 5..10);
    assert_eq!(told(&agent), each_once(5..10), "what was in the rings was given up");
}

#[test]
fn a_pin_that_is_removed_is_told_and_made_again() {
    let place = Place::new("tampered");
    let agent = place.agent();
    let link = place.pins.join("generation_0/link_process_exec");
    fs::remove_file(&link).unwrap();
    until("the pin", || link.exists().then_some(()));
    until("an alert about it", || {
        let told = |alert: &serde_json::Value| {
            alert["rule"]["id"] == "defense-impairment/agent-tampering"
                && alert.to_string().contains("link_process_exec")
        };
        agent.shown().iter().any(|alert| told(alert)).then_some(())
    });
}

#[test]
fn pins_are_used_by_one_agent_at_a_time() {
    let place = Place::new("busy");
    let agent = place.agent();
    let pin = format!("--pin={}", place.pins.display());
    let second = output(&mut staghound(["observe", "--http-listen", "none", &pin]));
    assert_eq!(second.code(), Some(1), "{second:?}");
    assert!(String::from_utf8_lossy(&second.stderr.into_bytes()).contains("another agent uses it"));
    let unpinned = place.unpin();
    assert_eq!(unpinned.code(), Some(1), "{unpinned:?}");
    place.read(0..3);
    until_told(&agent, 0..3);
}
