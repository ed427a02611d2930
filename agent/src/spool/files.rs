//! The files of a spool's directory beside the bytes in its segments: names, lock, epoch, watermark, gaps, marker.

use super::segment::EpochBytes;
use super::{Segment, SpoolError, foreign};
use staghound_proto::v1::GapReason;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// How long to ask for the lock. The one who has it may be ending, or be a process that an agent just forked and that
/// drops the lock as soon as it executes its program.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_RETRY: Duration = Duration::from_millis(10);

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

/// A directory this process has the lock of.
pub(super) struct Directory {
    path: PathBuf,
    handle: File,
}

impl Directory {
    /// Makes the directory if needed and takes its lock.
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
        let handle = File::open(path).map_err(io("open the directory"))?;
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
                    return Ok((
                        Self {
                            path: path.to_owned(),
                            handle,
                        },
                        lock,
                    ));
                }
                Err(TryLockError::WouldBlock) if asked.elapsed() < LOCK_PATIENCE => thread::sleep(LOCK_RETRY),
                Err(TryLockError::WouldBlock) => return Err(SpoolError::Locked(path.to_owned())),
                Err(TryLockError::Error(source)) => return Err(io("lock it")(source)),
            }
        }
    }

    /// Reads the epoch, or makes one where no spool was yet.
    pub(super) fn epoch(&self) -> Result<EpochBytes, SpoolError> {
        let path = self.path.join("epoch");
        match std::fs::read_to_string(&path) {
            Ok(text) => parse_epoch(text.trim_end()).ok_or_else(|| foreign(path, "is not 32 hexadecimal digits")),
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
                let text = format!("{:032x}\n", u128::from_be_bytes(epoch));
                self.replace("epoch", &text)?;
                Ok(epoch)
            }
            Err(source) => Err(SpoolError::Io {
                path,
                action: "read it",
                source,
            }),
        }
    }

    /// Every segment file, by first sequence; ends are not known yet.
    pub(super) fn segments(&self) -> Result<Vec<Segment>, SpoolError> {
        let io = |source| SpoolError::Io {
            path: self.path.clone(),
            action: "list it",
            source,
        };
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(io)? {
            let entry = entry.map_err(io)?;
            if let Some(first) = entry.file_name().to_str().and_then(parse_segment_name) {
                let bytes = entry.metadata().map_err(io)?.len();
                segments.push(Segment {
                    first,
                    end: first - 1,
                    bytes,
                });
            }
        }
        segments.sort_unstable_by_key(|segment| segment.first);
        Ok(segments)
    }

    pub(super) fn segment_path(&self, first: u64) -> PathBuf {
        self.path.join(format!("{first:020}.segment"))
    }

    pub(super) fn unlink(&self, first: u64) -> Result<(), SpoolError> {
        let path = self.segment_path(first);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SpoolError::Io {
                path,
                action: "unlink it",
                source: error,
            }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Makes names in the directory durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
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
        match std::fs::metadata(&path).and_then(|metadata| metadata.modified()) {
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
        let marked = (|| {
            let file = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)?;
            file.set_modified(SystemTime::now())
        })();
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
        std::fs::remove_file(&path)
            .and_then(|()| self.sync())
            .map_err(|source| SpoolError::Io {
                path,
                action: "mark it as closed",
                source,
            })
    }

    fn read_checked(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.path.join(name)).ok()?;
        let (checksum, body) = text.split_once('\n')?;
        (u32::from_str_radix(checksum, 16).ok()? == crc32c::crc32c(body.as_bytes())).then(|| body.to_owned())
    }

    fn write_checked(&self, name: &str, body: &str) -> Result<(), SpoolError> {
        self.replace(name, &format!("{:08x}\n{body}", crc32c::crc32c(body.as_bytes())))
    }

    /// Replaces a file durably: at any moment either the old or the new content is there.
    fn replace(&self, name: &str, content: &str) -> Result<(), SpoolError> {
        let path = self.path.join(name);
        // One name for all attempts: what a crash leaves behind is overwritten by the next.
        let temporary = self.path.join(format!("{name}.new"));
        let replaced = (|| {
            let mut file = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(content.as_bytes())?;
            file.sync_data()?;
            std::fs::rename(&temporary, &path)?;
            self.sync()
        })();
        replaced.map_err(|source| SpoolError::Io {
            path,
            action: "write it",
            source,
        })
    }
}

fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".segment").filter(|digits| digits.len() == 20)?;
    // Sequences beyond half the range cannot have been counted up to; refusing them keeps arithmetic plain.
    digits.parse().ok().filter(|first| (1..u64::MAX / 2).contains(first))
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
