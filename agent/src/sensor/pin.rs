//! Pins: names in a BPF file system that keep programs, links, rings and tables alive when the agent is not.
//!
//! ```text
//! DIRECTORY/STATE            whose pins these are, and whether they are whole
//! DIRECTORY/TOLD             losses that an agent has told of
//! DIRECTORY/shared/MAP       rings, counters and the generation that reports: they outlive an upgrade
//! DIRECTORY/generation_N/…   maps, `program_NAME` and `link_NAME` of one kernel object
//! ```
//!
//! Invariant: nothing outside of these names is touched.

use std::{
    collections::BTreeSet,
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::fs::{DirBuilderExt as _, FileTypeExt as _},
    },
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData, RingBuf};
use staghound_ebpf::{
    Call, Chdir, Ended, Exec, Exit, Fork, Header, Kind, Loss, OPEN_DEMAND, Open, PathChange, Resolved, SYSCALLS_MAX,
    Socket,
};

use crate::sensor::{
    GENERATION, SensorError, bpf,
    hooks::{Family, PROGRAMS},
    load::{Maps, Running},
};

/// Where pins are by default.
pub const DIRECTORY: &str = "/sys/fs/bpf/staghound";

/// Raise it when the meaning of records or of shared maps changes while their sizes do not.
const ABI_VERSION: u64 = 1;
const MAGIC: u64 = u64::from_be_bytes(*b"staghnd1");
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Maps that outlive an upgrade.
pub(super) const SHARED: [&str; 5] = ["PROCESS_RING", "FILE_RING", "LOSSES", "AGENT", "SLEEPING"];

/// Elements of the map `STATE`.
mod element {
    pub(super) const MAGIC: u32 = 0;
    pub(super) const ABI: u32 = 1;
    pub(super) const OBJECT: u32 = 2;
    pub(super) const CONFIGURATION: u32 = 3;
    pub(super) const FAMILY: u32 = 4;
    pub(super) const WHOLE: u32 = 5;
    pub(super) const COUNT: u32 = 6;
}

/// Elements of the map `TOLD`: losses, then recursion misses of the programs in their order.
pub(super) const TOLD_LOSSES: u32 = 64;
const TOLD_COUNT: u32 = 128;
const _: () = assert!(Loss::ALL.len() <= TOLD_LOSSES as usize && PROGRAMS.len() <= 64);

/// What the records of two agents must have in common to be read from one ring.
fn abi() -> u64 {
    let sizes = [
        size_of::<Header>(),
        size_of::<Exec>(),
        size_of::<Fork>(),
        size_of::<Exit>(),
        size_of::<Open>(),
        size_of::<PathChange>(),
        size_of::<Chdir>(),
        size_of::<Socket>(),
        size_of::<Call>(),
        size_of::<Ended>(),
        size_of::<Resolved>(),
        Kind::ALL.len(),
        Loss::ALL.len(),
        SYSCALLS_MAX,
        OPEN_DEMAND as usize,
    ];
    let bytes: Vec<u8> = sizes.iter().flat_map(|size| size.to_ne_bytes()).collect();
    ABI_VERSION << 32 | u64::from(crc32c::crc32c(&bytes))
}

/// What is pinned, as an agent that starts finds it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing of ours.
    Nothing,
    /// The same object with the same settings: it can be used as it runs.
    Same(u32, Family),
    /// Another object, or other settings, whose records are the same: another generation can take over.
    Older(u32),
    /// What cannot be used, and why.
    Stale(String),
}

/// What identifies the programs of this agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) object: u32,
    pub(super) configuration: u32,
}

/// A pin, and what it must lead to.
struct Pin {
    path: PathBuf,
    object: OwnedFd,
    id: u32,
}

/// The pins of this agent. While it lives no other agent can use them.
pub(super) struct Pins {
    directory: PathBuf,
    /// Locks the directory; given back by the kernel when the agent ends, however it ends.
    _lock: fs::File,
    pins: Vec<Pin>,
}

impl Pins {
    /// Makes the directory, if it is not there, and locks it.
    pub(super) fn open(directory: &Path) -> Result<Self, SensorError> {
        let failed = |reason: String| failed(directory, reason);
        prepare(directory).map_err(failed)?;
        Ok(Self {
            _lock: lock(directory).map_err(failed)?,
            directory: directory.to_owned(),
            pins: Vec::new(),
        })
    }

    pub(super) fn shared(&self) -> PathBuf {
        self.directory.join("shared")
    }

    pub(super) fn generation(&self, generation: u32) -> PathBuf {
        self.directory.join(format!("generation_{generation}"))
    }

