//! The bytes of one segment file: a header, then frames.
//!
//! A frame carries its own sequence, and its checksum is seeded with the epoch. That makes it recognisable wherever it
//! stands: behind damaged bytes the next whole frame is found again and only what was damaged is lost, and nobody who
//! does not know the epoch can smuggle a frame in through the text of an alert.
//!
//! Invariant: nothing here touches files; any bytes are legal input.

use std::ops::Range;

/// Length of the header: magic, format version, epoch, first sequence, checksum.
pub(super) const HEADER_BYTES: usize = 40;
/// Length of what stands before a payload: length, checksum, sequence.
pub(super) const FRAME_HEADER_BYTES: usize = 16;
/// The longest payload of a frame. Longer items are refused before they get a sequence.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

const MAGIC: [u8; 8] = *b"SGHSPOOL";
const FORMAT_VERSION: u32 = 1;

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
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
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
        (Some(FORMAT_VERSION), Some(first)) if header[12..28] == *epoch => Header::Valid { first },
        (Some(FORMAT_VERSION), Some(_)) => Header::OtherEpoch,
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
    let length = usize::try_from(u32_at(bytes, offset)?).ok()?;
    if length > PAYLOAD_BYTES_MAX {
        return None;
    }
    let sequence = u64_at(bytes, offset.checked_add(8)?)?;
    let begin = offset.checked_add(FRAME_HEADER_BYTES)?;
    let payload = begin..begin.checked_add(length)?;
    let expected = u32_at(bytes, offset.checked_add(4)?)?;
    (checksum(epoch, sequence, bytes.get(payload.clone())?) == expected).then_some(Frame { sequence, payload })
}

/// The next whole frame at or behind `offset` whose sequence is at least `expected`.
///
/// The cheap test comes first: a sequence a segment of this size could hold. Damaged bytes hardly ever pass it, so that
/// looking for the next frame costs one comparison per byte.
pub(super) fn next_frame(bytes: &[u8], offset: usize, expected: u64, epoch: &EpochBytes) -> Option<Frame> {
    let in_order = frame_at(bytes, offset, epoch).filter(|frame| frame.sequence == expected);
    if in_order.is_some() {
        return in_order;
    }
    let last = bytes.len().checked_sub(FRAME_HEADER_BYTES)?;
    let room = u64::try_from(bytes.len() / FRAME_HEADER_BYTES).unwrap_or(u64::MAX);
    let plausible = expected..=expected.saturating_add(room);
    (offset..=last)
        .filter(|&at| u64_at(bytes, at + 8).is_some_and(|sequence| plausible.contains(&sequence)))
        .find_map(|at| frame_at(bytes, at, epoch))
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

    fn sequences(bytes: &[u8], first: u64) -> Vec<u64> {
        let (mut offset, mut expected, mut found) = (0, first, Vec::new());
        while let Some(frame) = next_frame(bytes, offset, expected, &EPOCH) {
            found.push(frame.sequence);
            (offset, expected) = (frame.end(), frame.sequence + 1);
        }
        found
    }

    fn three_frames() -> Vec<u8> {
        let mut bytes = Vec::new();
        for (sequence, payload) in [(5, "first"), (6, "second"), (7, "third")] {
            write_frame(&mut bytes, &EPOCH, sequence, payload.as_bytes());
        }
        bytes
    }

    #[test]
    fn a_damaged_frame_is_lost_alone() {
        let whole = three_frames();
        assert_eq!(sequences(&whole, 5), [5, 6, 7]);
        let second = FRAME_HEADER_BYTES + 5..2 * FRAME_HEADER_BYTES + 5 + 6;
        for at in second {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                assert_eq!(sequences(&bytes, 5), [5, 7], "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn frames_of_another_epoch_are_none() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &[8; 16], 5, b"forged");
        assert_eq!(sequences(&bytes, 5), [0; 0]);
    }

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
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512), first in any::<u64>()) {
            read_header(&bytes, &EPOCH);
            sequences(&bytes, first.min(u64::MAX - 1024));
        }

        #[test]
        fn what_was_written_is_read(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..20)) {
            let mut bytes = Vec::new();
            for (sequence, payload) in (1..).zip(&payloads) {
                write_frame(&mut bytes, &EPOCH, sequence, payload);
            }
            let expected: Vec<u64> = (1..).take(payloads.len()).collect();
            prop_assert_eq!(sequences(&bytes, 1), expected);
        }
    }
}
