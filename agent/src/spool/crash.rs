//! The power fails between any two operations, and any one operation fails: what was told durable is there, nothing comes
//! twice, nothing is torn.

use super::disk::{Disk, DiskFile};
use super::tests::{alert, as_gap, read_items};
use super::*;
use proptest::prelude::*;
use staghound_proto::v1::Severity;
use std::collections::{BTreeMap, BTreeSet};

/// Smaller than that of any disk, so that every frame is torn in every way.
const SECTOR_BYTES: usize = 16;

/// A disk that keeps for sure only what was synced.
#[derive(Clone, Default)]
struct SimDisk(Arc<Mutex<Sim>>);

#[derive(Default)]
struct Sim {
    files: Vec<SimFile>,
    live: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<Naming>,
    operations: u64,
    /// The power fails in this operation.
    off_at: Option<u64>,
    /// This operation fails, once.
    fails_at: Option<u64>,
    is_off: bool,
}

#[derive(Clone, Default)]
struct SimFile {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

#[derive(Clone)]
enum Naming {
    Create(String, usize),
    Rename(String, String, usize),
    Unlink(String),
}

/// Chance that can be had again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn write(bytes: &mut Vec<u8>, offset: usize, part: &[u8]) {
    if bytes.len() < offset + part.len() {
        bytes.resize(offset + part.len(), 0);
    }
    bytes[offset..offset + part.len()].copy_from_slice(part);
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write(offset, part) => write(bytes, *offset, part),
            Change::Truncate(length) => bytes.truncate(*length),
        }
    }

    /// What is left of it when it was not synced: all, nothing, or any of its sectors.
    fn survive(&self, bytes: &mut Vec<u8>, dice: &mut Dice) {
        match (dice.roll(3), self) {
            (0, _) => {}
            (1, Change::Write(offset, part)) => {
                for (index, sector) in part.chunks(SECTOR_BYTES).enumerate() {
                    if dice.roll(2) == 0 {
                        write(bytes, offset + index * SECTOR_BYTES, sector);
                    }
                }
            }
            (_, change) => change.apply(bytes),
        }
    }
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Naming::Create(name, file) => {
                names.insert(name.clone(), *file);
            }
            Naming::Rename(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
            Naming::Unlink(name) => {
                names.remove(name);
            }
        }
    }
}

impl Sim {
    /// Counts an operation; whether it is done, and what is returned.
    fn step(&mut self) -> (bool, io::Result<()>) {
        self.operations += 1;
        let off = || Err(io::Error::other("the power is off"));
        if self.is_off {
            return (false, off());
        }
        if self.off_at == Some(self.operations) {
            // Begun, and nobody knows how far it came.
            self.is_off = true;
            return (true, off());
        }
        if self.fails_at == Some(self.operations) {
            return (false, Err(io::Error::from_raw_os_error(libc::ENOSPC)));
        }
        (true, Ok(()))
    }
}

impl SimDisk {
    fn lock(&self) -> MutexGuard<'_, Sim> {
        self.0.lock().unwrap()
    }

    /// The disk when the power is back.
    fn after_power_cut(&self, dice: &mut Dice) -> Self {
        let sim = self.lock();
        let mut names = sim.durable.clone();
        for naming in &sim.pending {
            if dice.roll(2) == 0 {
                naming.apply(&mut names);
            }
        }
        let files: Vec<SimFile> = sim
            .files
            .iter()
            .map(|file| {
                let mut bytes = file.durable.clone();
                for change in &file.pending {
                    change.survive(&mut bytes, dice);
                }
                SimFile {
                    live: bytes.clone(),
                    durable: bytes,
                    pending: Vec::new(),
                }
            })
            .collect();
        Self(Arc::new(Mutex::new(Sim {
            files,
            live: names.clone(),
            durable: names,
            ..Sim::default()
        })))
    }

    fn naming(&self, make: impl FnOnce(&mut Sim) -> Option<Naming>) -> io::Result<()> {
        let mut sim = self.lock();
        let (done, result) = sim.step();
        if done {
            let naming = make(&mut sim).ok_or(io::ErrorKind::NotFound)?;
            let sim = &mut *sim;
            naming.apply(&mut sim.live);
            sim.pending.push(naming);
        }
        result
    }
}

