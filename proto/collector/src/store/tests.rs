//! The log under crashes, failures, damage and migration.

use super::{
    Append, Appended, Page, ReadLimit, Retention,
    disk::Disk,
    log::{Log, Shared},
    reader,
    segment::{HEADER_BYTES, name},
    simulated::{Mishap, Simulated},
};
use crate::{filter::Filter, sequence};
use prost::Message as _;
use prost_types::Timestamp;
use staghound_proto::v1::{Alert, Hello, Item, Severity, item};
use std::{
    collections::HashMap,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

const EPOCH: &str = "0123456789abcdef0123456789abcdef";
const NO_LIMIT: ReadLimit = ReadLimit {
    entries: usize::MAX,
    bytes: usize::MAX,
    scanned: usize::MAX,
};

fn alert(agent: &str, sequence: u64) -> Item {
    let alert = Alert {
        message: format!("{agent} {sequence} {:60}", ""),
        ..Alert::default()
    };
    Item {
        kind: Some(item::Kind::Alert(alert)),
    }
}

fn append(agent: &str, first: u64, count: u64) -> Append {
    append_at(agent, first, count, SystemTime::now())
}

fn append_at(agent: &str, first: u64, count: u64, time: SystemTime) -> Append {
    let items: Vec<_> = (first..first + count).map(|sequence| alert(agent, sequence)).collect();
    Append {
        agent_id: agent.into(),
        epoch: EPOCH.into(),
        host: "h".into(),
        ingest_time: Timestamp::from(time),
        items: sequence::place(first, &items).unwrap(),
    }
}

fn dyn_disk(disk: &Simulated) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

fn open(disk: &Simulated, retention: Retention, shared: Option<Arc<Shared>>) -> Result<Log, super::OpenError> {
    Log::open(&dyn_disk(disk), Path::new("/simulated"), retention, shared)
}

fn page(log: &Log, from: u64) -> Page {
    reader::read(log.shared(), from, NO_LIMIT, &Filter::default()).unwrap()
}

/// Small segments, so that a few batches seal some and retention unlinks some.
const SMALL: Retention = Retention {
    age: None,
    bytes: Some(8 << 10),
};

/// What a history of steps did so far, as far as it was told.
#[derive(Clone, Default)]
struct Told {
    sent: HashMap<&'static str, u64>,
    acknowledged: HashMap<&'static str, u64>,
    position: u64,
    sealed_hello: bool,
}

/// Delivers until it is done or the disk goes down. After a failure of the disk it goes on as the store does.
fn deliver(disk: &Simulated, told: &mut Told) {
    let Ok(log) = open(disk, SMALL, None) else { return };
    let shared = Arc::clone(log.shared());
    let mut state = Some(log);
    for round in 0..14_u64 {
        let Some(mut log) = state
            .take()
            .or_else(|| open(disk, SMALL, Some(Arc::clone(&shared))).ok())
        else {
            return;
        };
        let mut group = Vec::new();
        let mut offered = Vec::new();
        for agent in ["a", "b", "c"]
            .into_iter()
            .take(1 + usize::try_from(round % 3).unwrap())
        {
            let first = told.acknowledged.get(agent).copied().unwrap_or(0) + 1;
            let count = 1 + (round * 7 + first) % 11;
            group.push(append(agent, first, count));
            offered.push((agent, first + count - 1));
            let sent = told.sent.entry(agent).or_default();
            *sent = (*sent).max(first + count - 1);
        }
        let result = log.append(group).and_then(|committed| {
            for ((agent, through), result) in offered.iter().zip(committed.results) {
                let Appended::Through(done) = result else {
                    panic!("{result:?}")
                };
                assert!(done >= *through);
                told.acknowledged.insert(agent, done);
            }
            log.greeted(
                Hello {
                    agent_id: "a".to_owned(),
                    epoch: EPOCH.to_owned(),
                    ..Hello::default()
                },
                SystemTime::now(),
            )?;
            log.maintain(SystemTime::now())?;
            log.keep(&HashMap::from([("consumer".to_owned(), round)]), SystemTime::now())?;
            told.position = round;
            told.sealed_hello = true;
            Ok(())
        });
        match result {
            Ok(()) => state = Some(log),
            Err(_) => {
                let undo = log.undo();
                drop(log);
                if undo.apply(disk).is_err() {
                    return;
                }
            }
        }
    }
}

/// Whatever happened: what was acknowledged is there, once, whole, and in order; what was not may be.
fn check(disk: &Simulated, told: &Told, what: &str) {
    let log = open(disk, SMALL, None).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(log.damaged_bytes, 0, "{what}");
    let page = page(&log, 1);
    assert_eq!(page.next, log.size().next, "{what}");
    let mut last: HashMap<String, u64> = HashMap::new();
    let mut position = None;
    for entry in &page.entries {
        assert!(position.is_none_or(|position| position + 1 == entry.next), "{what}");
        position = Some(entry.next);
        let agent = entry.agent_id.to_string();
        assert!(last.get(&agent).is_none_or(|last| last + 1 == entry.sequence), "{what}");
        assert_eq!(
            Item::decode(entry.item.clone()).unwrap(),
            alert(&agent, entry.sequence),
            "{what}"
        );
        last.insert(agent, entry.sequence);
    }
    for agent in ["a", "b", "c"] {
        let watermark = log.watermark(&agent.into(), &EPOCH.into()).unwrap();
        let acknowledged = told.acknowledged.get(agent).copied().unwrap_or(0);
        let sent = told.sent.get(agent).copied().unwrap_or(0);
        assert!(
            (acknowledged..=sent).contains(&watermark),
            "{what}: {agent} {acknowledged} {watermark} {sent}"
        );
        assert!(last.get(agent).is_none_or(|last| *last == watermark), "{what}");
    }
    let kept = log.positions().unwrap();
    assert!(
        kept.first().map_or(0, |(_, position)| *position) >= told.position,
        "{what}: {kept:?}"
    );
    let records = log.agents().records();
    for record in &records {
        assert_eq!(
            record.items,
            log.watermark(&record.agent_id.as_str().into(), &EPOCH.into()).unwrap(),
            "{what}"
        );
        assert!(
            record.agent_id != "a" || !told.sealed_hello || record.hello.is_some(),
            "{what}"
        );
    }
}

#[test]
fn a_crash_at_any_write_and_any_sync_loses_and_doubles_nothing() {
    let whole = Simulated::new(0);
    let mut told = Told::default();
    deliver(&whole, &mut told);
    check(&whole, &told, "no crash");
    let steps = whole.steps();
    assert!((100..2000).contains(&steps), "{steps}");
    assert!(
        page(&open(&whole, SMALL, None).unwrap(), 1).lost_before,
        "retention has something to do"
    );
    for step in 1..=steps {
        let disk = Simulated::new(step);
        disk.at(step, Mishap::Crash);
        let mut told = Told::default();
        deliver(&disk, &mut told);
        let survivor = disk.survivor(step);
        check(&survivor, &told, &format!("crash at step {step}"));
        // What comes after goes on where it was.
        if step % 16 == 0 {
            for (agent, through) in &mut told.acknowledged {
                *through = open(&survivor, SMALL, None)
                    .unwrap()
                    .watermark(&(*agent).into(), &EPOCH.into())
                    .unwrap();
            }
            deliver(&survivor, &mut told);
            check(&survivor, &told, &format!("after a crash at step {step}"));
        }
    }
}

#[test]
fn a_disk_that_fails_once_anywhere_loses_and_doubles_nothing() {
    let whole = Simulated::new(0);
    deliver(&whole, &mut Told::default());
    for step in (1..=whole.steps()).step_by(2) {
        let disk = Simulated::new(step);
        disk.at(step, Mishap::Failure);
        let mut told = Told::default();
        deliver(&disk, &mut told);
        // A history may have a step fewer, since times differ.
        disk.at(0, Mishap::Failure);
        check(&disk, &told, &format!("failure at step {step}"));
        // What was acknowledged is on the disk and not only seen there.
        check(
            &disk.survivor(step),
            &told,
            &format!("crash after a failure at step {step}"),
        );
    }
}

#[test]
fn damage_is_told_where_it_is_and_nowhere_else() {
    let disk = Simulated::new(1);
    let mut log = open(&disk, Retention::default(), None).unwrap();
    for round in 0..100 {
        drop(log.append(vec![append("a", round * 100 + 1, 100)]).unwrap());
    }
    drop(log);
    disk.damage(&name(1), |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle..middle + 10].fill(0xff);
    });
    // Found when it is opened, and by who reads it while it is open.
    let log = open(&disk, Retention::default(), None).unwrap();
    assert!(log.damaged_bytes > 0);
    assert_eq!(log.watermark(&"a".into(), &EPOCH.into()).unwrap(), 10_000);
    let before = page(&log, 1);
    assert!(!before.lost_before);
    assert_eq!(before.next, before.entries.len() as u64 + 1);
    let after = page(&log, before.next);
    assert!(after.lost_before);
    assert_eq!(after.next, 10_001);
    let first = after.entries[0].next - 1;
    assert!(
        first > before.next && first - before.next < 2000,
        "{first} {}",
        before.next
    );
    disk.damage(&name(1), |bytes| {
        let end = bytes.len() - 5;
        bytes[end] ^= 1;
        bytes[HEADER_BYTES + 40] ^= 1;
    });
    let start = page(&log, 1);
    assert!(start.lost_before && start.entries[0].next > 100);
    let last = page(&log, 9_950);
    assert!(last.lost_before && last.entries.is_empty() && last.next == 10_001);
}

