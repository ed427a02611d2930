//! Reads pages of entries from the segments. Any number at once, beside the one that writes.

use super::{
    Page, ReadLimit, Stored,
    log::{Segment, Shared},
    segment::{self, Chunk, FRAME_HEADER_BYTES, Frame},
};
use crate::filter::Filter;
use prost::{Message as _, bytes::Bytes};
use staghound_proto::v1::Item;
use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

/// What is read at once; larger frames are read whole.
const BLOCK_BYTES: usize = 256 << 10;

/// Reads from a position on.
pub(super) fn read(shared: &Shared, from: u64, limit: ReadLimit, filter: &Filter) -> io::Result<Page> {
    let mut scan = Scan {
        limit,
        filter,
        scanned: 0,
        bytes: 0,
        page: Page {
            entries: Vec::new(),
            next: from,
            lost_before: false,
        },
    };
    loop {
        let segments = shared.segments();
        let after = segments.partition_point(|segment| segment.first <= scan.page.next);
        let segment = match after.checked_sub(1).and_then(|place| segments.get(place)) {
            Some(segment) => segment,
            None => match segments.first() {
                // Retention has taken what was before it.
                Some(oldest) => {
                    if scan.skip_to(oldest.first) {
                        return Ok(scan.page);
                    }
                    oldest
                }
                None => return Ok(scan.page),
            },
        };
        let more = match scan.segment(shared, segment) {
            Ok(more) => more,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Retention was quicker; without it, somebody took the file away.
                let removed = shared
                    .segments()
                    .first()
                    .is_some_and(|oldest| oldest.first > segment.first);
                if !removed && scan.damage(shared, segment.end()) {
                    return Ok(scan.page);
                }
                true
            }
            Err(error) => return Err(error),
        };
        let is_last = segments.last().is_some_and(|last| last.first == segment.first);
        if !more || (is_last && scan.page.next >= segment.end()) {
            return Ok(scan.page);
        }
    }
}

struct Scan<'a> {
    limit: ReadLimit,
    filter: &'a Filter,
    scanned: usize,
    bytes: usize,
    page: Page,
}

impl Scan<'_> {
    /// Goes on at a later position, since what is between is gone. True: the page ends here, so that the loss is told
    /// before what comes after it.
    fn skip_to(&mut self, position: u64) -> bool {
        if position <= self.page.next {
            return false;
        }
        if !self.page.entries.is_empty() {
            return true;
        }
        self.page.lost_before = true;
        self.page.next = position;
        false
    }

    fn damage(&mut self, shared: &Shared, position: u64) -> bool {
        shared.damage_met.fetch_add(1, Ordering::Relaxed);
        self.skip_to(position)
    }

    fn is_full(&self) -> bool {
        self.scanned >= self.limit.scanned
            || self.page.entries.len() >= self.limit.entries
            || self.bytes >= self.limit.bytes
    }

    /// Reads one segment from the page's position on. False: the page is full.
    fn segment(&mut self, shared: &Shared, segment: &Arc<Segment>) -> io::Result<bool> {
        let place = segment.place(self.page.next);
        if self.page.next >= place.end {
            return Ok(true);
        }
        let file = shared.disk.open(&segment::name(segment.first))?;
        let mut block = Bytes::new();
        let mut offset = place.offset;
        while offset < place.bytes {
            if self.is_full() {
                return Ok(false);
            }
            let wanted = Frame::parse(&block).map_or(FRAME_HEADER_BYTES, |frame| frame.bytes());
            if block.len() < wanted {
                let left = usize::try_from(place.bytes - offset).unwrap_or(usize::MAX);
                if wanted > left {
                    let (position, mark) = segment.mark_after(offset).unwrap_or((place.end, place.bytes));
                    if self.damage(shared, position) {
                        return Ok(false);
                    }
                    (offset, block) = (mark, Bytes::new());
                    continue;
                }
                let mut bytes = vec![0; wanted.max(BLOCK_BYTES).min(left)];
                match file.read_exact_at(&mut bytes, offset) {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        return Ok(!self.damage(shared, place.end));
                    }
                    read => read?,
                }
                block = bytes.into();
                continue;
            }
            let frame = Frame::parse(&block).filter(|frame| {
                // What is before the position is skipped without a look at all its bytes.
                frame.end() <= self.page.next || frame.is_whole(&block[..frame.bytes()])
            });
            let chunk = match frame {
                Some(frame) if frame.end() <= self.page.next => None,
                Some(frame) => Chunk::decode(block.slice(FRAME_HEADER_BYTES..frame.bytes())).ok(),
                None => None,
            };
            match (frame, chunk) {
                (Some(frame), None) if frame.end() <= self.page.next => {}
                (Some(frame), Some(chunk)) => {
                    if self.skip_to(frame.first) || !self.chunk(&frame, chunk) {
                        return Ok(false);
                    }
                }
                (Some(_) | None, None) | (None, Some(_)) => {
                    let (position, mark) = segment.mark_after(offset).unwrap_or((place.end, place.bytes));
                    if self.damage(shared, position) {
                        return Ok(false);
                    }
                    (offset, block) = (mark, Bytes::new());
                    continue;
                }
            }
            let bytes = frame.map_or(0, |frame| frame.bytes());
            offset += bytes as u64;
            block = block.slice(bytes..);
        }
        // Damage at the end of a segment leaves no frame after it that would tell.
        Ok(!self.skip_to(place.end))
    }

    /// Takes the entries of a chunk from the page's position on. False: the page is full.
    fn chunk(&mut self, frame: &Frame, chunk: Chunk) -> bool {
        let agent_id: Arc<str> = chunk.agent_id.into();
        let epoch: Arc<str> = chunk.epoch.into();
        let host: Arc<str> = chunk.host.into();
        for (position, stored) in (frame.first..frame.end()).zip(chunk.items) {
            if position < self.page.next {
                continue;
            }
            if self.is_full() {
                return false;
            }
            self.scanned += 1;
            self.page.next = position + 1;
            if !self.filter.is_all() {
                // Only what decodes was stored.
                let passes = Item::decode(stored.item.clone()).is_ok_and(|item| self.filter.passes(&item, &host));
                if !passes {
                    continue;
                }
            }
            self.bytes += stored.item.len();
            self.page.entries.push(Stored {
                next: position + 1,
                agent_id: Arc::clone(&agent_id),
                epoch: Arc::clone(&epoch),
                host: Arc::clone(&host),
                sequence: stored.sequence,
                ingest_time: chunk.ingest_time,
                item: stored.item,
            });
        }
        true
    }
}
