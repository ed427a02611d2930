//! Reads the frames of one segment, one after another, in little memory and through damage.

use super::disk::{self, DiskFile};
use super::segment::{self, EpochBytes, FRAME_HEADER_BYTES, HEADER_BYTES, PAYLOAD_BYTES_MAX};
use std::io;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

/// How much is read at once. A longer frame is read whole.
const READ_BYTES: usize = 128 * 1024;
/// How much is looked through at once for the next whole frame behind damage: room for the longest, wherever it begins.
const SEARCH_BYTES: usize = 2 * (PAYLOAD_BYTES_MAX + FRAME_HEADER_BYTES);

/// A place in a segment.
pub(super) struct Frames {
    file: Arc<dyn DiskFile>,
    epoch: EpochBytes,
    /// Bytes of the file from `offset` on.
    window: Vec<u8>,
    offset: u64,
    /// Where in the window to go on.
    at: usize,
    /// Behind the last whole frame.
    end: u64,
}

impl Frames {
    /// The frames of a segment from its first one on.
    pub(super) fn new(file: Arc<dyn DiskFile>, epoch: EpochBytes) -> Self {
        Self {
            file,
            epoch,
            window: Vec::new(),
            offset: HEADER_BYTES as u64,
            at: 0,
            end: HEADER_BYTES as u64,
        }
    }

    /// The next whole frame of one of these sequences: where its payload is, until the next call. What is between is
    /// damaged or of no concern. When there is none the place stays, so that what is appended later is found.
    pub(super) fn next(&mut self, plausible: &RangeInclusive<u64>) -> io::Result<Option<segment::Frame>> {
        if !self.holds(FRAME_HEADER_BYTES)? {
            return Ok(None);
        }
        if let Some(bytes) = segment::frame_bytes(&self.window, self.at) {
            self.holds(bytes)?;
        }
        loop {
            let found = segment::frame_at(&self.window, self.at, &self.epoch)
                .filter(|frame| plausible.contains(&frame.sequence));
            if let Some(frame) = found {
                self.at = frame.end();
                self.end = self.offset + self.at as u64;
                return Ok(Some(frame));
            }
            if !self.seek(plausible)? {
                return Ok(None);
            }
        }
    }

    /// The payload of a frame that `next` gave last.
    pub(super) fn payload(&self, payload: Range<usize>) -> &[u8] {
        &self.window[payload]
    }

    /// Behind the last whole frame.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Goes on to the next place where such a frame could begin; false, and back again, when there is none.
    fn seek(&mut self, plausible: &RangeInclusive<u64>) -> io::Result<bool> {
        let began = self.offset + self.at as u64;
        loop {
            self.at += 1;
            let more = self.holds(SEARCH_BYTES)?;
            let last = self.window.len().saturating_sub(FRAME_HEADER_BYTES);
            let candidate = (self.at..=last).find(|&at| {
                segment::may_begin(&self.window, at, plausible)
                    && segment::frame_bytes(&self.window, at)
                        .is_some_and(|bytes| more || at + bytes <= self.window.len())
            });
            match candidate {
                Some(at) => {
                    self.at = at;
                    let bytes = segment::frame_bytes(&self.window, at).unwrap_or(FRAME_HEADER_BYTES);
                    self.holds(bytes)?;
                    return Ok(true);
                }
                None if more => self.at = last,
                None => {
                    self.window.clear();
                    (self.offset, self.at) = (began, 0);
                    return Ok(false);
                }
            }
        }
    }

