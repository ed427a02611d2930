use super::*;
use proptest::prelude::*;
use staghound_proto::v1::RunRecord;
use staghound_proto::v1::{Alert, Severity};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use tempfile::TempDir;

const SMALL: SpoolConfig = SpoolConfig {
    bytes_max: 4096,
    reserve_bytes: 1024,
    segment_bytes: 512,
    retention: Duration::ZERO,
};

fn item(number: u64) -> Item {
    let run_id = format!("run {number} {}", "x".repeat(usize::try_from(number % 7).unwrap()));
    Item {
        kind: Some(item::Kind::Run(RunRecord {
            run_id,
            ..RunRecord::default()
        })),
    }
}

fn items(numbers: std::ops::RangeInclusive<u64>) -> Vec<Item> {
    numbers.map(item).collect()
}

fn open(directory: &Path) -> (Spool, Opened) {
    Spool::open(directory, SpoolConfig::default(), SpoolMetrics::default()).unwrap()
}

fn open_small(directory: &Path) -> (Spool, Opened) {
    Spool::open(directory, SMALL, SpoolMetrics::default()).unwrap()
}

/// What a reader sees: each item, and gaps as (from, to, reason).
#[derive(Debug, PartialEq)]
enum Seen {
    Item(u64),
    Gap(u64, u64, GapReason),
}

/// What a reader sees from `first` on, with its sequence. Panics unless it is without holes.
pub(super) fn read_items(spool: &Spool, first: u64, items_max: usize, bytes_max: usize) -> Vec<(u64, Item)> {
    let (mut reader, mut sequence, mut seen) = (spool.reader(), first, Vec::new());
    while let Some(chunk) = reader.read_from(sequence, items_max, bytes_max).unwrap() {
        assert_eq!(chunk.first, sequence);
        assert!(!chunk.items.is_empty() && chunk.items.len() <= items_max);
        let mut lost = 0;
        for item in chunk.items {
            let at = sequence;
            sequence += 1;
            if let Some(gap) = as_gap(&item) {
                assert!(gap.from == at && gap.to >= at, "{gap:?} at {at}");
                lost += gap.to - gap.from + 1;
                sequence = gap.to + 1;
            }
            seen.push((at, item));
        }
        assert_eq!((sequence, lost), (chunk.through + 1, chunk.lost));
    }
    assert_eq!(sequence, spool.reader().next_sequence());
    seen
}

pub(super) fn as_gap(item: &Item) -> Option<&SequenceGap> {
    match &item.kind {
        Some(item::Kind::Gap(Gap {
            kind: Some(gap::Kind::Sequence(gap)),
        })) => Some(gap),
        _ => None,
    }
}

fn read_all(spool: &Spool, first: u64, items_max: usize, bytes_max: usize) -> Vec<Seen> {
    let seen = read_items(spool, first, items_max, bytes_max).into_iter();
    seen.map(|(sequence, found)| match as_gap(&found) {
        Some(gap) => Seen::Gap(gap.from, gap.to, gap.reason()),
        None => {
            assert_eq!(found, item(sequence), "item {sequence}");
            Seen::Item(sequence)
        }
    })
    .collect()
}

fn seen(numbers: std::ops::RangeInclusive<u64>) -> Vec<Seen> {
    numbers.map(Seen::Item).collect()
}

fn only_segment(directory: &Path) -> PathBuf {
    let mut segments: Vec<PathBuf> = segments(directory);
    assert_eq!(segments.len(), 1);
    segments.remove(0)
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .collect();
    paths.sort();
    paths
}

/// A spool with items `1..=end`, closed; its directory.
fn spool_of(end: u64) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(directory.path());
    spool.append(&items(1..=end)).unwrap();
    spool.close().unwrap();
    directory
}

