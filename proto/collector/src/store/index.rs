//! What is not in the segments: which there are, watermarks as of the last sealed one, positions of consumers, agents.
//!
//! Small, and written seldom: when a segment is sealed, when consumers move on, when agents come. What the active
//! segment says is newer and is read from it at open, so that an acknowledgement costs one sync, not two.

use super::{
    AgentRecord,
    disk::{Disk, DiskFile},
};
use prost::Message as _;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction};
use std::{collections::BTreeMap, io, sync::Arc};

/// The version of segments and index; recorded in every index and checked at open.
pub(super) const FORMAT: u64 = 2;
pub(super) const FILE: &str = "index.redb";
/// Where an index is made, before it is moved to its name: a crash while making it leaves no half index.
pub(super) const FILE_NEW: &str = "index.redb.new";
const CACHE_BYTES: usize = 4 << 20;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const META_FORMAT: &str = "format";
/// Random; part of every cursor.
const META_TAG: &str = "tag";
/// Position after the last sealed segment: where the active one begins.
const META_ACTIVE: &str = "active";
/// First position → encoded [`Sealed`].
const SEGMENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("segments");
/// (agent, epoch) → (last durable sequence, seconds since 1970 when it was last advanced).
const WATERMARKS: TableDefinition<'_, (&str, &str), (u64, i64)> = TableDefinition::new("watermarks");
/// Name of a consumer → (position of the next entry, seconds since 1970 when it was last advanced).
const POSITIONS: TableDefinition<'_, &str, (u64, i64)> = TableDefinition::new("positions");
/// Agent → encoded [`AgentRecord`].
const AGENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("agents");

/// A segment that nothing is added to any more.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Sealed {
    /// Position after the last item.
    #[prost(uint64, tag = "1")]
    pub(super) end: u64,
    /// Length of the file.
    #[prost(uint64, tag = "2")]
    pub(super) bytes: u64,
    /// When its newest item was stored, in seconds since 1970.
    #[prost(int64, tag = "3")]
    pub(super) newest_s: i64,
    /// Positions of some frames, ascending, and where in the file they begin.
    #[prost(uint64, repeated, tag = "4")]
    pub(super) mark_positions: Vec<u64>,
    #[prost(uint64, repeated, tag = "5")]
    pub(super) mark_offsets: Vec<u64>,
    /// What each agent has in it.
    #[prost(btree_map = "string, uint64", tag = "6")]
    pub(super) agents: BTreeMap<String, u64>,
}

/// What an index has when it is opened.
pub(super) struct Contents {
    pub(super) tag: u32,
    pub(super) active: u64,
    pub(super) sealed: Vec<(u64, Sealed)>,
    pub(super) agents: Vec<AgentRecord>,
}

pub(super) struct Index {
    database: Database,
}

/// redb on a [`Disk`].
#[derive(Debug)]
struct Backend(Arc<dyn DiskFile>);

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

pub(super) fn database(file: Arc<dyn DiskFile>) -> Result<Database, redb::Error> {
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(Backend(file))?;
    Ok(database)
}

