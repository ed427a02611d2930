//! What the actor tells of the calls of a script, and why one could not be made.

use std::io::{self, Write as _};

use crate::capture::Run;

/// The actor's exit code when the kernel lacks what a script needs.
pub const LACKS: i32 = 77;

/// A call or an io_uring request that the actor made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its name as in the script, without marks.
    pub name: String,
    /// What the kernel returned.
    pub result: i64,
    /// What it was given; zeros for a request.
    pub arguments: [u64; 6],
}

/// The words of a script; in each of them `{P}` stands for `place`.
pub fn words<'a>(script: &'a str, place: &'a str) -> impl Iterator<Item = String> + 'a {
    std::iter::once("calls".to_owned()).chain(script.split_whitespace().map(|word| word.replace("{P}", place)))
}

/// Whether the kernel lacks what the script needs; and in words, what. Any other failure of the actor is one of the test.
///
/// # Panics
/// The actor failed.
#[must_use]
pub fn lacks(run: &Run) -> bool {
    match run.status.code() {
        Some(0) => false,
        Some(LACKS) => true,
        Some(_) | None => panic!("the actor failed: {run:#?}"),
    }
}

/// The calls that a script made, in order.
///
/// # Panics
/// The actor printed something else.
#[must_use]
pub fn made(run: &Run) -> Vec<Made> {
    run.stdout
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next().expect("a name").trim_start_matches("x32:").to_owned();
            let result = words.next().and_then(|word| word.parse().ok()).expect("a result");
            let mut arguments = [0; 6];
            for (argument, word) in arguments.iter_mut().zip(words) {
                *argument = word.parse().expect("an argument");
                if name.starts_with("int80:") {
                    // The entry passes 32 bits.
                    *argument &= 0xffff_ffff;
                }
            }
            Made {
                name,
                result,
                arguments,
            }
        })
        .collect()
}

/// Rows of words, as an aligned table.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join(" | ").trim_end());
        text.push('\n');
    }
    text
}

/// Prints past what the test harness captures, so that a table can be read also when all is well.
///
/// # Panics
/// Standard output is closed.
pub fn tell(text: &str) {
    io::stdout()
        .write_all(text.as_bytes())
        .expect("somebody reads the tests");
}