#[test]
fn what_was_appended_is_read_in_any_portions() {
    let directory = tempfile::tempdir().unwrap();
    let (mut spool, opened) = open_small(directory.path());
    assert_eq!(opened, Opened::default());
    for group in [1..=1, 2..=2, 3..=30, 31..=60] {
        let end = *group.end();
        assert_eq!(spool.append(&items(group)).unwrap(), end);
    }
    assert!(segments(directory.path()).len() > 1);
    for (items_max, bytes_max) in [(1, 1), (7, 50), (1000, 1), (1000, 1000), (1000, usize::MAX)] {
        assert_eq!(read_all(&spool, 1, items_max, bytes_max), seen(1..=60));
    }
    assert_eq!(read_all(&spool, 42, 10, 1000), seen(42..=60));
    assert_eq!(spool.reader().read_from(0, 1, 1).unwrap(), None);
    assert_eq!(spool.reader().read_from(61, 1, 1).unwrap(), None);
}

#[test]
fn sequences_and_epoch_go_on_across_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let (mut spool, _) = open_small(directory.path());
    let epoch = spool.reader().epoch();
    assert!(epoch.len() == 32 && epoch.bytes().all(|byte| byte.is_ascii_hexdigit()));
    for round in 0..10 {
        let (first, last) = (round * 10 + 1, round * 10 + 10);
        assert_eq!(spool.append(&items(first..=last)).unwrap(), last);
        spool.reader().ack(last - 2);
        spool.close().unwrap();
        let opened;
        (spool, opened) = open_small(directory.path());
        assert_eq!(
            opened,
            Opened {
                unacked: 2,
                ..Opened::default()
            }
        );
        assert_eq!(spool.reader().epoch(), epoch);
        assert_eq!(read_all(&spool, last - 1, 9, 900), seen(last - 1..=last));
    }
    spool.reader().ack(100);
    spool.tick().unwrap();
    assert_eq!(
        segments(directory.path()).len(),
        1,
        "what is acknowledged is gone but for the last segment"
    );
    spool.close().unwrap();
    assert_eq!(open_small(directory.path()).0.reader().next_sequence(), 101);
}

#[test]
fn a_torn_tail_is_cut_at_every_byte() {
    let whole = spool_of(3);
    let bytes = fs::read(only_segment(whole.path())).unwrap();
    let epoch = fs::read(whole.path().join("epoch")).unwrap();
    let ends: Vec<usize> = {
        let seed: EpochBytes = files_epoch(&epoch);
        let frames = std::iter::successors(segment::frame_at(&bytes, HEADER_BYTES, &seed), |frame| {
            segment::frame_at(&bytes, frame.end(), &seed)
        });
        frames.map(|frame| frame.end()).collect()
    };
    assert_eq!(ends.len(), 3);
    for length in 0..bytes.len() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("epoch"), &epoch).unwrap();
        fs::write(
            directory.path().join("00000000000000000001-high.segment"),
            &bytes[..length],
        )
        .unwrap();
        let (mut spool, opened) = open(directory.path());
        let whole_items = ends.iter().filter(|&&end| end <= length).count();
        let kept = if length < HEADER_BYTES {
            0
        } else {
            [HEADER_BYTES]
                .iter()
                .chain(&ends)
                .copied()
                .filter(|&end| end <= length)
                .max()
                .unwrap()
        };
        assert_eq!(opened.truncated_bytes, (length - kept) as u64, "cut at {length}");
        assert_eq!(
            (opened.corrupt_bytes, opened.unacked),
            (0, whole_items as u64),
            "cut at {length}"
        );
        let next = whole_items as u64 + 1;
        assert_eq!(spool.append(&items(next..=5)).unwrap(), 5);
        assert_eq!(read_all(&spool, 1, 2, 1000), seen(1..=5), "cut at {length}");
        spool.close().unwrap();
        let (spool, opened) = open(directory.path());
        assert_eq!(
            opened,
            Opened {
                unacked: 5,
                ..Opened::default()
            }
        );
        assert_eq!(
            read_all(&spool, 1, 2, 1000),
            seen(1..=5),
            "cut at {length}, opened again"
        );
    }
}

fn files_epoch(text: &[u8]) -> EpochBytes {
    u128::from_str_radix(std::str::from_utf8(text).unwrap().lines().next().unwrap(), 16)
        .unwrap()
        .to_be_bytes()
}