impl Disk for SimDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().live.keys().cloned().collect())
    }

    fn open(&self, name: &str, _writable: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = *self.lock().live.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(OpenFile(self.clone(), file)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut file = 0;
        self.naming(|sim| {
            sim.files.push(SimFile::default());
            file = sim.files.len() - 1;
            Some(Naming::Create(name.to_owned(), file))
        })?;
        Ok(Arc::new(OpenFile(self.clone(), file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.naming(|sim| Some(Naming::Rename(from.to_owned(), to.to_owned(), *sim.live.get(from)?)))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.naming(|sim| sim.live.contains_key(name).then(|| Naming::Unlink(name.to_owned())))
    }

    fn sync(&self) -> io::Result<()> {
        let mut sim = self.lock();
        let (_, result) = sim.step();
        if result.is_ok() {
            sim.durable = sim.live.clone();
            sim.pending.clear();
        }
        result
    }
}

struct OpenFile(SimDisk, usize);

impl OpenFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut sim = self.0.lock();
        let (done, result) = sim.step();
        // A write that fails for want of room may have begun.
        let change = match (done, change) {
            (true, change) => change,
            (false, _) if sim.is_off => return result,
            (false, Change::Write(offset, bytes)) => Change::Write(offset, bytes[..bytes.len() / 2].to_vec()),
            (false, Change::Truncate(_)) => return result,
        };
        let file = &mut sim.files[self.1];
        change.apply(&mut file.live);
        file.pending.push(change);
        result
    }
}

impl DiskFile for OpenFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.lock().files[self.1].live.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let sim = self.0.lock();
        let bytes = &sim.files[self.1].live;
        let from = usize::try_from(offset).unwrap().min(bytes.len());
        let read = buffer.len().min(bytes.len() - from);
        buffer[..read].copy_from_slice(&bytes[from..from + read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Change::Write(usize::try_from(offset).unwrap(), bytes.to_vec()))
    }

    fn reserve(&self, _bytes: u64) -> io::Result<()> {
        self.0.lock().step().1
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.change(Change::Truncate(usize::try_from(bytes).unwrap()))
    }

    fn sync(&self) -> io::Result<()> {
        let mut sim = self.0.lock();
        let (_, result) = sim.step();
        if result.is_ok() {
            let file = &mut sim.files[self.1];
            file.durable = file.live.clone();
            file.pending.clear();
        }
        result
    }

    fn modified(&self) -> io::Result<SystemTime> {
        Ok(SystemTime::UNIX_EPOCH)
    }

    fn touch(&self) -> io::Result<()> {
        self.0.lock().step().1
    }
}

/// What one step of an agent's life does.
#[derive(Clone, Debug)]
enum Step {
    /// Appends alerts of these severities as one group.
    Append(Vec<Severity>),
    /// Acknowledges all but so many, and tidies.
    Ack(u64),
    Restart,
}

/// What is known of the items from outside.
#[derive(Clone, Default)]
struct Told {
    /// Items made so far; each has its number, never used again.
    made: u64,
    /// By sequence, what was told durable.
    durable: BTreeMap<u64, Item>,
    /// By sequence, what was tried and failed; may be there or not.
    tried: BTreeMap<u64, Vec<Item>>,
    acked: u64,
}

const ROOMY: SpoolConfig = SpoolConfig {
    bytes_max: 1 << 20,
    reserve_bytes: 1 << 18,
    segment_bytes: 300,
    retention: Duration::ZERO,
};
const TIGHT: SpoolConfig = SpoolConfig {
    bytes_max: 2400,
    reserve_bytes: 800,
    ..ROOMY
};