    /// What an earlier agent has left.
    pub(super) fn find(&self, identity: Identity) -> Found {
        if ours(&self.directory).is_empty() {
            return Found::Nothing;
        }
        let state: Array<MapData, u64> = match open_map(&self.directory.join("STATE")) {
            Ok(state) => state,
            Err(reason) => return Found::Stale(format!("there is no usable STATE: {reason}")),
        };
        let value = |element: u32| state.get(&element, 0).unwrap_or(0);
        if value(element::MAGIC) != MAGIC {
            return Found::Stale("STATE is not of this program".to_owned());
        }
        if value(element::WHOLE) != 1 {
            return Found::Stale("an agent ended while it was making them".to_owned());
        }
        if value(element::ABI) != abi() {
            return Found::Stale("their records are those of another version".to_owned());
        }
        if let Err(reason) = self.shared_maps() {
            return Found::Stale(reason);
        }
        let generation = match open_map::<Array<MapData, u32>>(&self.shared().join("AGENT")) {
            Ok(agent) => agent.get(&GENERATION, 0).unwrap_or(0),
            Err(reason) => return Found::Stale(reason),
        };
        let same = value(element::OBJECT) == u64::from(identity.object)
            && value(element::CONFIGURATION) == u64::from(identity.configuration);
        let family = match value(element::FAMILY) {
            0 => Some(Family::Raw),
            1 => Some(Family::Perf),
            _ => None,
        };
        match family {
            Some(family) if same => Found::Same(generation, family),
            _ => Found::Older(generation),
        }
    }

    /// Whether what is shared is what its names say.
    fn shared_maps(&self) -> Result<(), String> {
        let directory = self.shared();
        let at = |name: &str| directory.join(name);
        open_map::<RingBuf<MapData>>(&at("PROCESS_RING"))?;
        open_map::<RingBuf<MapData>>(&at("FILE_RING"))?;
        open_map::<aya::maps::PerCpuArray<MapData, u64>>(&at("LOSSES"))?;
        open_map::<Array<MapData, u32>>(&at("AGENT"))?;
        open_map::<Array<MapData, u32>>(&at("SLEEPING"))?;
        Ok(())
    }