#[test]
fn a_missing_segment_is_told() {
    let disk = Simulated::new(1);
    let retention = Retention {
        age: None,
        bytes: Some(1 << 20),
    };
    let mut log = open(&disk, retention, None).unwrap();
    for round in 0..300 {
        drop(log.append(vec![append("a", round * 20 + 1, 20)]).unwrap());
        log.maintain(SystemTime::now()).unwrap();
    }
    let second = log.shared().segments()[1].first;
    let third = log.shared().segments()[2].first;
    disk.remove(&name(second)).unwrap();
    drop(log);
    let log = open(&disk, retention, None).unwrap();
    assert!(log.damaged_bytes > 0);
    assert_eq!(page(&log, 1).next, second);
    let after = page(&log, second);
    assert!(after.lost_before);
    assert_eq!(after.entries[0].next, third + 1);
}

#[test]
fn retention_goes_by_bytes_and_by_age() {
    let disk = Simulated::new(1);
    let mut log = open(&disk, SMALL, None).unwrap();
    for round in 0..200 {
        drop(log.append(vec![append("a", round * 10 + 1, 10)]).unwrap());
        log.maintain(SystemTime::now()).unwrap();
        let size = log.size();
        assert!(size.bytes <= SMALL.bytes.unwrap() + (8 << 10), "{size:?}");
    }
    assert!(log.size().entries > 20);
    let listed = disk.list().unwrap().len();
    assert_eq!(listed, log.size().segments + 1);

    let hour = Duration::from_secs(3600);
    let aged = Retention {
        age: Some(16 * hour),
        bytes: None,
    };
    let disk = Simulated::new(2);
    let mut log = open(&disk, aged, None).unwrap();
    let start = SystemTime::now();
    for round in 0..48_u32 {
        let now = start + round * hour;
        drop(log.append(vec![append_at("a", u64::from(round) + 1, 1, now)]).unwrap());
        log.maintain(now).unwrap();
        let oldest = page(&log, 1).entries[0].ingest_time.unwrap();
        let age = now.duration_since(SystemTime::try_from(oldest).unwrap()).unwrap();
        assert!(age <= 19 * hour, "{age:?}");
    }
    log.maintain(start + 480 * hour).unwrap();
    log.maintain(start + 480 * hour).unwrap();
    assert_eq!(log.size().entries, 0);
    assert_eq!(log.watermark(&"a".into(), &EPOCH.into()).unwrap(), 48);
    drop(log);
    assert_eq!(
        open(&disk, aged, None)
            .unwrap()
            .watermark(&"a".into(), &EPOCH.into())
            .unwrap(),
        48
    );
}

