//! The files of a spool as the spool sees them: a flat directory of names, with explicit syncs.
//!
//! A trait, so that tests can let the power fail between any two operations, and so that an agent whose state directory
//! cannot be used keeps its items in memory by the same code.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// A directory of files. What is not synced may be gone after a crash, in whole or in part.
pub(super) trait Disk: Send + Sync {
    /// The names of all files.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Opens a file, to read it or also to write to it.
    fn open(&self, name: &str, writable: bool) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes an empty file in the place of any that has the name.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Gives a file the name of another, which is gone then.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name.
    fn unlink(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync(&self) -> io::Result<()>;
}

/// A file of a [`Disk`].
pub(super) trait DiskFile: Send + Sync {
    /// How long it is.
    fn length(&self) -> io::Result<u64>;
    /// Reads into `buffer`; 0 at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Reserves room for so many bytes in all; the length stays.
    fn reserve(&self, bytes: u64) -> io::Result<()>;
    /// Cuts it off, and gives back what was reserved behind.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// Makes its content durable.
    fn sync(&self) -> io::Result<()>;
    /// When it was last changed.
    fn modified(&self) -> io::Result<SystemTime>;
    /// Says that it was changed now.
    fn touch(&self) -> io::Result<()>;
}

/// All bytes of a file of at most `bytes_max`.
pub(super) fn read_whole(file: &dyn DiskFile, bytes_max: u64) -> io::Result<Vec<u8>> {
    let length = file.length()?;
    if length > bytes_max {
        return Err(io::Error::other(format!(
            "is longer than the {bytes_max} bytes it can have"
        )));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    let filled = fill(file, &mut bytes, 0)?;
    bytes.truncate(filled);
    Ok(bytes)
}

/// Reads until `buffer` is full or the file ends; says how much came.
pub(super) fn fill(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A directory of the host.
pub(super) struct HostDisk {
    path: PathBuf,
    handle: File,
}

impl HostDisk {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let handle = File::open(&path)?;
        Ok(Self { path, handle })
    }
}

impl Disk for HostDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            // Names that are no text are none of ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn open(&self, name: &str, writable: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(writable)
            .open(self.path.join(name))?;
        Ok(Arc::new(file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.create(true).read(true).write(true).truncate(true).mode(0o600);
        Ok(Arc::new(options.open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let bytes = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
        // The length stays, so that it goes on telling where the frames end.
        // SAFETY: fallocate(2) touches no memory of ours, and the descriptor is open as long as `self`.
        let status = unsafe { libc::fallocate(self.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, bytes) };
        match status {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.metadata()?.modified()
    }

    fn touch(&self) -> io::Result<()> {
        self.set_modified(SystemTime::now())
    }
}

/// A directory that lives as long as this process.
#[derive(Default)]
pub(super) struct MemoryDisk {
    files: Mutex<BTreeMap<String, Arc<MemoryFile>>>,
}

impl MemoryDisk {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<MemoryFile>>> {
        // Each change is a single step, so a panic elsewhere leaves nothing half done.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for MemoryDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().keys().cloned().collect())
    }

    fn open(&self, name: &str, _writable: bool) -> io::Result<Arc<dyn DiskFile>> {
        match self.lock().get(name) {
            Some(file) => Ok(Arc::clone(file) as Arc<dyn DiskFile>),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = Arc::new(MemoryFile::default());
        self.lock().insert(name.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.lock();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        match self.lock().remove(name) {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct MemoryFile {
    bytes: Mutex<Vec<u8>>,
}

impl MemoryFile {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DiskFile for MemoryFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.lock().len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.lock();
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let read = buffer.len().min(bytes.len() - from);
        buffer[..read].copy_from_slice(&bytes[from..from + read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut file = self.lock();
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        if file.len() < from + bytes.len() {
            file.resize(from + bytes.len(), 0);
        }
        file[from..from + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn reserve(&self, _bytes: u64) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut file = self.lock();
        file.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
        file.shrink_to_fit();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn modified(&self) -> io::Result<SystemTime> {
        Ok(SystemTime::now())
    }

    fn touch(&self) -> io::Result<()> {
        Ok(())
    }
}