#[test]
fn flipped_bits_lose_one_item_and_say_so() {
    let whole = spool_of(4);
    let (bytes, epoch) = (
        fs::read(only_segment(whole.path())).unwrap(),
        fs::read(whole.path().join("epoch")).unwrap(),
    );
    let seed = files_epoch(&epoch);
    let frame = |sequence| {
        let mut found = segment::frame_at(&bytes, HEADER_BYTES, &seed).unwrap();
        while found.sequence < sequence {
            found = segment::frame_at(&bytes, found.end(), &seed).unwrap();
        }
        found
    };
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        // Once as the last segment, which is looked through at start, and once as one before it, which is not.
        for is_last in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join("epoch"), &epoch).unwrap();
            fs::write(directory.path().join("00000000000000000001-high.segment"), &flipped).unwrap();
            if !is_last {
                fs::write(
                    directory.path().join("00000000000000000005-high.segment"),
                    segment::header(&seed, 5),
                )
                .unwrap();
            }
            let (mut spool, _) = open(directory.path());
            let mut expected: Vec<Seen> = Vec::new();
            for sequence in 1..=4 {
                let hit = (frame(sequence).payload.start - FRAME_HEADER..frame(sequence).end()).contains(&at);
                expected.push(if hit {
                    Seen::Gap(sequence, sequence, GapReason::CorruptSegment)
                } else {
                    Seen::Item(sequence)
                });
            }
            // Damage to the very last frame of the last segment cannot be told from a write that did not finish.
            if is_last && matches!(expected[3], Seen::Gap(..)) {
                expected.pop();
            }
            assert_eq!(
                read_all(&spool, 1, 9, 1000),
                expected,
                "byte {at}, last segment: {is_last}"
            );
            let next = spool.reader().next_sequence();
            spool.append(&items(next..=next + 1)).unwrap();
            expected.extend(seen(next..=next + 1));
            assert_eq!(
                read_all(&spool, 1, 1, 1),
                expected,
                "byte {at}, last segment: {is_last}, appended"
            );
        }
    }
}

const FRAME_HEADER: usize = segment::FRAME_HEADER_BYTES;

#[test]
fn the_quota_drops_the_oldest_and_leaves_a_gap() {
    let directory = tempfile::tempdir().unwrap();
    let metrics = SpoolMetrics::default();
    let (mut spool, _) = Spool::open(directory.path(), SMALL, metrics.clone()).unwrap();
    for number in 1..=500 {
        spool.append(&[item(number)]).unwrap();
    }
    let check = |spool: &Spool| {
        let found = read_all(spool, 1, 100, 10_000);
        let Seen::Gap(1, to, GapReason::SpoolOverflow) = found[0] else {
            panic!("{:?}", found[0])
        };
        assert_eq!(found[1..], seen(to + 1..=500));
        to
    };
    let lost = check(&spool);
    assert_eq!(metrics.lost_overflow.get(), lost);
    assert_eq!(metrics.items.get(), 500);
    let used: u64 = segments(directory.path())
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum();
    let counted = u64::try_from(metrics.bytes.get()).unwrap();
    assert!(used <= counted && counted <= SMALL.bytes_max, "{used}, {counted}");
    spool.close().unwrap();
    let (spool, opened) = open_small(directory.path());
    assert_eq!(
        opened,
        Opened {
            unacked: 500,
            ..Opened::default()
        }
    );
    assert_eq!(check(&spool), lost);
    spool.reader().ack(lost / 2);
    assert_eq!(
        read_all(&spool, lost / 2 + 1, 100, 10_000)[0],
        Seen::Gap(lost / 2 + 1, lost, GapReason::SpoolOverflow)
    );
}

#[test]
fn a_reader_follows_while_segments_go() {
    let directory = tempfile::tempdir().unwrap();
    let (mut spool, _) = open_small(directory.path());
    let mut reader = spool.reader();
    let (mut sequence, mut lost, mut read) = (1, 0, 0);
    for number in 1..=1000 {
        spool.append(&[item(number)]).unwrap();
        if number % 197 == 0 {
            while let Some(chunk) = reader.read_from(sequence, 5, 1000).unwrap() {
                assert_eq!(chunk.first, sequence);
                lost += chunk.lost;
                read += chunk.items.iter().filter(|item| as_gap(item).is_none()).count() as u64;
                sequence = chunk.through + 1;
            }
            reader.ack(sequence - 10);
            spool.tick().unwrap();
        }
    }
    assert!(lost > 0 && read > 0);
    assert_eq!(lost + read, sequence - 1);
}