#[test]
fn one_with_most_of_a_full_store_is_known() {
    let disk = Simulated::new(1);
    let retention = Retention {
        age: None,
        bytes: Some(64 << 10),
    };
    let mut log = open(&disk, retention, None).unwrap();
    let over = |log: &Log| log.shared().over_share.read().unwrap().contains("flood");
    for round in 0..300 {
        drop(log.append(vec![append("flood", round * 10 + 1, 10)]).unwrap());
        log.maintain(SystemTime::now()).unwrap();
    }
    assert!(!over(&log), "alone it takes nothing from anybody");
    for round in 0..5 {
        drop(
            log.append(vec![
                append("flood", round * 10 + 3001, 10),
                append("quiet", round + 1, 1),
            ])
            .unwrap(),
        );
        log.maintain(SystemTime::now()).unwrap();
    }
    assert!(over(&log));
    assert!(!log.shared().over_share.read().unwrap().contains("quiet"));
}

#[test]
fn filters_and_limits_bound_a_page() {
    let disk = Simulated::new(1);
    let mut log = open(&disk, Retention::default(), None).unwrap();
    for round in 0..10 {
        drop(log.append(vec![append("a", round * 100 + 1, 100)]).unwrap());
    }
    let read = |from, entries, scanned, filter: &Filter| {
        reader::read(
            log.shared(),
            from,
            ReadLimit {
                entries,
                bytes: usize::MAX,
                scanned,
            },
            filter,
        )
        .unwrap()
    };
    let some = read(150, 7, 1000, &Filter::default());
    assert_eq!((some.entries.len(), some.entries[0].sequence, some.next), (7, 150, 157));
    let wanted = staghound_proto::v1::Filter {
        min_severity: Severity::High.into(),
        ..Default::default()
    };
    let none = read(1, 1000, 250, &Filter::try_from(wanted).unwrap());
    assert_eq!((none.entries.len(), none.next), (0, 251));
    let one = ReadLimit {
        entries: 1000,
        bytes: 1,
        scanned: 1000,
    };
    assert_eq!(
        reader::read(log.shared(), 1, one, &Filter::default())
            .unwrap()
            .entries
            .len(),
        1
    );
}

