//! The bytes of a segment: a header, then frames of one chunk each. No I/O.
//!
//! A frame says which commit wrote it. So a bad frame is known for what it is: the torn end of a commit that nobody was
//! told about, if no later commit follows it; damage to what was durable, if one does.

use prost::bytes::Bytes;
use prost_types::Timestamp;

const MAGIC: [u8; 8] = *b"STAGLOG2";
/// Magic, store, first position, checksum.
pub(super) const HEADER_BYTES: usize = 24;
/// Length of the payload, checksum of what follows, first position, start of the commit, number of items.
pub(super) const FRAME_HEADER_BYTES: usize = 28;
/// No chunk is larger: a batch fits into a message, and messages are bounded far below.
pub(super) const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// The new items of one batch.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Chunk {
    #[prost(string, tag = "1")]
    pub(super) agent_id: String,
    #[prost(string, tag = "2")]
    pub(super) epoch: String,
    #[prost(string, tag = "3")]
    pub(super) host: String,
    #[prost(message, optional, tag = "4")]
    pub(super) ingest_time: Option<Timestamp>,
    #[prost(message, repeated, tag = "5")]
    pub(super) items: Vec<ChunkItem>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ChunkItem {
    #[prost(uint64, tag = "1")]
    pub(super) sequence: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) item: Bytes,
}

/// The file that begins at a position.
pub(super) fn name(first: u64) -> String {
    format!("{first:020}.segment")
}

/// The position in a file's name, if it is a segment's.
pub(super) fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".segment")?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

pub(super) fn header(tag: u32, first: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&tag.to_le_bytes());
    header[12..20].copy_from_slice(&first.to_le_bytes());
    let checksum = crc32c::crc32c(&header[..20]);
    header[20..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// One frame without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Position of the first item.
    pub(super) first: u64,
    /// Where in the file the commit begins that wrote it.
    pub(super) commit: u64,
    pub(super) count: u32,
    pub(super) payload_bytes: usize,
    checksum: u32,
}

impl Frame {
    /// The position after the last item.
    pub(super) fn end(&self) -> u64 {
        self.first.saturating_add(u64::from(self.count))
    }

    pub(super) fn bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.payload_bytes
    }

    /// Reads a header; `None` when it cannot be one.
    pub(super) fn parse(header: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_le_bytes(header.get(at..at + 8)?.try_into().ok()?));
        let frame = Self {
            payload_bytes: usize::try_from(number(0)?).ok()?,
            checksum: number(4)?,
            first: long(8)?,
            commit: long(16)?,
            count: number(24)?,
        };
        let possible = frame.first > 0 && frame.count > 0 && (1..=PAYLOAD_BYTES_MAX).contains(&frame.payload_bytes);
        possible.then_some(frame)
    }

    /// Whether these are its bytes, header included.
    pub(super) fn is_whole(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.bytes() && crc32c::crc32c(&bytes[8..]) == self.checksum
    }
}