#[test]
fn a_missing_segment_is_a_gap() {
    let directory = tempfile::tempdir().unwrap();
    let (mut spool, _) = open_small(directory.path());
    for number in 1..=80 {
        spool.append(&[item(number)]).unwrap();
    }
    let (_, segments) = (spool.close().unwrap(), segments(directory.path()));
    assert!(segments.len() > 2);
    let first = |path: &Path| {
        path.file_stem().unwrap().to_str().unwrap()[..20]
            .parse::<u64>()
            .unwrap()
    };
    fs::remove_file(&segments[1]).unwrap();
    let (from, to) = (first(&segments[1]), first(&segments[2]) - 1);
    let mut expected = seen(1..=from - 1);
    expected.push(Seen::Gap(from, to, GapReason::CorruptSegment));
    expected.extend(seen(to + 1..=80));
    assert_eq!(read_all(&open_small(directory.path()).0, 1, 100, 10_000), expected);
}

#[test]
fn one_agent_per_directory() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = open(directory.path());
    let error = Spool::open(directory.path(), SpoolConfig::default(), SpoolMetrics::default())
        .err()
        .unwrap();
    assert!(matches!(error, SpoolError::Locked(_)), "{error}");
    assert!(
        error.to_string().contains(&directory.path().display().to_string())
            && error.to_string().contains("; stop that one")
    );
    spool.close().unwrap();
    open(directory.path());
}

#[test]
fn an_unclean_end_is_noticed_once() {
    let directory = tempfile::tempdir().unwrap();
    let before = SystemTime::now();
    drop(open(directory.path()));
    let (spool, opened) = open(directory.path());
    let since = opened.unclean_since.unwrap();
    // File systems keep times in ticks of a few milliseconds.
    assert!(since + Duration::from_millis(20) >= before && since <= SystemTime::now());
    let Some(item::Kind::Gap(Gap {
        kind: Some(gap::Kind::Observation(gap)),
    })) = opened.not_running(SystemTime::now()).unwrap().kind
    else {
        panic!("no observation gap")
    };
    assert_eq!(gap.reason(), GapReason::AgentNotRunning);
    assert!(gap.from.is_some() && gap.to.is_some());
    // Until the gap is durable the time is kept, however this start ends.
    spool.close().unwrap();
    let (mut spool, opened) = open(directory.path());
    assert_eq!(opened.unclean_since, Some(since));
    spool.append(&items(1..=1)).unwrap();
    spool.close().unwrap();
    let (_spool, opened) = open(directory.path());
    assert_eq!(
        (opened.unclean_since, opened.not_running(SystemTime::now())),
        (None, None)
    );
}

