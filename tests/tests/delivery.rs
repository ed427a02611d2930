//! Agent, collector and subscriber end to end: what happens in the kernel arrives, once, whoever dies on the way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use staghound_proto::v1::{Alert, Entry, GapReason, Severity, event::Object};
use staghound_tests::{
    DECOY_DIRECTORY, DECOY_RULE, actor, collector_path,
    feed::{Feed, alert, observation_gap},
    process::{Agent, Collector, output, staghound},
    until,
};
use tempfile::TempDir;

const ANY_PORT: &str = "127.0.0.1:0";

/// Directories for everybody.
struct Place(TempDir);

impl Place {
    /// With so many decoys, named by their number.
    fn new(decoys: u32) -> Self {
        let place = Self(TempDir::new().unwrap());
        fs::create_dir(place.path("state")).unwrap();
        fs::create_dir(place.path(DECOY_DIRECTORY)).unwrap();
        for index in 0..decoys {
            fs::write(place.decoy(index), "decoy").unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    fn decoy(&self, index: u32) -> PathBuf {
        self.path(DECOY_DIRECTORY).join(index.to_string())
    }

    fn collector(&self, listen: SocketAddr) -> Collector {
        Collector::serve(&self.path("data"), listen)
    }

    fn agent(&self, collector: SocketAddr) -> Agent {
        self.agent_configured(collector, "")
    }

    /// Likewise, with more in its configuration.
    fn agent_configured(&self, collector: SocketAddr, more: &str) -> Agent {
        let config = self.path("agent.yaml");
        // Short pauses, so that the tests need not wait long after a restart.
        fs::write(
            &config,
            format!("export:\n  backoff_min: 50ms\n  backoff_max: 500ms\n{more}"),
        )
        .unwrap();
        let url = format!("http://{collector}");
        Agent::observe(
            &self.path("state"),
            [
                "--agent-id",
                "test-agent",
                "--collector",
                &url,
                "--config",
                config.to_str().unwrap(),
            ],
        )
    }

    /// Reads the decoys of a range, each once.
    fn read(&self, from: u32, to: u32) {
        let directory = self.path(DECOY_DIRECTORY);
        let mut command = actor(["open-all"]);
        command.arg(directory).args([from.to_string(), to.to_string()]);
        assert!(command.status().unwrap().success());
    }

    /// Numbers of the decoys whose alerts came, each as often as it came.
    fn numbers(&self, entries: &[Entry]) -> Vec<u32> {
        let directory = self.path(DECOY_DIRECTORY);
        let number = |path: &str| Path::new(path).strip_prefix(&directory).ok()?.to_str()?.parse().ok();
        entries
            .iter()
            .filter_map(alert)
            .filter_map(|alert| number(file(alert)?))
            .collect()
    }

    fn came(&self, entries: &[Entry], index: u32) -> bool {
        self.numbers(entries).contains(&index)
    }
}

fn any_port() -> SocketAddr {
    ANY_PORT.parse().unwrap()
}

fn file(alert: &Alert) -> Option<&str> {
    match alert.event.as_ref()?.object.as_ref()? {
        Object::File(file) => Some(&file.path),
        Object::Socket(_) => None,
    }
}

/// Identities are unique, all of one epoch, and have no holes: nothing is missing between any two.
fn is_one_unbroken_stream(entries: &[Entry]) {
    let epochs: HashSet<(&str, &str)> = entries
        .iter()
        .map(|entry| (entry.agent_id.as_str(), entry.epoch.as_str()))
        .collect();
    assert_eq!(epochs.len(), 1, "{epochs:?}");
    let sequences: Vec<u64> = entries.iter().map(|entry| entry.sequence).collect();
    let expected: Vec<u64> = (1..=sequences.len() as u64).collect();
    assert_eq!(sequences, expected);
}

/// Every one of `0..count` came exactly once.
fn came_once(place: &Place, entries: &[Entry], count: u32) {
    let numbers = place.numbers(entries);
    let distinct: BTreeSet<u32> = numbers.iter().copied().collect();
    let missing: Vec<u32> = (0..count).filter(|number| !distinct.contains(number)).collect();
    assert_eq!(missing, [0_u32; 0], "missing");
    assert_eq!(numbers.len(), distinct.len(), "something came twice");
}

fn gaps(entries: &[Entry], reason: GapReason) -> Vec<&Entry> {
    entries
        .iter()
        .filter(|entry| observation_gap(entry).is_some_and(|gap| gap.reason() == reason))
        .collect()
}

/// Runs a tail of the collector that ends after so many entries.
fn tail(collector: &Collector, arguments: &[&str]) -> String {
    let mut command = Command::new(collector_path());
    let url = collector.url();
    command
        .args([
            "tail",
            "--url",
            &url,
            "--timeout",
            "120",
            "--rule",
            DECOY_RULE,
            "--alerts-only",
        ])
        .args(arguments)
        .env("NO_COLOR", "1");
    let tail = output(&mut command);
    assert_eq!(tail.code(), Some(0), "{tail:?}");
    tail.text()
}

#[test]
fn an_alert_reaches_subscriber_and_tail() {
    let place = Place::new(3);
    let collector = place.collector(any_port());
    let mut agent = place.agent(collector.address);
    let mut feed = Feed::subscribe(collector.address);

    let shell = Command::new("/bin/sh")
        .args(["-c", "cat /etc/shadow; true"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert!(shell.status.success());
    let of_ours = |entry: &Entry| {
        alert(entry).is_some_and(|alert| {
            file(alert) == Some("/etc/shadow")
                && alert
                    .ancestors
                    .iter()
                    .any(|ancestor| ancestor.pid == std::process::id())
        })
    };
    feed.until("alert of cat /etc/shadow", |entries| entries.iter().any(of_ours));
    let entry = feed.received.iter().find(|entry| of_ours(entry)).unwrap();
    assert_eq!(entry.agent_id, "test-agent");
    assert!(entry.sequence > 0 && entry.ingest_time.is_some() && !entry.cursor.is_empty());
    let found = alert(entry).unwrap();
    assert_eq!(found.severity(), Severity::High);
    assert_eq!(found.techniques[0].id, "T1003.008");
    assert_eq!(found.rule.as_ref().unwrap().id, "credential-access/shadow-read");
    assert_eq!(found.host.as_ref().unwrap().agent_id, "test-agent");

    // The tail, as text and as JSON, and resumed by its cursor.
    place.read(0, 1);
    let text = tail(&collector, &["--from", "earliest", "--count", "1"]);
    assert!(text.contains("T1552.004") && text.contains(DECOY_RULE), "{text}");
    assert!(text.contains(place.decoy(0).to_str().unwrap()), "{text}");
    let cursor = place.path("cursor");
    let resumed = [
        "--from",
        "earliest",
        "--count",
        "1",
        "--output",
        "json",
        "--cursor-file",
        cursor.to_str().unwrap(),
    ];
    let parsed = |text: &str| {
        assert_eq!(text.lines().count(), 1, "{text}");
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        value["event"]["file"]["path"].as_str().unwrap().to_owned()
    };
    assert_eq!(parsed(&tail(&collector, &resumed)), place.decoy(0).to_str().unwrap());
    place.read(1, 2);
    assert_eq!(parsed(&tail(&collector, &resumed)), place.decoy(1).to_str().unwrap());
    // A cursor that was kept goes before --from: nothing comes twice.
    place.read(2, 3);
    assert_eq!(parsed(&tail(&collector, &resumed)), place.decoy(2).to_str().unwrap());

    feed.until("third decoy", |entries| place.came(entries, 2));
    came_once(&place, &feed.received, 3);
    assert!(agent.running.terminate().success());
}

#[test]
fn a_full_ring_is_told_as_a_gap() {
    let place = Place::new(1);
    let collector = place.collector(any_port());
    let mut agent = place.agent(collector.address);
    let mut feed = Feed::subscribe(collector.address);
    let mut flood = place.path("flood");
    while flood.as_os_str().len() < 3400 {
        flood.push("x".repeat(250));
    }
    fs::create_dir_all(&flood).unwrap();
    agent.running.signal(libc::SIGSTOP);
    let mut command = actor(["open-many"]);
    assert!(command.arg(&flood).args(["2", "4000"]).status().unwrap().success());
    agent.running.signal(libc::SIGCONT);
    feed.until("gap of a full ring", |entries| {
        !gaps(entries, GapReason::RingFull).is_empty()
    });
    let entry = gaps(&feed.received, GapReason::RingFull)[0];
    let gap = observation_gap(entry).unwrap();
    assert_eq!(gap.hook, "file_ring_full");
    assert!(gap.count > 1000, "{gap:?}");
    let metric = agent.metric("staghound_records_lost_total{source=\"ring\",reason=\"file_ring_full\"}");
    assert!(metric.is_some_and(|lost| lost > 1000.0), "{metric:?}");
    // Afterwards it sees again.
    place.read(0, 1);
    feed.until("alert after the flood", |entries| place.came(entries, 0));
    is_one_unbroken_stream(&feed.received);
    assert!(agent.running.terminate().success());
}

#[test]
fn a_killed_collector_loses_and_duplicates_nothing() {
    const DECOYS: u32 = 600;
    const STEP: u32 = 20;
    let place = Place::new(DECOYS + 1);
    let mut collector = place.collector(any_port());
    let address = collector.address;
    let mut agent = place.agent(address);
    let mut feed = Feed::subscribe(address);
    thread::scope(|scope| {
        let place = &place;
        let acting = scope.spawn(move || {
            for from in (0..DECOYS).step_by(STEP as usize) {
                place.read(from, from + STEP);
            }
        });
        // In mid-stream, three times; each time after something new came, so that there is something to lose.
        for _ in 0..3 {
            let before = feed.received.len();
            feed.until("more alerts", |entries| entries.len() > before);
            collector.running.kill();
            collector = place.collector(address);
        }
        acting.join().unwrap();
    });
    place.read(DECOYS, DECOYS + 1);
    feed.until("last alert", |entries| place.came(entries, DECOYS));
    came_once(&place, &feed.received, DECOYS + 1);
    is_one_unbroken_stream(&feed.received);
    // And what is stored is what was told.
    let mut again = Feed::subscribe(address);
    again.until("what is stored", |entries| entries.len() >= feed.received.len());
    let identities = |feed: &Feed| -> Vec<(u64, String)> {
        let entries = feed.received.iter();
        entries.map(|entry| (entry.sequence, entry.cursor.clone())).collect()
    };
    assert_eq!(identities(&again)[..feed.received.len()], identities(&feed)[..]);
    assert!(agent.running.terminate().success());
}

#[test]
fn a_killed_agent_duplicates_nothing_and_tells_its_absence() {
    const STEP: u32 = 100;
    let place = Place::new(3 * STEP);
    let collector = place.collector(any_port());
    let mut agent = place.agent(collector.address);
    let mut feed = Feed::subscribe(collector.address);
    place.read(0, STEP);
    // In mid-stream: some have come, and others are under way.
    feed.until("first alert", |entries| place.came(entries, 0));
    agent.running.kill();
    // Nobody sees these.
    place.read(STEP, 2 * STEP);
    let mut agent = place.agent(collector.address);
    place.read(2 * STEP, 3 * STEP);
    feed.until("last alert", |entries| place.came(entries, 3 * STEP - 1));

    let numbers = place.numbers(&feed.received);
    let distinct: BTreeSet<u32> = numbers.iter().copied().collect();
    assert_eq!(numbers.len(), distinct.len(), "something came twice");
    assert!(distinct.range(STEP..2 * STEP).next().is_none(), "{distinct:?}");
    assert_eq!(distinct.range(2 * STEP..).count(), STEP as usize, "{distinct:?}");
    is_one_unbroken_stream(&feed.received);
    let absent = gaps(&feed.received, GapReason::AgentNotRunning);
    assert_eq!(absent.len(), 1, "{absent:#?}");
    let gap = observation_gap(absent[0]).unwrap();
    let (from, to) = (gap.from.unwrap(), gap.to.unwrap());
    assert!((from.seconds, from.nanos) <= (to.seconds, to.nanos), "{gap:?}");
    // The gap stands between what was seen before and after.
    let position = |wanted: u32| {
        feed.received
            .iter()
            .find(|entry| place.came(std::slice::from_ref(entry), wanted))
            .unwrap()
            .sequence
    };
    assert!(position(0) < absent[0].sequence && absent[0].sequence < position(2 * STEP));

    // An orderly end leaves no such gap: the agent was not running, and everybody knows why.
    assert!(agent.running.terminate().success());
}

/// Pinned programs see what happens meanwhile, who killed the agent included: there is nothing to tell as a gap.
#[test]
fn a_killed_agent_whose_programs_are_pinned_was_never_absent() {
    const STEP: u32 = 60;
    let pins = format!("/sys/fs/bpf/staghound-test-{}-delivery", std::process::id());
    let configured = format!("sensor:\n  pin: {pins}\n");
    let place = Place::new(3 * STEP);
    let collector = place.collector(any_port());
    let mut agent = place.agent_configured(collector.address, &configured);
    let mut feed = Feed::subscribe(collector.address);
    place.read(0, STEP);
    feed.until("the alerts before", |entries| place.came(entries, STEP - 1));
    agent.running.kill();
    agent.running.wait();
    place.read(STEP, 2 * STEP);
    let mut agent = place.agent_configured(collector.address, &configured);
    place.read(2 * STEP, 3 * STEP);
    feed.until("last alert", |entries| place.came(entries, 3 * STEP - 1));

    assert_eq!(place.numbers(&feed.received), (0..3 * STEP).collect::<Vec<_>>());
    is_one_unbroken_stream(&feed.received);
    let absent = gaps(&feed.received, GapReason::AgentNotRunning);
    assert!(absent.is_empty(), "{absent:#?}");
    let killed: Vec<&Alert> = feed
        .alerts()
        .filter(|alert| {
            let rule = alert.rule.as_ref().unwrap();
            rule.id == "defense-impairment/staghound-signalled"
        })
        .collect();
    let [killed] = killed.as_slice() else {
        panic!("one alert about the signal: {killed:#?}");
    };
    assert!(killed.unattended && killed.message.contains("SIGKILL"), "{killed:#?}");
    assert!(agent.running.terminate().success());
    let unpinned = output(staghound(["unpin"]).arg(&pins));
    assert_eq!(unpinned.code(), Some(0), "{unpinned:?}");
}

#[test]
fn both_killed_in_either_order_lose_nothing_that_was_durable() {
    const STEP: u32 = 50;
    let place = Place::new(5 * STEP);
    let mut collector = place.collector(any_port());
    let address = collector.address;
    let mut agent = place.agent(address);
    let mut feed = Feed::subscribe(address);
    place.read(0, STEP);
    feed.until("first alerts", |entries| place.came(entries, STEP - 1));

    // First the collector, then the agent, with alerts in its spool.
    collector.running.kill();
    place.read(STEP, 2 * STEP);
    until("alerts in the spool", || {
        agent
            .metric("staghound_spool_items")
            .filter(|items| *items >= f64::from(STEP))
    });
    agent.running.kill();
    collector = place.collector(address);
    agent = place.agent(address);
    place.read(2 * STEP, 3 * STEP);
    feed.until("alerts after the first crash", |entries| {
        place.came(entries, 3 * STEP - 1)
    });
    came_once(&place, &feed.received, 3 * STEP);

    // First the agent, then the collector.
    agent.running.kill();
    collector.running.kill();
    agent = place.agent(address);
    place.read(3 * STEP, 4 * STEP);
    collector = place.collector(address);
    place.read(4 * STEP, 5 * STEP);
    feed.until("alerts after the second crash", |entries| {
        place.came(entries, 5 * STEP - 1)
    });
    came_once(&place, &feed.received, 5 * STEP);
    is_one_unbroken_stream(&feed.received);
    assert_eq!(gaps(&feed.received, GapReason::AgentNotRunning).len(), 2);
    assert!(agent.running.terminate().success());
    assert!(collector.running.terminate().success());
}
