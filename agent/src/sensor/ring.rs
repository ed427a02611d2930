//! Reads the two rings as one stream in order of time, and knows when to nap and when to sleep.

use std::{
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Array, MapData, RingBuf};

/// Between two looks at the rings while records keep coming.
const NAP: Duration = Duration::from_millis(1);
/// So long after the last record the agent goes to sleep and lets the programs wake it.
const AWAKE: Duration = Duration::from_millis(20);
/// Longest sleep: bounds what a wake-up lost in a race costs.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// The two rings.
pub(super) struct Rings {
    process: RingBuf<MapData>,
    file: RingBuf<MapData>,
    /// The next process record, copied out of its ring to compare its time; empty when there is none.
    held: Vec<u8>,
    /// The file record at hand. It leaves its ring before it is handed on: while it is there, another thread could show
    /// its alert, and the agent be killed, and the next agent would read it again.
    taken: Vec<u8>,
}

impl Rings {
    pub(super) fn new(process: RingBuf<MapData>, file: RingBuf<MapData>) -> Self {
        Self {
            process,
            file,
            held: Vec::with_capacity(16 * 1024),
            taken: Vec::with_capacity(16 * 1024),
        }
    }

    /// Hands on what was taken out of a ring already, and leaves the rest for the next agent.
    pub(super) fn drain_held(&mut self, mut each: impl FnMut(&[u8])) -> usize {
        if self.held.is_empty() {
            return 0;
        }
        each(&self.held);
        self.held.clear();
        1
    }

    /// Hands on records of both rings in order of time: before a file record, every process record that is older, so that
    /// whoever opened the file is known then.
    pub(super) fn drain(&mut self, limit: usize, mut each: impl FnMut(&[u8])) -> usize {
        let mut drained = 0;
        while drained < limit {
            // The file ring first: whatever made this record wrote its process records before it, so that they are seen.
            let file = self.file.next();
            let mut progressed = false;
            let until = file.as_ref().map_or(u64::MAX, |record| time_of(record));
            loop {
                if self.held.is_empty() {
                    let Some(record) = self.process.next() else { break };
                    self.held.extend_from_slice(&record);
                }
                if time_of(&self.held) > until {
                    break;
                }
                each(&self.held);
                self.held.clear();
                drained += 1;
                progressed = true;
                if file.is_none() {
                    break;
                }
            }
            match file {
                Some(record) => {
                    self.taken.clear();
                    self.taken.extend_from_slice(&record);
                    drop(record);
                    each(&self.taken);
                    drained += 1;
                }
                None if !progressed => break,
                None => {}
            }
        }
        drained
    }
}

/// Time of a record; every record begins with it. A record too short to have one is refused by the decoder.
fn time_of(record: &[u8]) -> u64 {
    record.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

/// Decides between napping and sleeping.
pub(super) struct Sleeper {
    sleeping: Array<MapData, u32>,
    last_record: Instant,
}

impl Sleeper {
    pub(super) fn new(sleeping: Array<MapData, u32>) -> Self {
        Self {
            sleeping,
            last_record: Instant::now(),
        }
    }

    pub(super) fn note(&mut self, drained: usize) {
        if drained > 0 {
            self.last_record = Instant::now();
        }
    }

    pub(super) fn wait(&mut self, rings: &mut Rings, limit: Duration) {
        if self.last_record.elapsed() < AWAKE {
            thread::sleep(NAP.min(limit));
            return;
        }
        // From here on the next record wakes us. One that was written just before is found by the poll itself, which
        // reports a ring that holds anything.
        if self.sleeping.set(0, 1, 0).is_err() {
            thread::sleep(NAP.min(limit));
            return;
        }
        let mut descriptors = [&rings.process, &rings.file].map(|ring| libc::pollfd {
            fd: ring.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        });
        let timeout = i32::try_from(limit.min(SLEEP_MAX).as_millis()).expect("a tenth of a second fits");
        // SAFETY: `descriptors` is valid for its length throughout the call. A signal may end it early, which is fine.
        let _ready = unsafe { libc::poll(descriptors.as_mut_ptr(), 2, timeout) };
        // Awake again, and nobody needs to wake us. On failure a program does so once more than needed.
        let _kept = self.sleeping.set(0, 0, 0);
    }
}