#[test]
fn errors_at_open_name_the_path_and_the_next_step() {
    let error = |directory: &Path| {
        Spool::open(directory, SpoolConfig::default(), SpoolMetrics::default())
            .err()
            .unwrap()
            .to_string()
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let text = error(&file);
    assert!(
        text.contains(&*file.to_string_lossy()) && text.ends_with("; move what is in the way"),
        "{text}"
    );
    let other = spool_of(1);
    fs::copy(
        only_segment(other.path()),
        directory.path().join("00000000000000000001-high.segment"),
    )
    .unwrap();
    assert!(error(directory.path()).contains("epoch: is missing although there are segments; move the directory away"));
    fs::write(directory.path().join("epoch"), "0123456789abcdef0123456789abcdef\n").unwrap();
    assert!(error(directory.path()).contains("belongs to another spool; move the directory away"));
    fs::write(directory.path().join("epoch"), "what?").unwrap();
    assert!(error(directory.path()).contains("epoch: is not 32 hexadecimal digits; move"));
}

#[test]
fn after_a_failed_write_the_same_items_are_appended_again() {
    let directory = tempfile::tempdir().unwrap();
    let (path, away) = (directory.path().join("spool"), directory.path().join("away"));
    let metrics = SpoolMetrics::default();
    let (mut spool, _) = Spool::open(&path, SMALL, metrics.clone()).unwrap();
    spool.append(&items(1..=20)).unwrap();
    fs::rename(&path, &away).unwrap();
    let error = spool.append(&items(21..=60)).unwrap_err().to_string();
    assert!(error.contains("cannot begin a segment"), "{error}");
    assert_eq!((metrics.write_errors.get(), spool.reader().next_sequence()), (1, 21));
    fs::rename(&away, &path).unwrap();
    assert_eq!(spool.append(&items(21..=60)).unwrap(), 60);
    assert_eq!(read_all(&spool, 1, 9, 900), seen(1..=60));
    spool.close().unwrap();
    assert_eq!(read_all(&open_small(&path).0, 1, 9, 900), seen(1..=60));
}

#[test]
fn a_directory_that_was_rolled_back_goes_on_behind_the_collector() {
    let directory = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(directory.path());
    spool.append(&items(1..=10)).unwrap();
    spool.reader().ack(4);
    spool.reader().overtaken_by(1000);
    let notices = spool.take_notices();
    let Some(item::Kind::Gap(Gap {
        kind: Some(gap::Kind::Observation(gap)),
    })) = &notices[0].kind
    else {
        panic!("{notices:?}")
    };
    assert_eq!((notices.len(), gap.count), (1, 6));
    assert_eq!(spool.append(&items(1001..=1003)).unwrap(), 1003);
    assert_eq!(read_all(&spool, 1001, 9, 900), seen(1001..=1003));
    spool.close().unwrap();
    let (spool, opened) = open(directory.path());
    assert_eq!(
        opened,
        Opened {
            unacked: 3,
            ..Opened::default()
        }
    );
    assert_eq!(read_all(&spool, 1001, 9, 900), seen(1001..=1003));
}

#[test]
fn nothing_is_appended_after_the_seal() {
    let directory = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(directory.path());
    let durable = spool.reader().durable();
    spool.append(&items(1..=1)).unwrap();
    assert_eq!((*durable.borrow(), durable.has_changed().unwrap()), (1, true));
    spool.seal();
    assert!(durable.has_changed().is_err());
    assert!(matches!(spool.append(&items(2..=2)), Err(SpoolError::Sealed)));
    spool.reader().ack(1);
    spool.close().unwrap();
    assert_eq!(open(directory.path()).1, Opened::default());
}

/// An alert, told apart by its number.
pub(super) fn alert(number: u64, severity: Severity) -> Item {
    Item {
        kind: Some(item::Kind::Alert(Alert {
            message: format!("alert {number} {}", "y".repeat(40)),
            severity: severity.into(),
            ..Alert::default()
        })),
    }
}

#[test]
fn severities_are_put_together_again_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let severities = [Severity::Low, Severity::High, Severity::Medium, Severity::Informational];
    let all: Vec<Item> = (1..=40)
        .map(|number| alert(number, severities[usize::try_from(number % 4).unwrap()]))
        .collect();
    let (mut spool, _) = open(directory.path());
    let mut reader = spool.reader();
    let mut followed = Vec::new();
    for group in all.chunks(7) {
        spool.append(group).unwrap();
        while let Some(chunk) = reader.read_from(followed.len() as u64 + 1, 3, 10_000).unwrap() {
            followed.extend(chunk.items);
        }
    }
    assert_eq!(followed, all);
    assert_eq!(segments(directory.path()).len(), 3, "one for each lane");
    spool.close().unwrap();
    let (spool, _) = open(directory.path());
    for (items_max, bytes_max) in [(1, 1), (5, 100), (100, 100_000)] {
        let read: Vec<Item> = read_items(&spool, 1, items_max, bytes_max)
            .into_iter()
            .map(|(_, item)| item)
            .collect();
        assert_eq!(read, all);
    }
    // Back again with the same reader, from everywhere.
    let mut reader = spool.reader();
    for from in (1..=40).rev() {
        for items_max in [7, 100] {
            let again = reader.read_from(from, items_max, 100_000).unwrap().unwrap();
            let expected = &all[usize::try_from(from).unwrap() - 1..];
            assert_eq!(again.items, expected[..expected.len().min(items_max)], "from {from}");
            assert_eq!(reader.read_from(from, items_max, 100_000).unwrap().unwrap(), again);
        }
    }
}

