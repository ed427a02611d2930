//! Makes a new store, or one of this format from one of the previous, which was a single redb file with the chunks in it.
//!
//! The old file is removed only when the new store is durable; a crash in between begins anew. Positions and store tag
//! stay, so that cursors go on to hold.

use super::{
    OpenError,
    disk::Disk,
    index::{self, Index, Sealed},
    log::{MARK_BYTES, SEGMENT_BYTES_MAX},
    segment::{self, Chunk, HEADER_BYTES},
};
use prost::Message as _;
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};
use staghound_proto::v1::{Item, item};
use std::{io, path::Path};

const OLD_FORMAT: u64 = 1;
const OLD_FILE: &str = "store.redb";
const OLD_FILE_NEW: &str = "store.redb.new";
const OLD_CHUNKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("chunks");
const OLD_WATERMARKS: TableDefinition<'_, (&str, &str), (u64, i64)> = TableDefinition::new("watermarks");
const OLD_META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Brings a directory into a state that can be opened.
pub(super) fn prepare(disk: &dyn Disk, path: &Path) -> Result<(), OpenError> {
    let directory = |source| OpenError::Directory {
        path: path.to_owned(),
        source,
    };
    let names = disk.list().map_err(directory)?;
    let has = |name: &str| names.iter().any(|found| found == name);
    if has(index::FILE_NEW) || has(OLD_FILE_NEW) {
        disk.remove(index::FILE_NEW).map_err(directory)?;
        disk.remove(OLD_FILE_NEW).map_err(directory)?;
        tracing::info!(path = %path.display(), "removed what a crash left of a store being made");
    }
    if has(index::FILE) {
        // Here a crash came after the migration and before its end.
        return if has(OLD_FILE) {
            disk.remove(OLD_FILE).map_err(directory)
        } else {
            Ok(())
        };
    }
    let segments = || names.iter().filter(|name| segment::parse_name(name).is_some());
    if !has(OLD_FILE) {
        if let Some(segment) = segments().next() {
            return Err(OpenError::Unreadable {
                path: path.join(index::FILE),
                reason: format!("it is missing although there are segments such as {segment}"),
            });
        }
        let unreadable = |error: redb::Error| OpenError::Unreadable {
            path: path.join(index::FILE),
            reason: error.to_string(),
        };
        let mut tag = [0; 4];
        getrandom::fill(&mut tag).map_err(|error| directory(io::Error::other(error.to_string())))?;
        let index = Index::make(disk, u32::from_be_bytes(tag), 1).map_err(unreadable)?;
        return index.put_in_place(disk).map_err(directory);
    }
    // Whatever a crash left of an earlier attempt.
    for name in segments() {
        disk.remove(name).map_err(directory)?;
    }
    let old = path.join(OLD_FILE);
    migrate(disk).map_err(|error| match error {
        Failed::Format(found) => OpenError::Format { path: old, found },
        Failed::Store(error) => OpenError::Unreadable {
            path: old,
            reason: error.to_string(),
        },
    })?;
    disk.remove(OLD_FILE).and_then(|()| disk.sync()).map_err(directory)?;
    tracing::info!(path = %path.display(), "store brought to the present format");
    Ok(())
}

enum Failed {
    Format(u64),
    Store(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

fn migrate(disk: &dyn Disk) -> Result<(), Failed> {
    let file = disk.open(OLD_FILE).map_err(redb::Error::Io)?;
    if file.len().map_err(redb::Error::Io)? == 0 {
        return Err(redb::Error::Corrupted("it is empty".to_owned()).into());
    }
    let database = index::database(file)?;
    let transaction = database.begin_read()?;
    let (format, tag, next) = {
        let meta = transaction.open_table(OLD_META)?;
        let number =
            |key, absent| -> Result<u64, redb::Error> { Ok(meta.get(key)?.map_or(absent, |value| value.value())) };
        (number("format", 0)?, number("tag", 0)?, number("next", 1)?)
    };
    if format != OLD_FORMAT {
        return Err(Failed::Format(format));
    }
    let tag = u32::try_from(tag).map_err(|_| redb::Error::Corrupted("its tag is none".to_owned()))?;
    let mut rows = Vec::new();
    let mut writing: Option<Writing> = None;
    for row in transaction.open_table(OLD_CHUNKS)?.iter()? {
        let (first, value) = row?;
        let first = first.value();
        let corrupt = |error| redb::Error::Corrupted(format!("the chunk at position {first} is no chunk: {error}"));
        let mut chunk = Chunk::decode(value.value()).map_err(corrupt)?;
        for stored in &mut chunk.items {
            // The previous format filled this in when it was read.
            let mut item = Item::decode(stored.item.clone()).map_err(corrupt)?;
            if let Some(item::Kind::Alert(alert)) = &mut item.kind {
                alert.ingest_time = chunk.ingest_time;
                stored.item = item.encode_to_vec().into();
            }
        }
        if let Some(full) = writing.take_if(|writing| writing.bytes.len() as u64 >= SEGMENT_BYTES_MAX) {
            rows.push(full.finish(disk, first)?);
        }
        writing
            .get_or_insert_with(|| Writing::new(tag, first))
            .add(first, &chunk);
    }
    if let Some(last) = writing {
        rows.push(last.finish(disk, next)?);
    }
    let index = Index::make(disk, tag, next)?;
    index.change(|change| {
        for (first, sealed) in &rows {
            change.seal(*first, sealed)?;
        }
        for row in transaction.open_table(OLD_WATERMARKS)?.iter()? {
            let (key, value) = row?;
            let ((agent_id, epoch), (through, time_s)) = (key.value(), value.value());
            change.watermarks([(agent_id, epoch, through, time_s)].into_iter())?;
        }
        Ok(())
    })?;
    index.put_in_place(disk).map_err(redb::Error::Io)?;
    Ok(())
}

/// A segment being written.
struct Writing {
    first: u64,
    bytes: Vec<u8>,
    sealed: Sealed,
}

impl Writing {
    fn new(tag: u32, first: u64) -> Self {
        Self {
            first,
            bytes: segment::header(tag, first).to_vec(),
            sealed: Sealed::default(),
        }
    }

    fn add(&mut self, first: u64, chunk: &Chunk) {
        let start = self.bytes.len() as u64;
        if self.sealed.mark_offsets.last().unwrap_or(&(HEADER_BYTES as u64)) + MARK_BYTES <= start {
            self.sealed.mark_positions.push(first);
            self.sealed.mark_offsets.push(start);
        }
        let count = u32::try_from(chunk.items.len()).expect("a batch holds at most a window of items");
        segment::write_frame(&mut self.bytes, first, start, count, chunk);
        let time_s = chunk.ingest_time.as_ref().map_or(0, |time| time.seconds);
        self.sealed.newest_s = self.sealed.newest_s.max(time_s);
        *self.sealed.agents.entry(chunk.agent_id.clone()).or_default() += self.bytes.len() as u64 - start;
    }

    fn finish(mut self, disk: &dyn Disk, end: u64) -> io::Result<(u64, Sealed)> {
        self.sealed.end = end;
        self.sealed.bytes = self.bytes.len() as u64;
        let file = disk.create(&segment::name(self.first))?;
        file.write_all_at(&self.bytes, 0)?;
        file.sync()?;
        disk.sync()?;
        Ok((self.first, self.sealed))
    }
}
