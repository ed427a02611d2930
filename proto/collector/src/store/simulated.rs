//! A disk that keeps after a crash only what was synced, and any part of the rest; for tests.

use super::disk::{Disk, DiskFile};
use proptest::prelude::RngExt as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex, MutexGuard},
};

/// What happens at a chosen step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mishap {
    /// The host goes down within this step.
    Crash,
    /// The step fails; a write may be done in part, and what a failed sync was to keep is never kept.
    Failure,
}

#[derive(Clone)]
pub(super) struct Simulated(Arc<Mutex<World>>);

struct World {
    files: HashMap<u64, Content>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Changes of names since the last sync, in order: a journal keeps a first part of them.
    pending_names: Vec<BTreeMap<String, u64>>,
    next_file: u64,
    steps: u64,
    mishap: Option<(u64, Mishap)>,
    crashed: bool,
    random: TestRng,
}

#[derive(Clone, Default)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::SetLen(len) => bytes.resize(*len, 0),
            Self::Write(offset, data) => {
                let end = offset + data.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*offset..end].copy_from_slice(data);
            }
        }
    }
}

fn down() -> io::Error {
    io::Error::other("the host is down")
}

impl World {
    /// Every change passes here. An error: it does not happen, or not in full.
    fn step(&mut self) -> Result<(), Mishap> {
        if self.crashed {
            return Err(Mishap::Crash);
        }
        self.steps += 1;
        match self.mishap {
            Some((at, mishap)) if at == self.steps => {
                self.crashed = mishap == Mishap::Crash;
                Err(mishap)
            }
            _ => Ok(()),
        }
    }

    fn change(&mut self, file: u64, change: Change) -> io::Result<()> {
        let stepped = self.step();
        let change = match (&stepped, change) {
            (Ok(()), change) => change,
            (Err(_), Change::Write(offset, data)) => {
                let part = self.random.random_range(0..=data.len());
                Change::Write(offset, data[..part].to_vec())
            }
            (Err(_), Change::SetLen(_)) => return Err(down()),
        };
        let content = self.files.get_mut(&file).expect("an open file");
        change.apply(&mut content.seen);
        content.pending.push(change);
        stepped.map_err(|_| down())
    }

    fn rename(&mut self, change: impl FnOnce(&mut BTreeMap<String, u64>)) -> io::Result<()> {
        self.step().map_err(|_| down())?;
        change(&mut self.names);
        self.pending_names.push(self.names.clone());
        Ok(())
    }
}

impl Simulated {
    pub(super) fn new(seed: u64) -> Self {
        Self::with(HashMap::new(), BTreeMap::new(), 0, seed)
    }

    fn with(files: HashMap<u64, Content>, names: BTreeMap<String, u64>, next_file: u64, seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self(Arc::new(Mutex::new(World {
            files,
            durable_names: names.clone(),
            names,
            pending_names: Vec::new(),
            next_file,
            steps: 0,
            mishap: None,
            crashed: false,
            random: TestRng::from_seed(RngAlgorithm::ChaCha, &bytes),
        })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    pub(super) fn steps(&self) -> u64 {
        self.world().steps
    }

    pub(super) fn at(&self, step: u64, mishap: Mishap) {
        self.world().mishap = Some((step, mishap));
    }

    /// What is there after the crash: what was synced, and of the rest some, whole or in part.
    pub(super) fn survivor(&self, seed: u64) -> Self {
        let mut world = self.world();
        let World {
            files,
            durable_names,
            pending_names,
            random,
            ..
        } = &mut *world;
        let kept = random.random_range(0..=pending_names.len());
        let names = kept
            .checked_sub(1)
            .map_or(&*durable_names, |last| &pending_names[last])
            .clone();
        let mut survived = HashMap::new();
        for id in names.values() {
            let content = &files[id];
            let mut bytes = content.durable.clone();
            for change in &content.pending {
                match (random.random_range(0..3), change) {
                    (0, _) => {}
                    (1, Change::Write(offset, data)) => {
                        let part = random.random_range(0..=data.len());
                        Change::Write(*offset, data[..part].to_vec()).apply(&mut bytes);
                    }
                    (_, change) => change.apply(&mut bytes),
                }
            }
            survived.insert(
                *id,
                Content {
                    seen: bytes.clone(),
                    durable: bytes,
                    pending: Vec::new(),
                },
            );
        }
        Self::with(survived, names, world.next_file, seed)
    }

    /// Changes what is stored, as a bad disk does.
    pub(super) fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut world = self.world();
        let id = world.names[name];
        let content = world.files.get_mut(&id).unwrap();
        change(&mut content.seen);
        content.durable = content.seen.clone();
    }

    pub(super) fn put(&self, name: &str, bytes: Vec<u8>) {
        drop(self.create(name).unwrap());
        self.damage(name, |content| *content = bytes);
        self.sync().unwrap();
    }
}

impl Disk for Simulated {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.world().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let id = *self.world().names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(Open { disk: self.clone(), id }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.world();
        let id = world.next_file;
        world.next_file += 1;
        world.files.insert(id, Content::default());
        world.rename(|names| {
            names.insert(name.to_owned(), id);
        })?;
        drop(world);
        Ok(Arc::new(Open { disk: self.clone(), id }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.world().rename(|names| {
            let id = names.remove(from).expect("a name that is there");
            names.insert(to.to_owned(), id);
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.world().rename(|names| {
            names.remove(name);
        })
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.world();
        world.step().map_err(|_| down())?;
        world.durable_names = world.names.clone();
        world.pending_names.clear();
        Ok(())
    }
}

struct Open {
    disk: Simulated,
    id: u64,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "file {}", self.id)
    }
}

impl DiskFile for Open {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.world().files[&self.id].seen.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let world = self.disk.world();
        let offset = usize::try_from(offset).unwrap();
        let found = world.files[&self.id].seen.get(offset..offset + buffer.len());
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        self.disk.world().change(self.id, Change::Write(offset, data.to_vec()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).unwrap();
        self.disk.world().change(self.id, Change::SetLen(len))
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.disk.world();
        let stepped = world.step();
        let content = world.files.get_mut(&self.id).expect("an open file");
        match stepped {
            Ok(()) => {
                for change in std::mem::take(&mut content.pending) {
                    change.apply(&mut content.durable);
                }
                Ok(())
            }
            // The kernel reports it once and takes the pages for clean.
            Err(Mishap::Failure) => {
                content.pending.clear();
                Err(io::ErrorKind::StorageFull.into())
            }
            Err(Mishap::Crash) => Err(down()),
        }
    }
}