#[test]
fn the_least_severe_go_first_and_the_reserve_is_for_the_severe() {
    let directory = tempfile::tempdir().unwrap();
    let metrics = SpoolMetrics::default();
    let (mut spool, _) = Spool::open(directory.path(), SMALL, metrics.clone()).unwrap();
    let severity = |number: u64| match number {
        1..=5 => Severity::Medium,
        6..=8 => Severity::Critical,
        9..=200 => Severity::Low,
        201..=210 => Severity::High,
        _ => Severity::Medium,
    };
    for number in 1..=210 {
        spool.append(&[alert(number, severity(number))]).unwrap();
    }
    let there = |spool: &Spool| -> Vec<u64> {
        let read = read_items(spool, 1, 100, 100_000);
        for (at, found) in &read {
            match as_gap(found) {
                Some(gap) => assert_eq!(gap.reason(), GapReason::SpoolOverflow),
                None => assert_eq!(*found, alert(*at, severity(*at))),
            }
        }
        read.iter()
            .filter(|(_, item)| as_gap(item).is_none())
            .map(|(at, _)| *at)
            .collect()
    };
    let kept = there(&spool);
    let count =
        |kept: &[u64], range: std::ops::RangeInclusive<u64>| kept.iter().filter(|at| range.contains(at)).count();
    assert_eq!((count(&kept, 1..=8), count(&kept, 201..=210)), (8, 10), "{kept:?}");
    assert!(
        count(&kept, 9..=200) < 192 && kept.contains(&200),
        "the newest of them are there: {kept:?}"
    );
    let used = |directory: &Path| -> u64 {
        segments(directory)
            .iter()
            .map(|path| fs::metadata(path).unwrap().len())
            .sum()
    };
    assert!(used(directory.path()) <= SMALL.bytes_max);
    // More severe ones push out the less severe, and never the other way round.
    for number in 211..=400 {
        spool.append(&[alert(number, severity(number))]).unwrap();
    }
    let kept = there(&spool);
    assert_eq!(
        (count(&kept, 6..=8), count(&kept, 201..=210), count(&kept, 9..=200)),
        (3, 10, 0),
        "{kept:?}"
    );
    let before = kept.len();
    assert_eq!(spool.append(&[alert(401, Severity::Low)]).unwrap(), 401);
    assert_eq!(metrics.lost_overflow.get(), 401 - before as u64);
    let read = read_items(&spool, 401, 9, 900);
    assert_eq!(
        as_gap(&read[0].1).map(|gap| gap.reason()),
        Some(GapReason::SpoolOverflow),
        "no room for low"
    );
    spool.close().unwrap();
    let (spool, opened) = open_small(directory.path());
    assert_eq!(opened.unacked, 401);
    assert_eq!(
        read_items(&spool, 1, 100, 100_000).len(),
        read_items(&spool, 1, 1, 1).len()
    );
}

#[test]
fn what_was_acknowledged_is_kept_while_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let config = SpoolConfig {
        retention: Duration::from_secs(3600),
        ..SMALL
    };
    let metrics = SpoolMetrics::default();
    let (mut spool, _) = Spool::open(directory.path(), config, metrics.clone()).unwrap();
    for number in 1..=50 {
        spool.append(&[item(number)]).unwrap();
    }
    spool.reader().ack(50);
    spool.tick().unwrap();
    assert_eq!(read_all(&spool, 1, 9, 900), seen(1..=50));
    for number in 51..=300 {
        spool.append(&[item(number)]).unwrap();
        spool.reader().ack(number);
        spool.tick().unwrap();
    }
    // Nothing was lost by it, and who asks for what went is told why it is not there.
    assert_eq!(metrics.lost_overflow.get(), 0);
    let found = read_all(&spool, 1, 100, 10_000);
    let Seen::Gap(1, to, GapReason::AlreadyAcknowledged) = found[0] else {
        panic!("{:?}", found[0])
    };
    assert_eq!(found[1..], seen(to + 1..=300));
    drop(spool);
    let (spool, opened) = Spool::open(directory.path(), config, SpoolMetrics::default()).unwrap();
    assert!(
        opened.unacked < 300 && spool.reader().next_sequence() == 301,
        "{opened:?}"
    );
}

