//! Who feeds whom: processes that are joined by pipes, as a shell's `a | b | c`.

use std::collections::VecDeque;

use hashbrown::HashMap;
use staghound_ebpf::Stdio;

use crate::process::image::{FILE_TYPE, PIPE_TYPE};

/// So many neighbours of a process are told in each direction.
const NEIGHBOURS_MAX: usize = 8;

/// A pipe, by the low half of its inode number; 0 is none. Two pipes that differ only in the high half are one to us.
type Pipe = u32;

/// In which direction neighbours are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Those that write what the process reads.
    Up,
    /// Those that read what it writes.
    Down,
}

/// The pipes that processes had as standard input and output when they exec'ed. No larger than the process table, since
/// whoever is forgotten there is forgotten here.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    /// Standard input and output of each process that has at least one pipe there.
    of: HashMap<u32, (Pipe, Pipe)>,
    /// Who has a pipe as standard input, and as standard output.
    ends: HashMap<Pipe, (Vec<u32>, Vec<u32>)>,
}

impl Pipes {
    /// A process has exec'ed with this on its standard descriptors.
    pub(super) fn exec(&mut self, pid: u32, stdio: &[Stdio; 3]) {
        self.forget(pid);
        let pipe = |stdio: &Stdio| {
            if u32::from(stdio.mode) & FILE_TYPE == PIPE_TYPE {
                stdio.inode
            } else {
                0
            }
        };
        let (input, output) = (pipe(&stdio[0]), pipe(&stdio[1]));
        if (input, output) == (0, 0) {
            return;
        }
        self.of.insert(pid, (input, output));
        if input != 0 {
            self.ends.entry(input).or_default().0.push(pid);
        }
        if output != 0 {
            self.ends.entry(output).or_default().1.push(pid);
        }
    }

    /// A process is gone, or is another by now.
    pub(super) fn forget(&mut self, pid: u32) {
        let Some((input, output)) = self.of.remove(&pid) else {
            return;
        };
        for pipe in [input, output] {
            if let Some((readers, writers)) = self.ends.get_mut(&pipe) {
                readers.retain(|other| *other != pid);
                writers.retain(|other| *other != pid);
                if readers.is_empty() && writers.is_empty() {
                    self.ends.remove(&pipe);
                }
            }
        }
    }

    /// The neighbours of a process in one direction, nearest first, theirs included.
    pub(super) fn neighbours(&self, pid: u32, direction: Direction) -> Vec<u32> {
        let mut found = Vec::new();
        let mut left = VecDeque::from([pid]);
        while let Some(next) = left.pop_front() {
            let Some(&(input, output)) = self.of.get(&next) else {
                continue;
            };
            let pids = match direction {
                Direction::Up => self.ends.get(&input).map(|(_, writers)| writers),
                Direction::Down => self.ends.get(&output).map(|(readers, _)| readers),
            };
            for &other in pids.into_iter().flatten() {
                if other == pid || found.contains(&other) {
                    continue;
                }
                found.push(other);
                left.push_back(other);
                if found.len() == NEIGHBOURS_MAX {
                    return found;
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piped(input: u32, output: u32) -> [Stdio; 3] {
        [input, output, 0].map(|inode| Stdio {
            mode: if inode == 0 { 0o020_000 } else { 0o010_600 },
            inode,
            ..Stdio::default()
        })
    }

    #[test]
    fn neighbours_are_found_along_the_pipes() {
        let mut pipes = Pipes::default();
        pipes.exec(10, &piped(0, 1));
        pipes.exec(12, &piped(2, 0));
        assert!(pipes.neighbours(12, Direction::Up).is_empty());
        pipes.exec(11, &piped(1, 2));
        assert_eq!(pipes.neighbours(12, Direction::Up), [11, 10]);
        assert_eq!(pipes.neighbours(10, Direction::Down), [11, 12]);
        assert_eq!(pipes.neighbours(11, Direction::Up), [10]);
        // Whoever execs again has other descriptors.
        pipes.exec(11, &piped(0, 2));
        assert_eq!(pipes.neighbours(12, Direction::Up), [11]);
        assert!(pipes.neighbours(10, Direction::Down).is_empty());
    }

    #[test]
    fn nothing_is_left_of_those_that_are_gone() {
        let mut pipes = Pipes::default();
        for pid in 0..1000 {
            pipes.exec(pid, &piped(pid, pid + 1));
        }
        for pid in 0..1000 {
            pipes.forget(pid);
            pipes.forget(pid);
        }
        assert!(pipes.of.is_empty() && pipes.ends.is_empty());
    }

    #[test]
    fn a_ring_and_a_crowd_come_to_an_end() {
        let mut pipes = Pipes::default();
        pipes.exec(1, &piped(7, 8));
        pipes.exec(2, &piped(8, 7));
        pipes.exec(3, &piped(9, 9));
        assert_eq!(pipes.neighbours(1, Direction::Up), [2]);
        assert!(pipes.neighbours(3, Direction::Down).is_empty());
        for pid in 10..1000 {
            pipes.exec(pid, &piped(0, 7));
        }
        assert_eq!(pipes.neighbours(1, Direction::Up).len(), NEIGHBOURS_MAX);
    }
}
