//! The files of a spool's directory beside the bytes in its segments: names, lock, epoch, watermark, gaps, marker.

use super::disk::{self, Disk, DiskFile, HostDisk, MemoryDisk};
use super::lane::Lane;
use super::segment::EpochBytes;
use super::{SpoolError, foreign};
use staghound_proto::v1::GapReason;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// How long to ask for the lock. The one who has it may be ending, or be a process that an agent just forked and that
/// drops the lock as soon as it executes its program.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_RETRY: Duration = Duration::from_millis(10);
/// The longest of the small files that is read.
const SMALL_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// What stands below the epoch since there is a file for each lane. An agent that does not know it refuses the directory
/// instead of giving the same sequences out again.
const FORMAT_LINE: &str = "format 2";

/// Items that are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// First lost sequence.
    pub from: u64,
    /// Last lost sequence.
    pub to: u64,
    /// Why.
    pub reason: GapReason,
}

/// The name of a segment: its first sequence and its lane. Those of the previous format have no lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// The first sequence it may hold.
    pub first: u64,
    /// Which items; none for the previous format, which keeps all in one file.
    pub lane: Option<Lane>,
}

impl Name {
    pub(super) fn text(self) -> String {
        match self.lane {
            Some(lane) => format!("{:020}-{}.segment", self.first, lane.name()),
            None => format!("{:020}.segment", self.first),
        }
    }

    fn parse(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".segment")?;
        let (digits, lane) = match stem.split_once('-') {
            Some((digits, lane)) => (digits, Some(Lane::ALL.into_iter().find(|known| known.name() == lane)?)),
            None => (stem, None),
        };
        if digits.len() != 20 {
            return None;
        }
        // Sequences beyond half the range cannot have been counted up to; refusing them keeps arithmetic plain.
        let first = digits.parse().ok().filter(|first| (1..u64::MAX / 2).contains(first))?;
        Some(Self { first, lane })
    }
}