/// A directory as the previous version left it when it was killed: items 1 to 5 acknowledged, 6 to 20 dropped, 21 to 50
/// waiting, the 51st half written.
#[test]
fn a_spool_of_the_previous_format_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/spool/fixtures/v1");
    for file in fs::read_dir(fixture).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), directory.path().join(file.file_name())).unwrap();
    }
    let (mut spool, opened) = open(directory.path());
    assert!(
        opened.unclean_since.is_some() && opened.corrupt_bytes == 0,
        "{opened:?}"
    );
    assert_eq!((opened.unacked, opened.truncated_bytes), (45, 26));
    assert_eq!(spool.reader().epoch(), "101112131415161718191a1b1c1d1e1f");
    let expected = |last| {
        let mut expected = vec![Seen::Gap(6, 20, GapReason::SpoolOverflow)];
        expected.extend(seen(21..=last));
        expected
    };
    assert_eq!(read_all(&spool, 6, 9, 900), expected(50));
    assert_eq!(spool.append(&items(51..=60)).unwrap(), 60);
    spool.close().unwrap();
    let (mut spool, opened) = open(directory.path());
    assert_eq!(
        opened,
        Opened {
            unacked: 55,
            ..Opened::default()
        }
    );
    assert_eq!(read_all(&spool, 6, 9, 900), expected(60));
    // The agent of before must not give out these sequences again: what it reads first, it does not know.
    let epoch = fs::read_to_string(directory.path().join("epoch")).unwrap();
    assert_eq!(epoch, "101112131415161718191a1b1c1d1e1f\nformat 2\n");
    spool.config.retention = Duration::ZERO;
    spool.reader().ack(60);
    spool.tick().unwrap();
    assert_eq!(
        segments(directory.path()).len(),
        1,
        "files of the previous format go, too"
    );
    fs::write(directory.path().join("epoch"), epoch.replace("format 2", "format 3")).unwrap();
    drop(spool);
    let error = Spool::open(directory.path(), SMALL, SpoolMetrics::default())
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("epoch: says `format 3`, which this agent does not know; move"),
        "{error}"
    );
}

#[test]
fn where_the_directory_cannot_be_used_memory_is() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let metrics = SpoolMetrics::default();
    let why = Spool::open(&file, SMALL, metrics.clone()).err().unwrap();
    let (mut spool, first) = Spool::in_memory(SMALL, metrics.clone(), &why).unwrap();
    assert_eq!(metrics.on_disk.get(), 0);
    let Some(item::Kind::Gap(Gap {
        kind: Some(gap::Kind::Observation(gap)),
    })) = &first.kind
    else {
        panic!("{first:?}")
    };
    assert_eq!((gap.hook.as_str(), gap.reason()), ("spool", GapReason::NotDurable));
    for number in 1..=500 {
        spool.append(&[item(number)]).unwrap();
    }
    let found = read_all(&spool, 1, 100, 10_000);
    let Seen::Gap(1, to, GapReason::SpoolOverflow) = found[0] else {
        panic!("{:?}", found[0])
    };
    assert_eq!(found[1..], seen(to + 1..=500));
    spool.reader().ack(500);
    spool.tick().unwrap();
    spool.close().unwrap();
}

/// Starts this test's own binary as a child that runs only the test `name`, told by `STAGHOUND_TEST_SPOOL`.
fn child(name: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", &format!("spool::tests::{name}"), "--nocapture"])
        .env("STAGHOUND_TEST_SPOOL", directory);
    command
}

fn child_directory() -> Option<PathBuf> {
    std::env::var_os("STAGHOUND_TEST_SPOOL").map(PathBuf::from)
}

