//! The bytes of one segment file: a header, then frames.
//!
//! A frame carries its own sequence, and its checksum is seeded with the epoch. That makes it recognisable wherever it
//! stands: behind damaged bytes the next whole frame is found again and only what was damaged is lost, and nobody who
//! does not know the epoch can smuggle a frame in through the text of an alert.
//!
//! Invariant: nothing here touches files; any bytes are legal input.
//! Format 1 is told from format 2 only by the header and the file's name; frames are the same.

use std::ops::{Range, RangeInclusive};

/// Length of the header: magic, format version, epoch, first sequence, checksum.
pub(super) const HEADER_BYTES: usize = 40;
/// Length of what stands before a payload: length, checksum, sequence.
pub(super) const FRAME_HEADER_BYTES: usize = 16;
/// The longest payload of a frame. Longer items are refused before they get a sequence.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

const MAGIC: [u8; 8] = *b"SGHSPOOL";
/// One file for items of every severity; still read, never appended to.
const FORMAT_MIXED: u32 = 1;
/// A file for each lane.
const FORMAT_LANES: u32 = 2;

/// The 16 random bytes that name a spool.
pub(super) type EpochBytes = [u8; 16];

/// What a segment's header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// It belongs to this epoch and starts with this sequence.
    Valid { first: u64 },
    /// It is whole and belongs to another spool.
    OtherEpoch,
    /// It is whole and of a format this version does not know.
    OtherFormat(u32),
    /// It is too short or its checksum is wrong.
    Damaged,
}

/// The header of a segment that starts with `first`.
pub(super) fn header(epoch: &EpochBytes, first: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_LANES.to_le_bytes());
    bytes[12..28].copy_from_slice(epoch);
    bytes[28..36].copy_from_slice(&first.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..36]);
    bytes[36..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Reads a header back.
pub(super) fn read_header(bytes: &[u8], epoch: &EpochBytes) -> Header {
    let Some(header) = bytes.get(..HEADER_BYTES) else {
        return Header::Damaged;
    };
    if header[..8] != MAGIC || u32_at(header, 36) != Some(crc32c::crc32c(&header[..36])) {
        return Header::Damaged;
    }
    match (u32_at(header, 8), u64_at(header, 28)) {
        (Some(FORMAT_MIXED | FORMAT_LANES), Some(first)) if header[12..28] == *epoch => Header::Valid { first },
        (Some(FORMAT_MIXED | FORMAT_LANES), Some(_)) => Header::OtherEpoch,
        (Some(version), _) => Header::OtherFormat(version),
        (None, _) => Header::Damaged,
    }
}

/// Appends one frame to `out`.
pub(super) fn write_frame(out: &mut Vec<u8>, epoch: &EpochBytes, sequence: u64, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("payloads are refused above PAYLOAD_BYTES_MAX");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum(epoch, sequence, payload).to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(payload);
}

fn checksum(epoch: &EpochBytes, sequence: u64, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(
        crc32c::crc32c_append(crc32c::crc32c(epoch), &sequence.to_le_bytes()),
        payload,
    )
}

/// One whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Its sequence.
    pub sequence: u64,
    /// Where its payload stands.
    pub payload: Range<usize>,
}

impl Frame {
    /// Where the next frame would begin.
    pub(super) fn end(&self) -> usize {
        self.payload.end
    }
}

/// The frame that begins at `offset`, if a whole one does.
pub(super) fn frame_at(bytes: &[u8], offset: usize, epoch: &EpochBytes) -> Option<Frame> {
    let end = offset.checked_add(frame_bytes(bytes, offset)?)?;
    let sequence = u64_at(bytes, offset.checked_add(8)?)?;
    let payload = offset + FRAME_HEADER_BYTES..end;
    let expected = u32_at(bytes, offset.checked_add(4)?)?;
    (checksum(epoch, sequence, bytes.get(payload.clone())?) == expected).then_some(Frame { sequence, payload })
}

/// Whether a frame of one of these sequences could begin at `offset`. Damaged bytes hardly ever look so, which makes
/// looking for the next whole frame cost one comparison per byte.
pub(super) fn may_begin(bytes: &[u8], offset: usize, plausible: &RangeInclusive<u64>) -> bool {
    u64_at(bytes, offset + 8).is_some_and(|sequence| plausible.contains(&sequence))
}

/// How long the frame at `offset` is, its header included, if it can be a frame at all.
pub(super) fn frame_bytes(bytes: &[u8], offset: usize) -> Option<usize> {
    let length = usize::try_from(u32_at(bytes, offset)?).ok()?;
    (length <= PAYLOAD_BYTES_MAX).then_some(FRAME_HEADER_BYTES + length)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?,
    ))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        bytes.get(offset..offset.checked_add(8)?)?.try_into().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EPOCH: EpochBytes = [7; 16];

    #[test]
    fn headers_are_told_apart() {
        let good = header(&EPOCH, 42);
        assert_eq!(read_header(&good, &EPOCH), Header::Valid { first: 42 });
        assert_eq!(read_header(&good, &[0; 16]), Header::OtherEpoch);
        assert_eq!(read_header(&good[..39], &EPOCH), Header::Damaged);
        let mut newer = good;
        newer[8] = 9;
        let checksum = crc32c::crc32c(&newer[..36]);
        newer[36..].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(read_header(&newer, &EPOCH), Header::OtherFormat(9));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512), at in 0..600_usize) {
            read_header(&bytes, &EPOCH);
            frame_at(&bytes, at, &EPOCH);
            may_begin(&bytes, at, &(0..=u64::MAX));
        }
    }
}