/// The directory of one spool.
pub(super) struct Directory {
    path: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Directory {
    /// Makes the directory if needed and takes its lock, which is held as long as the file that comes with it.
    pub(super) fn open(path: &Path) -> Result<(Self, File), SpoolError> {
        let io = |action| {
            move |source| SpoolError::Io {
                path: path.to_owned(),
                action,
                source,
            }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io("make the directory"))?;
        let disk = HostDisk::open(path.to_owned()).map_err(io("open the directory"))?;
        let lock = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(io("open its lock file"))?;
        let asked = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => {
                    let directory = Self {
                        path: path.to_owned(),
                        disk: Arc::new(disk),
                    };
                    return Ok((directory, lock));
                }
                Err(TryLockError::WouldBlock) if asked.elapsed() < LOCK_PATIENCE => thread::sleep(LOCK_RETRY),
                Err(TryLockError::WouldBlock) => return Err(SpoolError::Locked(path.to_owned())),
                Err(TryLockError::Error(source)) => return Err(io("lock it")(source)),
            }
        }
    }

    /// A directory in memory.
    pub(super) fn in_memory() -> Self {
        Self {
            path: PathBuf::from("(memory)"),
            disk: Arc::new(MemoryDisk::default()),
        }
    }

    /// A directory on a disk of a test's.
    #[cfg(test)]
    pub(super) fn on(disk: Arc<dyn Disk>) -> Self {
        Self {
            path: PathBuf::from("(test)"),
            disk,
        }
    }

    /// For errors: where a segment is.
    pub(super) fn path_of(&self, name: Name) -> PathBuf {
        self.path.join(name.text())
    }

    pub(super) fn open_segment(&self, name: Name, writable: bool) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(&name.text(), writable)
    }

    pub(super) fn create_segment(&self, name: Name) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(&name.text())
    }

    /// Reads the epoch, or makes one where no spool was yet.
    pub(super) fn epoch(&self) -> Result<EpochBytes, SpoolError> {
        let path = self.path.join("epoch");
        match self.read_small("epoch") {
            Ok(text) => {
                let (digits, format) = match text.trim_end().split_once('\n') {
                    Some((digits, format)) => (digits, Some(format)),
                    None => (text.trim_end(), None),
                };
                let Some(epoch) = parse_epoch(digits) else {
                    return Err(foreign(path, "is not 32 hexadecimal digits"));
                };
                match format {
                    Some(FORMAT_LINE) => {}
                    Some(other) => {
                        let what = format!("says `{}`, which this agent does not know", other.escape_debug());
                        return Err(foreign(path, &what));
                    }
                    // Written by the previous version, which would not see what this one adds.
                    None => self.write_epoch(epoch)?,
                }
                Ok(epoch)
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(foreign(path, "is not text")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !self.segments()?.is_empty() {
                    return Err(foreign(path, "is missing although there are segments"));
                }
                let mut epoch = EpochBytes::default();
                getrandom::fill(&mut epoch).map_err(|error| SpoolError::Io {
                    path,
                    action: "make a random epoch",
                    source: io::Error::other(error.to_string()),
                })?;
                self.write_epoch(epoch)?;
                Ok(epoch)
            }
            Err(source) => Err(SpoolError::Io {
                path,
                action: "read it",
                source,
            }),
        }
    }

    fn write_epoch(&self, epoch: EpochBytes) -> Result<(), SpoolError> {
        let text = format!("{:032x}\n{FORMAT_LINE}\n", u128::from_be_bytes(epoch));
        self.replace("epoch", &text)
    }

    /// Every segment file with its length, by first sequence.
    pub(super) fn segments(&self) -> Result<Vec<(Name, u64)>, SpoolError> {
        let io = |source| SpoolError::Io {
            path: self.path.clone(),
            action: "list it",
            source,
        };
        let mut segments = Vec::new();
        for name in self
            .disk
            .names()
            .map_err(io)?
            .iter()
            .filter_map(|name| Name::parse(name))
        {
            let bytes = self
                .open_segment(name, false)
                .and_then(|file| file.length())
                .map_err(|source| SpoolError::Io {
                    path: self.path_of(name),
                    action: "look at it",
                    source,
                })?;
            segments.push((name, bytes));
        }
        segments.sort_unstable_by_key(|(name, _)| name.first);
        Ok(segments)
    }

    pub(super) fn unlink(&self, name: Name) -> Result<(), SpoolError> {
        match self.disk.unlink(&name.text()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SpoolError::Io {
                path: self.path_of(name),
                action: "unlink it",
                source: error,
            }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Makes names in the directory durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.disk.sync()
    }

    /// The watermark; 0 when there is none or it is damaged, which only means to send again.
    pub(super) fn read_acked(&self) -> u64 {
        self.read_checked("acked")
            .and_then(|text| text.trim_end().parse().ok())
            .filter(|&acked| acked < u64::MAX / 2)
            .unwrap_or(0)
    }

    pub(super) fn write_acked(&self, acked: u64) -> Result<(), SpoolError> {
        self.write_checked("acked", &format!("{acked}\n"))
    }

    /// The gaps; none when they are damaged: holes between segments are found without them.
    pub(super) fn read_lost(&self) -> Vec<Record> {
        let mut lost: Vec<Record> = self
            .read_checked("lost")
            .map(|text| text.lines().map_while(parse_record).collect())
            .unwrap_or_default();
        lost.sort_unstable_by_key(|record| record.from);
        lost
    }

    pub(super) fn write_lost(&self, lost: &[Record]) -> Result<(), SpoolError> {
        let lines: String = lost
            .iter()
            .map(|lost| format!("{} {} {}\n", lost.from, lost.to, i32::from(lost.reason)))
            .collect();
        self.write_checked("lost", &lines)
    }

    /// When the last agent here was known to live, if it did not end orderly.
    pub(super) fn alive_since(&self) -> Result<Option<SystemTime>, SpoolError> {
        let path = self.path.join("running");
        match self.disk.open("running", false).and_then(|file| file.modified()) {
            Ok(time) => Ok(Some(time)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SpoolError::Io {
                path,
                action: "look at it",
                source,
            }),
        }
    }

    /// Says that an agent is running, and that it was alive now.
    pub(super) fn mark_alive(&self) -> Result<(), SpoolError> {
        let path = self.path.join("running");
        let marked = match self.disk.open("running", true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.disk.create("running"),
            opened => opened,
        };
        let marked = marked.and_then(|file| file.touch());
        marked.map_err(|source| SpoolError::Io {
            path,
            action: "mark it as in use",
            source,
        })
    }

    /// Makes the marker survive a power cut, so that this start is never taken for an orderly end.
    pub(super) fn sync_marker(&self) -> Result<(), SpoolError> {
        self.sync().map_err(|source| SpoolError::Io {
            path: self.path.clone(),
            action: "sync it",
            source,
        })
    }

    /// Says that the agent ended orderly.
    pub(super) fn mark_ended(&self) -> Result<(), SpoolError> {
        let path = self.path.join("running");
        self.disk
            .unlink("running")
            .and_then(|()| self.sync())
            .map_err(|source| SpoolError::Io {
                path,
                action: "mark it as closed",
                source,
            })
    }

    fn read_small(&self, name: &str) -> io::Result<String> {
        let bytes = disk::read_whole(&*self.disk.open(name, false)?, SMALL_FILE_BYTES_MAX)?;
        String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn read_checked(&self, name: &str) -> Option<String> {
        let text = self.read_small(name).ok()?;
        let (checksum, body) = text.split_once('\n')?;
        (u32::from_str_radix(checksum, 16).ok()? == crc32c::crc32c(body.as_bytes())).then(|| body.to_owned())
    }

    fn write_checked(&self, name: &str, body: &str) -> Result<(), SpoolError> {
        self.replace(name, &format!("{:08x}\n{body}", crc32c::crc32c(body.as_bytes())))
    }

    /// Replaces a file durably: at any moment either the old or the new content is there.
    fn replace(&self, name: &str, content: &str) -> Result<(), SpoolError> {
        // One name for all attempts: what a crash leaves behind is overwritten by the next.
        let temporary = format!("{name}.new");
        let replaced = (|| {
            let file = self.disk.create(&temporary)?;
            file.write_at(content.as_bytes(), 0)?;
            file.sync()?;
            self.disk.rename(&temporary, name)?;
            self.sync()
        })();
        replaced.map_err(|source| SpoolError::Io {
            path: self.path.join(name),
            action: "write it",
            source,
        })
    }
}

fn parse_epoch(text: &str) -> Option<EpochBytes> {
    let is_epoch = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_epoch
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
        .map(u128::to_be_bytes)
}

fn parse_record(line: &str) -> Option<Record> {
    let mut words = line.split(' ');
    let (from, to) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let reason = GapReason::try_from(words.next()?.parse::<i32>().ok()?).ok()?;
    (1 <= from && from <= to && to < u64::MAX / 2).then_some(Record { from, to, reason })
}