/// Why an index did not open.
pub(super) enum BadIndex {
    Format(u64),
    Unreadable(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for BadIndex {
    fn from(error: E) -> Self {
        Self::Unreadable(error.into())
    }
}

impl Index {
    /// Makes an index under a name of its own; [`Index::put_in_place`] gives it the final one.
    pub(super) fn make(disk: &dyn Disk, tag: u32, active: u64) -> Result<Self, redb::Error> {
        let database = database(disk.create(FILE_NEW)?)?;
        let index = Self { database };
        let transaction = index.begin()?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert(META_FORMAT, FORMAT)?;
            meta.insert(META_TAG, u64::from(tag))?;
            meta.insert(META_ACTIVE, active)?;
            transaction.open_table(SEGMENTS)?;
            transaction.open_table(WATERMARKS)?;
            transaction.open_table(POSITIONS)?;
            transaction.open_table(AGENTS)?;
        }
        transaction.commit()?;
        Ok(index)
    }

    /// Gives a new index its name, after which the store is one. The index is closed before.
    pub(super) fn put_in_place(self, disk: &dyn Disk) -> io::Result<()> {
        drop(self);
        disk.open(FILE_NEW)?.sync()?;
        disk.rename(FILE_NEW, FILE)?;
        disk.sync()
    }

    pub(super) fn open(disk: &dyn Disk) -> Result<(Self, Contents), BadIndex> {
        let file = disk.open(FILE).map_err(redb::Error::Io)?;
        if file.len().map_err(redb::Error::Io)? == 0 {
            // redb would make a new one of it.
            return Err(redb::Error::Corrupted("it is empty".to_owned()).into());
        }
        let index = Self {
            database: database(file)?,
        };
        let contents = index.contents()?;
        Ok((index, contents))
    }

    fn contents(&self) -> Result<Contents, BadIndex> {
        let transaction = self.database.begin_read()?;
        let meta = transaction.open_table(META)?;
        let found = meta.get(META_FORMAT)?.map_or(0, |value| value.value());
        if found != FORMAT {
            return Err(BadIndex::Format(found));
        }
        let number = |key| -> Result<u64, redb::Error> {
            let missing = || redb::Error::Corrupted(format!("it has no {key:?}"));
            Ok(meta.get(key)?.ok_or_else(missing)?.value())
        };
        let corrupt = |error: prost::DecodeError| redb::Error::Corrupted(error.to_string());
        let mut sealed = Vec::new();
        for row in transaction.open_table(SEGMENTS)?.iter()? {
            let (first, row) = row?;
            sealed.push((first.value(), Sealed::decode(row.value()).map_err(corrupt)?));
        }
        let mut agents = Vec::new();
        for row in transaction.open_table(AGENTS)?.iter()? {
            agents.push(AgentRecord::decode(row?.1.value()).map_err(corrupt)?);
        }
        let tag = u32::try_from(number(META_TAG)?);
        Ok(Contents {
            tag: tag.map_err(|_| redb::Error::Corrupted("its tag is none".to_owned()))?,
            active: number(META_ACTIVE)?,
            sealed,
            agents,
        })
    }

    /// Writes the whole index anew. After a sync that failed, what the file seems to have need not be on the disk, and a
    /// later sync does not bring it there.
    pub(super) fn rewrite(disk: &dyn Disk) -> Result<(), redb::Error> {
        let old = database(disk.open(FILE)?)?;
        let new = Self {
            database: database(disk.create(FILE_NEW)?)?,
        };
        let (from, to) = (old.begin_read()?, new.begin()?);
        {
            let mut meta = to.open_table(META)?;
            for row in from.open_table(META)?.iter()? {
                let (key, value) = row?;
                meta.insert(key.value(), value.value())?;
            }
            let mut segments = to.open_table(SEGMENTS)?;
            for row in from.open_table(SEGMENTS)?.iter()? {
                let (key, value) = row?;
                segments.insert(key.value(), value.value())?;
            }
            let mut watermarks = to.open_table(WATERMARKS)?;
            for row in from.open_table(WATERMARKS)?.iter()? {
                let (key, value) = row?;
                watermarks.insert(key.value(), value.value())?;
            }
            let mut positions = to.open_table(POSITIONS)?;
            for row in from.open_table(POSITIONS)?.iter()? {
                let (key, value) = row?;
                positions.insert(key.value(), value.value())?;
            }
            let mut agents = to.open_table(AGENTS)?;
            for row in from.open_table(AGENTS)?.iter()? {
                let (key, value) = row?;
                agents.insert(key.value(), value.value())?;
            }
        }
        to.commit()?;
        drop(from);
        drop(old);
        Ok(new.put_in_place(disk)?)
    }

    pub(super) fn watermark(&self, agent_id: &str, epoch: &str) -> Result<u64, redb::Error> {
        let watermarks = self.database.begin_read()?.open_table(WATERMARKS)?;
        Ok(watermarks.get((agent_id, epoch))?.map_or(0, |value| value.value().0))
    }

    /// All named consumers with their positions.
    pub(super) fn positions(&self) -> Result<Vec<(String, u64)>, redb::Error> {
        let positions = self.database.begin_read()?.open_table(POSITIONS)?;
        let mut all = Vec::new();
        for row in positions.iter()? {
            let (name, position) = row?;
            all.push((name.value().to_owned(), position.value().0));
        }
        Ok(all)
    }

    /// Changes it all at once.
    pub(super) fn change(
        &self,
        change: impl FnOnce(&mut Change<'_>) -> Result<(), redb::Error>,
    ) -> Result<(), redb::Error> {
        let transaction = self.begin()?;
        change(&mut Change(&transaction))?;
        transaction.commit()?;
        Ok(())
    }

    /// A write transaction after which a crash costs no repair: without it, opening after a kill reads the whole file.
    fn begin(&self) -> Result<WriteTransaction, redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_quick_repair(true);
        Ok(transaction)
    }
}

/// What one transaction changes.
pub(super) struct Change<'a>(&'a WriteTransaction);

impl Change<'_> {
    /// A segment is sealed, and the next one begins where it ends.
    pub(super) fn seal(&mut self, first: u64, sealed: &Sealed) -> Result<(), redb::Error> {
        self.0
            .open_table(SEGMENTS)?
            .insert(first, sealed.encode_to_vec().as_slice())?;
        self.0.open_table(META)?.insert(META_ACTIVE, sealed.end)?;
        Ok(())
    }

    pub(super) fn forget_segment(&mut self, first: u64) -> Result<(), redb::Error> {
        self.0.open_table(SEGMENTS)?.remove(first)?;
        Ok(())
    }

    pub(super) fn watermarks<'k>(
        &mut self,
        marks: impl Iterator<Item = (&'k str, &'k str, u64, i64)>,
    ) -> Result<(), redb::Error> {
        let mut watermarks = self.0.open_table(WATERMARKS)?;
        for (agent_id, epoch, through, time_s) in marks {
            watermarks.insert((agent_id, epoch), (through, time_s))?;
        }
        Ok(())
    }

    pub(super) fn position(&mut self, name: &str, next: u64, time_s: i64) -> Result<(), redb::Error> {
        self.0.open_table(POSITIONS)?.insert(name, (next, time_s))?;
        Ok(())
    }

    pub(super) fn agent(&mut self, record: &AgentRecord) -> Result<(), redb::Error> {
        self.0
            .open_table(AGENTS)?
            .insert(record.agent_id.as_str(), record.encode_to_vec().as_slice())?;
        Ok(())
    }

    pub(super) fn forget_agent(&mut self, agent_id: &str) -> Result<(), redb::Error> {
        self.0.open_table(AGENTS)?.remove(agent_id)?;
        Ok(())
    }
}
