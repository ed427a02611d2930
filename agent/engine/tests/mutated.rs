//! Damaged rule files: no panic, whatever is left of them. The same functions are targets of a fuzzer (`fuzz/`); here they
//! get so many damaged texts, always the same.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../fuzz/entry.rs"]
mod entry;
mod rule_files;

use std::path::Path;

use rule_files::{SHIPPED, corpora, read, sources};
use staghound_engine::ruleset::load;

/// Numbers that follow from a seed (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }
}

/// Every rule, macro and list that there is, alone: ours, and others' where the corpora are.
fn pieces() -> Vec<Vec<u8>> {
    let mut files = read(Path::new(SHIPPED));
    files.extend(read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad")));
    files.extend(corpora().iter().flat_map(|corpora| read(corpora)));
    let mut pieces = Vec::new();
    for (_, text) in files {
        let mut rest = &*text;
        while let Some(end) = rest.get(1..).and_then(|rest| rest.find("\n- ")) {
            pieces.push(rest.as_bytes()[..end + 2].to_vec());
            rest = &rest[end + 2..];
        }
        pieces.push(rest.as_bytes().to_vec());
    }
    pieces
}

/// Removes, repeats, moves in from elsewhere, or changes a few bytes, one to four times.
fn damage(piece: &[u8], others: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    const BYTES: &[u8] = b"-:|>'\"[]{},#&*! \n\t%\\()=x0\xc3\xa9\xff";
    let mut damaged = piece.to_vec();
    for _ in 0..=numbers.below(4) {
        let start = numbers.below(damaged.len() + 1);
        let end = (start + numbers.below(40)).min(damaged.len());
        match numbers.below(4) {
            0 => drop(damaged.drain(start..end)),
            1 => {
                let again = damaged[start..end].to_vec();
                damaged.splice(end..end, again);
            }
            2 => {
                let other = &others[numbers.below(others.len())];
                let from = numbers.below(other.len() + 1);
                let to = (from + numbers.below(60)).min(other.len());
                damaged.splice(start..end, other[from..to].iter().copied());
            }
            _ => damaged.insert(start, BYTES[numbers.below(BYTES.len())]),
        }
    }
    damaged
}

#[test]
fn no_damaged_rule_makes_the_engine_panic() {
    let shipped = read(Path::new(SHIPPED));
    assert!(load(&sources(&shipped)).is_ok(), "sound before it is damaged");
    let pieces = pieces();
    assert!(pieces.len() > 300);
    let mut numbers = Numbers(0x5eed_5eed_5eed_5eed);
    for piece in &pieces {
        entry::rules(piece);
        for _ in 0..3 {
            entry::rules(&damage(piece, &pieces, &mut numbers));
        }
    }
}

#[test]
fn no_damaged_condition_makes_the_parser_panic() {
    let pieces = pieces();
    let mut numbers = Numbers(0x0dd_c0de);
    for piece in &pieces {
        let text = String::from_utf8_lossy(piece);
        let conditions = text.lines().filter_map(|line| line.split_once("condition: "));
        for (_, condition) in conditions {
            entry::condition(condition.as_bytes());
            for _ in 0..10 {
                entry::condition(&damage(condition.as_bytes(), &pieces, &mut numbers));
            }
        }
    }
}