#[test]
fn killed_at_any_moment_nothing_durable_is_lost() {
    if let Some(directory) = child_directory() {
        let (mut spool, _) = open_small(&directory);
        loop {
            let first = spool.reader().next_sequence();
            let end = spool.append(&items(first..=first + first % 5)).unwrap();
            spool.reader().ack(end.saturating_sub(20));
            spool.tick().unwrap();
            println!("durable {end}");
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let mut next = 1;
    for round in 0..8_u64 {
        let mut process = child("killed_at_any_moment_nothing_durable_is_lost", directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut told = lines.filter_map(|line| line.unwrap().strip_prefix("durable ")?.parse::<u64>().ok());
        let enough = next + 10 + round * 37;
        told.find(|&end| end >= enough).unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        let last_told = told.last().unwrap_or(enough);
        let (spool, opened) = open_small(directory.path());
        assert!(
            opened.unclean_since.is_some() && opened.corrupt_bytes == 0,
            "{opened:?}"
        );
        let (first_unacked, end) = (spool.reader().first_unacked(), spool.reader().next_sequence() - 1);
        assert!(end >= last_told, "{last_told} was told durable, {end} is the last");
        assert_eq!(read_all(&spool, first_unacked, 9, 900), seen(first_unacked..=end));
        next = end + 1;
    }
}

#[test]
fn a_disk_that_is_full_for_a_while_loses_nothing() {
    if let Some(directory) = child_directory() {
        // A limit on file size cuts a write short in the middle, as a full disk does, and needs no disk of its own.
        let limit = |bytes: libc::rlim_t| {
            let limit = libc::rlimit {
                rlim_cur: bytes,
                rlim_max: libc::RLIM_INFINITY,
            };
            // SAFETY: the pointer is to a valid rlimit.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) }, 0);
        };
        // SAFETY: ignoring a signal installs no handler.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        let (mut spool, _) = open(&directory);
        for round in 0..20 {
            let next = spool.reader().next_sequence();
            let bytes = segments(&directory)
                .last()
                .map_or(0, |path| fs::metadata(path).unwrap().len());
            limit(bytes + 10 + round * 7);
            spool.append(&items(next..=next + 9)).unwrap_err();
            assert_eq!(spool.reader().next_sequence(), next);
            assert_eq!(read_all(&spool, 1, 100, 10_000), seen(1..=next - 1));
            limit(libc::RLIM_INFINITY);
            assert_eq!(spool.append(&items(next..=next + 9)).unwrap(), next + 9);
        }
        spool.close().unwrap();
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let status = child("a_disk_that_is_full_for_a_while_loses_nothing", directory.path())
        .status()
        .unwrap();
    assert!(status.success());
    let (spool, opened) = open(directory.path());
    assert_eq!(
        opened,
        Opened {
            unacked: 200,
            ..Opened::default()
        }
    );
    assert_eq!(read_all(&spool, 1, 100, 10_000), seen(1..=200));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_in_its_files_open_or_fail_without_panic(
        segment in proptest::collection::vec(any::<u8>(), 0..300),
        acked in proptest::collection::vec(any::<u8>(), 0..30),
        lost in "([0-9a-f]{8}\n)?([0-9]{1,20} [0-9]{1,20} [0-9]\n){0,3}",
        keep_header in any::<bool>(),
    ) {
        let directory = spool_of(3);
        let path = only_segment(directory.path());
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(if keep_header { HEADER_BYTES } else { 0 });
        bytes.extend(segment);
        fs::write(&path, bytes).unwrap();
        fs::write(directory.path().join("acked"), acked).unwrap();
        fs::write(directory.path().join("lost"), lost).unwrap();
        if let Ok((mut spool, _)) = Spool::open(directory.path(), SMALL, SpoolMetrics::default()) {
            let next = spool.reader().next_sequence();
            prop_assert_eq!(spool.append(&items(next..=next + 1)).unwrap(), next + 1);
            read_all(&spool, next, 10, 1000);
        }
    }

    #[test]
    fn any_history_is_read_without_holes(steps in proptest::collection::vec((0_u8..6, 1_u64..30), 1..40)) {
        let directory = tempfile::tempdir().unwrap();
        let (mut spool, _) = open_small(directory.path());
        for (step, number) in steps {
            let next = spool.reader().next_sequence();
            match step {
                0..=2 => prop_assert_eq!(spool.append(&items(next..=next + number)).unwrap(), next + number),
                3 => spool.reader().ack((spool.reader().first_unacked() + number).min(next - 1)),
                4 => spool.tick().unwrap(),
                _ => {
                    if number % 2 == 0 { spool.close().unwrap() } else { drop(spool) }
                    (spool, _) = open_small(directory.path());
                    prop_assert_eq!(spool.reader().next_sequence(), next);
                }
            }
            read_all(&spool, spool.reader().first_unacked(), 8, 500);
        }
    }
}