fn open(disk: &SimDisk, config: SpoolConfig, metrics: &SpoolMetrics) -> Result<Spool, SpoolError> {
    let (mut spool, opened) = Spool::open_in(Directory::on(Arc::new(disk.clone())), config, metrics.clone())?;
    spool.acked_at = Instant::now().checked_sub(ACKED_EVERY * 2).unwrap();
    assert!(opened.corrupt_bytes < 1 << 20);
    Ok(spool)
}

/// Lives until the end or the power cut. A failed append is tried again.
fn live(disk: &SimDisk, steps: &[Step], config: SpoolConfig, metrics: &SpoolMetrics, told: &mut Told) -> Option<Spool> {
    let reopen = || (0..3).find_map(|_| open(disk, config, metrics).ok());
    let mut spool = reopen()?;
    for step in steps {
        match step {
            Step::Append(severities) => {
                let group: Vec<Item> = severities
                    .iter()
                    .zip(told.made + 1..)
                    .map(|(severity, number)| alert(number, *severity))
                    .collect();
                told.made += group.len() as u64;
                let mut tries = 0;
                loop {
                    let first = spool.reader().next_sequence();
                    let placed = (first..).zip(group.iter().cloned());
                    if spool.append(&group).is_ok() {
                        told.durable.extend(placed);
                        break;
                    }
                    for (sequence, item) in placed {
                        told.tried.entry(sequence).or_default().push(item);
                    }
                    tries += 1;
                    if tries > 3 {
                        assert!(disk.lock().is_off);
                        return None;
                    }
                }
            }
            Step::Ack(but) => {
                let through = (spool.reader().next_sequence() - 1).saturating_sub(*but);
                spool.reader().ack(through);
                told.acked = told.acked.max(through);
                drop(spool.tick());
            }
            Step::Restart => {
                drop(spool.close());
                spool = reopen()?;
            }
        }
    }
    Some(spool)
}

/// What is there is what was told.
fn check(spool: &Spool, told: &Told, config: SpoolConfig, what: &str) {
    let last_told = told.durable.last_key_value().map_or(0, |(last, _)| *last);
    assert!(
        spool.reader().next_sequence() > last_told,
        "{what}: a sequence would be given out twice"
    );
    let mut seen = BTreeSet::new();
    for (at, found) in read_items(spool, 1, 7, 500) {
        if let Some(gap) = as_gap(&found) {
            for missing in gap.from..=gap.to {
                let excused = missing <= told.acked
                    || !told.durable.contains_key(&missing)
                    // Where writing down the reason failed, only the reason is lost.
                    || (config == TIGHT && (gap.reason() == GapReason::SpoolOverflow || what.starts_with("operation")));
                assert!(excused, "{what}: {missing} was told durable and is gone: {gap:?}");
            }
            continue;
        }
        let tried = told.tried.get(&at).is_some_and(|tried| tried.contains(&found));
        let is_his = match told.durable.get(&at) {
            Some(durable) => *durable == found,
            None => tried,
        };
        assert!(is_his, "{what}: at {at} is {found:?}");
        if at > told.acked {
            assert!(seen.insert(format!("{found:?}")), "{what}: twice: {found:?}");
        }
    }
}

fn power_cuts(steps: &[Step], config: SpoolConfig, seeds: u64) -> u64 {
    let disk = SimDisk::default();
    let mut told = Told::default();
    let spool = live(&disk, steps, config, &SpoolMetrics::default(), &mut told).unwrap();
    check(&spool, &told, config, "without a power cut");
    drop(spool);
    let operations = disk.lock().operations;
    for off_at in 1..=operations {
        for seed in 1..=seeds {
            let mut dice = Dice(off_at * 7919 + seed);
            let mut disk = SimDisk::default();
            let mut told = Told::default();
            let metrics = SpoolMetrics::default();
            // The power fails a second time, while the directory is opened again.
            for second in [off_at, 1 + dice.roll(12)] {
                disk.lock().off_at = Some(second);
                drop(live(&disk, steps, config, &metrics, &mut told));
                disk = disk.after_power_cut(&mut dice);
            }
            let what = format!("power cut {off_at} of {operations}, seed {seed}");
            let spool = open(&disk, config, &metrics).unwrap_or_else(|error| panic!("{what}: {error}"));
            check(&spool, &told, config, &what);
            drop(spool);
            let spool = live(&disk, steps, config, &metrics, &mut told).unwrap();
            check(&spool, &told, config, &format!("{what}, and on"));
            spool.close().unwrap();
            let spool = open(&disk, config, &metrics).unwrap();
            check(&spool, &told, config, &format!("{what}, and again"));
        }
    }
    operations
}