    /// Removes everything of ours, and yields how many records nobody will read.
    pub(super) fn clear(&mut self) -> Result<u64, SensorError> {
        let paths = ours(&self.directory);
        // Links first, so that the rings are at rest when they are counted.
        let (links, others): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| is_link(path));
        remove(&links).map_err(|reason| failed(&self.directory, reason))?;
        let mut unread = 0;
        for ring in ["PROCESS_RING", "FILE_RING"] {
            if let Ok(mut ring) = open_map::<RingBuf<MapData>>(&self.shared().join(ring)) {
                while ring.next().is_some() {
                    unread += 1;
                }
            }
        }
        remove(&others).map_err(|reason| failed(&self.directory, reason))?;
        Ok(unread)
    }

    /// Removes what does not belong to this generation.
    pub(super) fn clear_but(&self, generation: u32) -> Result<(), SensorError> {
        let kept = self.generation(generation);
        let mut paths = ours(&self.directory);
        paths.retain(|path| {
            let relative = path.strip_prefix(&self.directory).unwrap_or(path);
            relative.to_string_lossy().starts_with("generation_") && !path.starts_with(&kept)
        });
        paths.sort_by_key(|path| !is_link(path));
        remove(&paths).map_err(|reason| failed(&self.directory, reason))
    }

    /// Says whose the pins are going to be. They are no use to anybody before [`Self::complete`].
    pub(super) fn begin(&mut self) -> Result<(), SensorError> {
        let map = |error: aya::maps::MapError| failed(&self.directory, error.to_string());
        let mut state: Array<MapData, u64> = Array::create(element::COUNT, 0).map_err(map)?;
        state.set(element::MAGIC, MAGIC, 0).map_err(map)?;
        let told: Array<MapData, u64> = Array::create(TOLD_COUNT, 0).map_err(map)?;
        state
            .pin(self.directory.join("STATE"))
            .map_err(|error| failed(&self.directory, error.to_string()))?;
        told.pin(self.directory.join("TOLD"))
            .map_err(|error| failed(&self.directory, error.to_string()))?;
        make_directory(&self.shared()).map_err(|reason| failed(&self.directory, reason))
    }

    /// Says that everything is pinned, and of which object.
    pub(super) fn complete(&mut self, identity: Identity, family: Family) -> Result<(), SensorError> {
        let refused = |reason: String| failed(&self.directory, reason);
        let mut state: Array<MapData, u64> = open_map(&self.directory.join("STATE")).map_err(refused)?;
        let family = match family {
            Family::Raw => 0,
            Family::Perf => 1,
        };
        for (element, value) in [
            (element::MAGIC, MAGIC),
            (element::ABI, abi()),
            (element::OBJECT, u64::from(identity.object)),
            (element::CONFIGURATION, u64::from(identity.configuration)),
            (element::FAMILY, family),
            (element::WHOLE, 1),
        ] {
            state
                .set(element, value, 0)
                .map_err(|error| failed(&self.directory, error.to_string()))?;
        }
        for name in ["STATE", "TOLD"] {
            self.remember(self.directory.join(name))?;
        }
        Ok(())
    }

    /// The map of the losses that were told of.
    pub(super) fn told(&self) -> Result<Array<MapData, u64>, SensorError> {
        open_map(&self.directory.join("TOLD")).map_err(|reason| failed(&self.directory, reason))
    }

    /// Pins what is shared, unless it is already.
    pub(super) fn pin_shared(&mut self, maps: &Maps) -> Result<(), SensorError> {
        for name in SHARED {
            let path = self.shared().join(name);
            if !path.exists() {
                self.pin_map(maps, name, &path)?;
            }
            self.remember(path)?;
        }
        Ok(())
    }

    /// Pins the maps, programs and links of a generation.
    pub(super) fn pin_generation(
        &mut self,
        generation: u32,
        maps: &Maps,
        running: &[Running],
    ) -> Result<(), SensorError> {
        let directory = self.generation(generation);
        make_directory(&directory).map_err(|reason| failed(&self.directory, reason))?;
        for name in Maps::NAMES.into_iter().filter(|name| !SHARED.contains(name)) {
            let path = directory.join(name);
            self.pin_map(maps, name, &path)?;
            self.remember(path)?;
        }
        for running in running {
            let path = directory.join(format!("program_{}", running.name));
            self.pin_object(running.program.as_fd(), path)?;
            match &running.link {
                Some(bpf::Link::Object(link)) => {
                    let path = directory.join(format!("link_{}", running.name));
                    self.pin_object(link.as_fd(), path)?;
                }
                Some(bpf::Link::Event(_)) => {
                    return Err(failed(
                        &self.directory,
                        "before 5.15 a program on a perf event cannot be pinned; start with --sensor-hook=raw"
                            .to_owned(),
                    ));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Keeps watch over the pins of a generation that was found.
    pub(super) fn remember_all(&mut self, generation: u32) -> Result<(), SensorError> {
        let kept = self.generation(generation);
        for path in ours(&self.directory) {
            let shared = path.parent() == Some(self.directory.as_path()) || path.starts_with(self.shared());
            if !path.is_dir() && (shared || path.starts_with(&kept)) {
                self.remember(path)?;
            }
        }
        Ok(())
    }

    fn pin_map(&self, maps: &Maps, name: &'static str, path: &Path) -> Result<(), SensorError> {
        maps.pin(name, path).map_err(|reason| failed(&self.directory, reason))
    }

    fn pin_object(&mut self, object: std::os::fd::BorrowedFd<'_>, path: PathBuf) -> Result<(), SensorError> {
        bpf::pin(object, &path).map_err(|error| failed(&self.directory, format!("{}: {error}", path.display())))?;
        self.remember(path)
    }

    fn remember(&mut self, path: PathBuf) -> Result<(), SensorError> {
        let failed = |error: io::Error| failed(&self.directory, format!("{}: {error}", path.display()));
        let object = bpf::open_pin(&path).map_err(failed)?;
        let id = bpf::object_id(object.as_fd()).map_err(failed)?;
        self.pins.push(Pin { path, object, id });
        Ok(())
    }

    /// The pins that do not lead to what they led to, with what was found and whether it could be put right.
    pub(super) fn check(&self) -> Vec<(PathBuf, String, Result<(), String>)> {
        let mut wrong = Vec::new();
        for pin in &self.pins {
            let found = match bpf::open_pin(&pin.path).and_then(|object| bpf::object_id(object.as_fd())) {
                Ok(id) if id == pin.id => continue,
                Ok(_) => "the pin leads to something else".to_owned(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => "the pin was removed".to_owned(),
                Err(error) => format!("the pin cannot be opened: {error}"),
            };
            wrong.push((pin.path.clone(), found, pin_again(pin)));
        }
        wrong
    }
}

fn pin_again(pin: &Pin) -> Result<(), String> {
    if let Some(parent) = pin.path.parent() {
        make_directory(parent)?;
    }
    match fs::remove_file(&pin.path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.to_string()),
    }
    bpf::pin(pin.object.as_fd(), &pin.path).map_err(|error| error.to_string())
}

/// Removes everything that an agent pinned there, which detaches its programs; yields what was removed.
///
/// # Errors
/// There is nothing, an agent is using it, or it cannot be removed.
pub fn unpin(directory: &Path) -> Result<Vec<PathBuf>, SensorError> {
    let failed = |reason: String| failed(directory, reason);
    if !directory.exists() {
        return Err(failed("nothing is pinned there".to_owned()));
    }
    let _lock = lock(directory).map_err(failed)?;
    let mut paths = ours(directory);
    paths.sort_by_key(|path| !is_link(path));
    remove(&paths).map_err(failed)?;
    match fs::remove_dir(directory) {
        Ok(()) => paths.push(directory.to_owned()),
        Err(error) => tracing::warn!("{} stays: {error}", directory.display()),
    }
    Ok(paths)
}

/// Whether the directory is on a BPF file system; mounts one at its usual place if need be.
fn prepare(directory: &Path) -> Result<(), String> {
    const USUAL: &str = "/sys/fs/bpf";
    let parent = directory.parent().unwrap_or(directory);
    if !is_bpf_fs(parent) && directory.starts_with(USUAL) {
        // SAFETY: all strings are NUL-terminated, and the kernel keeps none of them.
        let status = unsafe {
            libc::mount(
                c"bpf".as_ptr(),
                c"/sys/fs/bpf".as_ptr(),
                c"bpf".as_ptr(),
                libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
                std::ptr::null(),
            )
        };
        if status < 0 {
            return Err(format!(
                "no BPF file system is mounted at {USUAL}, and it cannot be: {}; run `mount -t bpf bpf {USUAL}`",
                io::Error::last_os_error()
            ));
        }
    }
    if !is_bpf_fs(parent) {
        return Err(format!(
            "{} is not on a BPF file system; name a directory below {USUAL}",
            parent.display()
        ));
    }
    make_directory(directory)
}

fn is_bpf_fs(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    let mut found = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `path` is NUL-terminated, and `found` has room for what the kernel writes.
    let status = unsafe { libc::statfs(path.as_ptr(), found.as_mut_ptr()) };
    // SAFETY: zeroed memory is a valid `statfs`, whether or not the kernel wrote to it.
    status == 0 && unsafe { found.assume_init() }.f_type == BPF_FS_MAGIC
}

fn make_directory(path: &Path) -> Result<(), String> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(format!("{} cannot be made: {error}", path.display())),
    }
}

fn lock(directory: &Path) -> Result<fs::File, String> {
    let file = fs::File::open(directory).map_err(|error| error.to_string())?;
    // SAFETY: takes numbers only.
    let status = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if status < 0 {
        let error = io::Error::last_os_error();
        return Err(match error.raw_os_error() {
            Some(libc::EWOULDBLOCK) => {
                "another agent uses it; stop that one first, or name another directory".to_owned()
            }
            _ => format!("it cannot be locked: {error}"),
        });
    }
    Ok(file)
}

/// Every path below the directory that an agent makes there: files before the directories they are in.
fn ours(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let programs: BTreeSet<String> = PROGRAMS
        .iter()
        .flat_map(|program| [format!("program_{}", program.name), format!("link_{}", program.name)])
        .collect();
    for entry in entries(directory) {
        let Some(name) = entry.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let is_ours: &dyn Fn(&str) -> bool = match name {
            "STATE" | "TOLD" => {
                found.push(entry);
                continue;
            }
            "shared" => &|name| SHARED.contains(&name),
            _ if name
                .strip_prefix("generation_")
                .is_some_and(|rest| rest.parse::<u32>().is_ok()) =>
            {
                &|name| Maps::NAMES.contains(&name) || programs.contains(name)
            }
            _ => continue,
        };
        for inner in entries(&entry) {
            if inner.file_name().and_then(|name| name.to_str()).is_some_and(is_ours) {
                found.push(inner);
            }
        }
        found.push(entry);
    }
    found
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

fn is_link(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("link_"))
}

/// Removes files and directories. A directory that holds something else stays, and is told.
fn remove(paths: &[PathBuf]) -> Result<(), String> {
    for path in paths {
        let kind = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("{} cannot be removed: {error}", path.display())),
        };
        if kind.is_dir() {
            if let Err(error) = fs::remove_dir(path) {
                tracing::warn!("{} stays: {error}", path.display());
            }
        } else if kind.is_socket() || kind.is_fifo() {
            tracing::warn!("{} stays: it is no pin", path.display());
        } else {
            fs::remove_file(path).map_err(|error| format!("{} cannot be removed: {error}", path.display()))?;
        }
    }
    Ok(())
}

/// Opens a pinned map as what it is thought to be.
pub(super) fn open_map<T>(path: &Path) -> Result<T, String>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let data = MapData::from_pin(path).map_err(|error| told(&error))?;
    let map = Map::from_map_data(data).map_err(|error| told(&error))?;
    map.try_into().map_err(|error: aya::maps::MapError| told(&error))
}

fn failed(directory: &Path, reason: String) -> SensorError {
    SensorError::Pin {
        directory: directory.to_owned(),
        reason,
    }
}