/// What collector 0.1.0 left when it stored the previous format: of two agents some alerts, a gap of four, one more.
const FORMAT_1: &[u8] = include_bytes!("../../tests/stores/format1.redb");

fn check_migrated(disk: &Simulated, what: &str) {
    let mut log = open(disk, Retention::default(), None).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(log.shared().tag, 0xd8cd_f98f, "{what}: cursors hold");
    let page = page(&log, 1);
    assert!(!page.lost_before);
    let entries: Vec<_> = page
        .entries
        .iter()
        .map(|entry| (&*entry.agent_id, entry.sequence))
        .collect();
    let of = |agent, sequences: &[u64]| sequences.iter().map(|sequence| (agent, *sequence)).collect::<Vec<_>>();
    assert_eq!(
        entries,
        [of("node-1", &[1, 2, 3, 4, 5, 9, 10]), of("node-2", &[1, 2, 3, 7, 8])].concat(),
        "{what}"
    );
    for entry in &page.entries {
        assert_eq!(entry.ingest_time.unwrap().seconds / 10, 179_540_376, "{what}");
        if let Some(item::Kind::Alert(alert)) = Item::decode(entry.item.clone()).unwrap().kind {
            assert_eq!(
                (alert.boot_time_ns, alert.ingest_time),
                (entry.sequence, entry.ingest_time),
                "{what}"
            );
        }
    }
    assert_eq!(log.watermark(&"node-1".into(), &EPOCH.into()).unwrap(), 10, "{what}");
    let results = log
        .append(vec![append("node-2", 9, 1), append("node-1", 12, 1)])
        .unwrap()
        .results;
    let hole = sequence::Hole { due: 11, first: 12 };
    assert_eq!(results, [Appended::Through(9), Appended::Hole(hole)], "{what}");
    let mut names = disk.list().unwrap();
    names.sort_unstable();
    assert_eq!(names, [name(1), name(13), "index.redb".to_owned()], "{what}");
}

#[test]
fn a_store_of_the_previous_format_is_migrated_whenever_it_crashes() {
    let fixture = |seed| {
        let disk = Simulated::new(seed);
        disk.put("store.redb", FORMAT_1.to_vec());
        disk
    };
    let whole = fixture(0);
    let put = whole.steps();
    drop(open(&whole, Retention::default(), None).unwrap());
    let steps = whole.steps();
    check_migrated(&whole, "no crash");
    for step in put + 1..=steps {
        let disk = fixture(step);
        disk.at(step, Mishap::Crash);
        drop(open(&disk, Retention::default(), None));
        check_migrated(&disk.survivor(step), &format!("crash at step {step}"));
    }
}

#[test]
fn what_is_no_store_is_refused_with_a_reason() {
    let refused = |files: &[(&str, &[u8])], part: &str| {
        let disk = Simulated::new(1);
        files.iter().for_each(|(name, bytes)| disk.put(name, bytes.to_vec()));
        let error = open(&disk, Retention::default(), None).err().unwrap().to_string();
        assert!(error.contains(part) && error.contains("/simulated/"), "{error}");
    };
    refused(&[("index.redb", b"")], "it is empty");
    refused(&[("index.redb", &[7; 5000])], "cannot open store");
    refused(&[("store.redb", b"no store")], "store.redb");
    refused(
        &[(&name(1), b"segment without an index")],
        "missing although there are segments",
    );
    let disk = Simulated::new(1);
    drop(open(&disk, Retention::default(), None).unwrap());
    disk.put(&name(77), Vec::new());
    let error = open(&disk, Retention::default(), None).err().unwrap().to_string();
    assert!(error.contains("newer than the index"), "{error}");
}