/// Appends a frame.
pub(super) fn write_frame(out: &mut Vec<u8>, first: u64, commit: u64, count: u32, chunk: &Chunk) {
    use prost::Message as _;
    let start = out.len();
    out.resize(start + 8, 0);
    out.extend_from_slice(&first.to_le_bytes());
    out.extend_from_slice(&commit.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    chunk.encode(out).expect("a vector has room");
    let payload = out.len() - start - FRAME_HEADER_BYTES;
    let payload = u32::try_from(payload).expect("a batch is far smaller than 4 GiB");
    let checksum = crc32c::crc32c(&out[start + 8..]);
    out[start..start + 4].copy_from_slice(&payload.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// What [`scan`] comes upon.
pub(super) enum Found<'a> {
    Frame {
        offset: usize,
        frame: Frame,
        payload: &'a [u8],
    },
    /// Bytes that were durable once and are no frames.
    Damage { bytes: usize },
}

/// Goes through the frames of a segment; gives the length without the torn end.
pub(super) fn scan<'a>(bytes: &'a [u8], mut visit: impl FnMut(Found<'a>)) -> usize {
    let mut offset = HEADER_BYTES;
    loop {
        if let Some(frame) = whole(bytes, offset) {
            let payload = &bytes[offset + FRAME_HEADER_BYTES..offset + frame.bytes()];
            visit(Found::Frame { offset, frame, payload });
            offset += frame.bytes();
            continue;
        }
        // A frame of a later commit proves that this one had been durable.
        let later = (offset + 1..bytes.len()).find(|&at| {
            let header = bytes.get(at..at + FRAME_HEADER_BYTES).and_then(Frame::parse);
            header.is_some_and(|frame| {
                frame.commit > offset as u64 && frame.commit <= at as u64 && whole(bytes, at).is_some()
            })
        });
        let Some(later) = later else {
            return offset.min(bytes.len());
        };
        visit(Found::Damage { bytes: later - offset });
        offset = later;
    }
}

fn whole(bytes: &[u8], offset: usize) -> Option<Frame> {
    let frame = Frame::parse(bytes.get(offset..offset + FRAME_HEADER_BYTES)?)?;
    let all = bytes.get(offset..offset.checked_add(frame.bytes())?)?;
    frame.is_whole(all).then_some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk(sequence: u64) -> Chunk {
        let item = ChunkItem {
            sequence,
            item: Bytes::from_static(b"some item"),
        };
        Chunk {
            agent_id: "a".to_owned(),
            items: vec![item],
            ..Chunk::default()
        }
    }

    /// Three commits of two frames each.
    fn segment() -> (Vec<u8>, Vec<usize>) {
        let mut bytes = header(7, 1).to_vec();
        let mut offsets = Vec::new();
        for commit in 0..3 {
            let start = bytes.len() as u64;
            for frame in 0..2 {
                offsets.push(bytes.len());
                let first = commit * 2 + frame + 1;
                write_frame(&mut bytes, first, start, 1, &chunk(first));
            }
        }
        (bytes, offsets)
    }

    fn found(bytes: &[u8]) -> (Vec<u64>, usize, usize) {
        let (mut firsts, mut damaged) = (Vec::new(), 0);
        let len = scan(bytes, |found| match found {
            Found::Frame { frame, .. } => firsts.push(frame.first),
            Found::Damage { bytes } => damaged += bytes,
        });
        (firsts, damaged, len)
    }

    #[test]
    fn a_torn_end_is_cut_and_damage_before_a_later_commit_is_told() {
        let (bytes, offsets) = segment();
        assert_eq!(found(&bytes), (vec![1, 2, 3, 4, 5, 6], 0, bytes.len()));
        for cut in HEADER_BYTES..bytes.len() {
            let whole = offsets.iter().filter(|&&offset| offset < cut).count();
            let whole = if offsets.contains(&cut) {
                whole
            } else {
                whole - usize::from(cut > HEADER_BYTES)
            };
            let end = offsets.get(whole).copied().unwrap_or(bytes.len());
            assert_eq!(found(&bytes[..cut]).2, end.min(cut), "{cut}");
        }
        // The first frame of the last commit did not reach the disk, the second did: both are of a commit nobody saw.
        let mut torn = bytes.clone();
        torn[offsets[4] + 30] ^= 1;
        assert_eq!(found(&torn), (vec![1, 2, 3, 4], 0, offsets[4]));
        // The same in an earlier commit is damage.
        let mut damaged = bytes.clone();
        damaged[offsets[2] + 30] ^= 1;
        assert_eq!(
            found(&damaged),
            (vec![1, 2, 5, 6], offsets[4] - offsets[2], bytes.len())
        );
    }

    proptest! {
        #[test]
        fn any_bytes_scan(bytes in prop::collection::vec(any::<u8>(), 0..400), place in 0_usize..300, with in any::<u8>()) {
            found(&bytes);
            let (mut segment, _) = segment();
            let place = place % segment.len();
            segment[place] = with;
            prop_assert!(found(&segment).2 <= segment.len());
        }
    }

    #[test]
    fn names() {
        assert_eq!(parse_name(&name(42)), Some(42));
        for other in [
            "42.segment",
            "index.redb",
            "0000000000000000004x.segment",
            "99999999999999999999.segment",
        ] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