fn failures(steps: &[Step], config: SpoolConfig) {
    let disk = SimDisk::default();
    drop(live(
        &disk,
        steps,
        config,
        &SpoolMetrics::default(),
        &mut Told::default(),
    ));
    let operations = disk.lock().operations;
    for fails_at in 1..=operations {
        let disk = SimDisk::default();
        let (mut told, metrics) = (Told::default(), SpoolMetrics::default());
        disk.lock().fails_at = Some(fails_at);
        let what = format!("operation {fails_at} of {operations} failed");
        let spool = live(&disk, steps, config, &metrics, &mut told).unwrap_or_else(|| panic!("{what}: gave up"));
        check(&spool, &told, config, &what);
        drop(spool);
        check(
            &open(&disk, config, &metrics).unwrap(),
            &told,
            config,
            &format!("{what}, opened again"),
        );
        let spool = open(&disk.after_power_cut(&mut Dice(fails_at)), config, &metrics).unwrap();
        check(&spool, &told, config, &format!("{what}, then a power cut"));
    }
}

const LOW: Severity = Severity::Low;
const MEDIUM: Severity = Severity::Medium;
const HIGH: Severity = Severity::High;

fn a_life() -> Vec<Step> {
    vec![
        Step::Append(vec![LOW]),
        Step::Append(vec![HIGH, LOW, MEDIUM, LOW]),
        Step::Append(vec![LOW, LOW, LOW, LOW, LOW]),
        Step::Ack(4),
        Step::Append(vec![HIGH, HIGH, MEDIUM]),
        Step::Restart,
        Step::Append(vec![MEDIUM, LOW, HIGH]),
        Step::Append(vec![LOW, LOW, LOW, LOW, LOW, LOW, MEDIUM]),
        Step::Ack(5),
        Step::Append(vec![HIGH]),
    ]
}

#[test]
fn a_power_cut_at_any_operation_takes_nothing_that_was_durable() {
    let operations = power_cuts(&a_life(), ROOMY, 3);
    assert!(operations > 60, "{operations}");
}

#[test]
fn a_power_cut_while_the_spool_is_full_takes_nothing_that_was_durable() {
    let mut steps = a_life();
    steps.retain(|step| !matches!(step, Step::Ack(_)));
    steps.extend([LOW, MEDIUM, LOW, HIGH].map(|severity| Step::Append(vec![severity; 6])));
    let metrics = SpoolMetrics::default();
    drop(live(&SimDisk::default(), &steps, TIGHT, &metrics, &mut Told::default()));
    assert!(metrics.lost_overflow.get() > 0);
    power_cuts(&steps, TIGHT, 2);
}

#[test]
fn any_one_failing_operation_is_overcome() {
    failures(&a_life(), ROOMY);
    failures(&a_life(), TIGHT);
}

fn step() -> impl Strategy<Value = Step> {
    let severity = prop_oneof![Just(LOW), Just(MEDIUM), Just(HIGH)];
    prop_oneof![
        4 => proptest::collection::vec(severity, 1..8).prop_map(Step::Append),
        2 => (0_u64..12).prop_map(Step::Ack),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn any_life_survives_power_cuts(steps in proptest::collection::vec(step(), 1..10), tight in any::<bool>()) {
        let config = if tight { TIGHT } else { ROOMY };
        power_cuts(&steps, config, 1);
        failures(&steps, config);
    }
}