    /// Whether the window holds so many bytes from the place on; reads if it does not yet.
    fn holds(&mut self, bytes: usize) -> io::Result<bool> {
        if self.window.len().saturating_sub(self.at) >= bytes {
            return Ok(true);
        }
        let at = self.at.min(self.window.len());
        self.window.drain(..at);
        self.offset += at as u64;
        self.at -= at;
        // The place may be behind the window: beyond the end of the file, where there is nothing to be found.
        let have = self.window.len();
        let left = self.file.length()?.saturating_sub(self.offset + have as u64);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let want = (self.at + bytes)
            .max(READ_BYTES)
            .min(have.saturating_add(left))
            .max(have);
        self.window.resize(want, 0);
        let filled = disk::fill(&*self.file, &mut self.window[have..], self.offset + have as u64);
        self.window.truncate(have + filled.as_ref().copied().unwrap_or(0));
        filled?;
        Ok(self.window.len().saturating_sub(self.at) >= bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::disk::{Disk as _, MemoryDisk};
    use proptest::prelude::*;

    const EPOCH: EpochBytes = [7; 16];

    fn frames(bytes: &[u8]) -> Frames {
        let file = MemoryDisk::default().create("a").unwrap();
        file.write_at(&segment::header(&EPOCH, 1), 0).unwrap();
        file.write_at(bytes, HEADER_BYTES as u64).unwrap();
        Frames::new(file, EPOCH)
    }

    fn sequences(bytes: &[u8], first: u64) -> Vec<u64> {
        let (mut frames, mut found, mut due) = (frames(bytes), Vec::new(), first);
        while let Some(frame) = frames.next(&(due..=u64::MAX / 2)).unwrap() {
            found.push(frame.sequence);
            due = frame.sequence + 1;
        }
        found
    }

    fn three_frames() -> Vec<u8> {
        let mut bytes = Vec::new();
        for (sequence, payload) in [(5, "first"), (6, "second"), (9, "third")] {
            segment::write_frame(&mut bytes, &EPOCH, sequence, payload.as_bytes());
        }
        bytes
    }

    #[test]
    fn a_damaged_frame_is_lost_alone() {
        let whole = three_frames();
        assert_eq!(sequences(&whole, 5), [5, 6, 9]);
        assert_eq!(sequences(&whole, 6), [6, 9]);
        let second = FRAME_HEADER_BYTES + 5..2 * FRAME_HEADER_BYTES + 5 + 6;
        for at in second {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                assert_eq!(sequences(&bytes, 5), [5, 9], "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn frames_of_another_epoch_are_none() {
        let mut bytes = Vec::new();
        segment::write_frame(&mut bytes, &[8; 16], 5, b"forged");
        assert_eq!(sequences(&bytes, 5), [0; 0]);
    }

    #[test]
    fn damage_longer_than_a_window_is_passed() {
        let mut bytes = three_frames();
        bytes.resize(3 * SEARCH_BYTES + 17, 0xee);
        let long = vec![b'x'; PAYLOAD_BYTES_MAX];
        segment::write_frame(&mut bytes, &EPOCH, 11, &long);
        segment::write_frame(&mut bytes, &EPOCH, 12, b"");
        assert_eq!(sequences(&bytes, 5), [5, 6, 9, 11, 12]);
    }

    #[test]
    fn what_is_appended_later_is_found() {
        let mut frames = frames(&three_frames());
        for due in [5, 6, 7] {
            frames.next(&(due..=100)).unwrap().unwrap();
        }
        assert_eq!(frames.next(&(10..=100)).unwrap(), None);
        let (mut bytes, end) = (Vec::new(), frames.end());
        segment::write_frame(&mut bytes, &EPOCH, 10, b"later");
        frames.file.write_at(&bytes[..9], end).unwrap();
        assert_eq!(frames.next(&(10..=100)).unwrap(), None);
        frames.file.write_at(&bytes[9..], end + 9).unwrap();
        let frame = frames.next(&(10..=100)).unwrap().unwrap();
        assert_eq!(frames.payload(frame.payload), b"later");
        assert_eq!(frames.end(), end + bytes.len() as u64);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512), first in any::<u64>()) {
            sequences(&bytes, first.min(u64::MAX / 4));
        }

        #[test]
        fn what_was_written_is_read(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..20)) {
            let mut bytes = Vec::new();
            for (sequence, payload) in (1..).zip(&payloads) {
                segment::write_frame(&mut bytes, &EPOCH, sequence, payload);
            }
            let expected: Vec<u64> = (1..).take(payloads.len()).collect();
            prop_assert_eq!(sequences(&bytes, 1), expected);
        }
    }
}
