//! What earlier records tell of later ones: the paths that the kernel resolved for a call that is under way, and who
//! opened a connection that ends.
//!
//! Invariant: everything here is bounded, and what the bounds cost is counted.

use std::{collections::VecDeque, sync::Arc};

use hashbrown::HashMap;
use staghound_ebpf::{Header, Resolved, Socket};

use crate::{
    process::{Credentials, Process, ProcessTable},
    sensor::decode::{Body, Record, until_nul},
};

/// Most threads whose resolved paths are kept.
const RESOLVED_MAX: usize = 4096;
/// A call acts on its paths at once: what is older belongs to a call that was not recorded.
const RESOLVED_NS: u64 = 1_000_000_000;
/// Most connections that are known at a time.
const CONNECTIONS_MAX: usize = 65_536;
/// For so many of the newest connections the process is kept though it has ended. More would let a process that
/// connects and ends, over and over, fill the memory with arguments.
const ENDED_KEPT: usize = 1024;

/// So many of the newest connections are looked through for that of a descriptor.
const LATELY: usize = 1024;
/// A process and so many less one of its ancestors may have opened it.
const INHERITED_FROM: usize = 4;

/// Paths that the kernel has resolved.
#[derive(Debug)]
pub(super) struct Paths {
    /// The first.
    pub(super) path: Box<[u8]>,
    /// The second, of a rename or link.
    pub(super) new_path: Option<Box<[u8]>>,
}

#[derive(Debug)]
struct Pending {
    time_ns: u64,
    syscall: u32,
    paths: Paths,
}

/// Who opened a connection, and when.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    /// When it was made or asked for, in nanoseconds since boot.
    pub(super) since_ns: u64,
    /// Whether the other end asked for it.
    pub(super) is_server: bool,
    /// Its socket, as it was then.
    pub(super) socket: Socket,
    /// Thread that opened it.
    pub(super) tid: u32,
    /// Parent of the process at that moment.
    pub(super) ppid: u32,
    /// Name of the thread at that moment.
    pub(super) comm: Box<[u8]>,
    /// Who it ran as.
    pub(super) credentials: Credentials,
    /// Control group (v2).
    pub(super) cgroup_id: u64,
    pid: u32,
    start_ns: u64,
    process: Option<Arc<Process>>,
    serial: u64,
}

/// What keeping it has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecallCounts {
    /// Connections that were forgotten, because the table was full: their ends will not be told.
    pub connections_evicted: u64,
}

/// What is remembered from one record to the next.
#[derive(Debug, Default)]
pub struct Recall {
    resolved: HashMap<u32, Pending>,
    /// Threads in the order of their entries; those that were used up stay until they are the oldest.
    resolved_order: VecDeque<(u32, u64)>,
    connections: HashMap<u64, Connection>,
    /// Connections in the order in which they were opened, likewise.
    opened: VecDeque<(u64, u64)>,
    serial: u64,
    counts: RecallCounts,
}

impl Recall {
    /// What keeping it has cost.
    #[must_use]
    pub fn counts(&self) -> RecallCounts {
        self.counts
    }

    /// Who a record is about, with the process table brought up to date; none when that cannot be known: the end of a
    /// connection is told by whoever ran then.
    pub fn actor(&self, record: &Record<'_>, table: &mut ProcessTable) -> Option<Arc<Process>> {
        let Body::Ended(ended) = &record.body else {
            return Some(table.apply(record));
        };
        let connection = self.connections.get(&ended.socket)?;
        match table.get(connection.pid) {
            Some(known) if known.start_ns == connection.start_ns => Some(Arc::clone(known)),
            Some(_) | None => connection.process.clone(),
        }
    }

    /// Keeps what the kernel resolved for the call that a thread is in.
    pub(super) fn keep_resolved(&mut self, record: &Record<'_>, resolved: &Resolved) {
        let walked = |span| {
            let mut path = Vec::new();
            record.walked_path(span, &mut path);
            path.into_boxed_slice()
        };
        let header = &record.header;
        let pending = Pending {
            time_ns: header.time_ns,
            syscall: header.syscall,
            paths: Paths {
                path: walked(resolved.path),
                new_path: (resolved.new_path.len > 0).then(|| walked(resolved.new_path)),
            },
        };
        if self.resolved_order.len() >= RESOLVED_MAX
            && let Some((tid, time_ns)) = self.resolved_order.pop_front()
            && self.resolved.get(&tid).is_some_and(|oldest| oldest.time_ns == time_ns)
        {
            self.resolved.remove(&tid);
        }
        self.resolved.insert(header.tid, pending);
        self.resolved_order.push_back((header.tid, header.time_ns));
    }

    /// What was resolved for the call that this record tells the end of. Any record of a thread uses it up: the next
    /// call of the thread has paths of its own.
    pub(super) fn take_resolved(&mut self, header: &Header) -> Option<Paths> {
        if self.resolved.is_empty() {
            return None;
        }
        let pending = self.resolved.remove(&header.tid)?;
        let is_same_call = pending.syscall == header.syscall || pending.syscall == 0;
        let is_fresh =
            pending.time_ns <= header.time_ns && header.time_ns.saturating_sub(pending.time_ns) <= RESOLVED_NS;
        (is_same_call && is_fresh).then_some(pending.paths)
    }

    /// Keeps who opened a connection.
    pub(super) fn keep_connection(
        &mut self,
        header: &Header,
        socket: &Socket,
        is_server: bool,
        process: &Arc<Process>,
    ) {
        if socket.identity == 0 {
            return;
        }
        if self.connections.len() >= CONNECTIONS_MAX && !self.connections.contains_key(&socket.identity) {
            self.forget_oldest();
        }
        self.serial += 1;
        let connection = Connection {
            since_ns: header.time_ns,
            is_server,
            socket: *socket,
            tid: header.tid,
            ppid: header.ppid,
            comm: until_nul(&header.comm).into(),
            credentials: Credentials::of(header),
            cgroup_id: header.cgroup_id,
            pid: process.pid,
            start_ns: process.start_ns,
            process: Some(Arc::clone(process)),
            serial: self.serial,
        };
        self.connections.insert(socket.identity, connection);
        self.opened.push_back((socket.identity, self.serial));
        if self.opened.len() >= 2 * CONNECTIONS_MAX {
            let connections = &self.connections;
            self.opened
                .retain(|(identity, serial)| is_known(connections, *identity, *serial));
        }
        // The process table knows the processes that run; only of ended ones this is the last trace.
        if let Some(&(identity, serial)) = self
            .opened
            .len()
            .checked_sub(ENDED_KEPT + 1)
            .and_then(|at| self.opened.get(at))
            && let Some(connection) = self.connections.get_mut(&identity)
            && connection.serial == serial
        {
            connection.process = None;
        }
    }

    /// Who opened a connection that has ended.
    pub(super) fn take_connection(&mut self, identity: u64, ports: (u16, u16)) -> Option<Connection> {
        let connection = self.connections.remove(&identity)?;
        // The kernel uses the memory of a socket again: one whose end was lost must not lend its name to another.
        let agree = |known: u16, told: u16| known == told || known == 0 || told == 0;
        let socket = &connection.socket;
        (agree(socket.local_port, ports.0) && agree(socket.remote_port, ports.1)).then_some(connection)
    }

    /// The connection behind a descriptor of a process, if it or one of its nearest ancestors opened it lately: a child
    /// has the descriptors of its parent.
    pub(super) fn connection_at(&self, process: &Process, descriptor: u32) -> Option<&Connection> {
        let is_of_family = |connection: &Connection| {
            std::iter::once(process)
                .chain(process.ancestors())
                .take(INHERITED_FROM)
                .any(|relative| (relative.pid, relative.start_ns) == (connection.pid, connection.start_ns))
        };
        self.opened
            .iter()
            .rev()
            .take(LATELY)
            .filter_map(|(identity, serial)| {
                let connection = self.connections.get(identity)?;
                (connection.serial == *serial).then_some(connection)
            })
            .find(|connection| connection.socket.descriptor == descriptor && is_of_family(connection))
    }

    fn forget_oldest(&mut self) {
        while let Some((identity, serial)) = self.opened.pop_front() {
            if is_known(&self.connections, identity, serial) {
                self.connections.remove(&identity);
                self.counts.connections_evicted += 1;
                return;
            }
        }
    }
}

fn is_known(connections: &HashMap<u64, Connection>, identity: u64, serial: u64) -> bool {
    connections
        .get(&identity)
        .is_some_and(|connection| connection.serial == serial)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensor::decode::decode;
    use staghound_ebpf::{Kind, Span};
    use zerocopy::IntoBytes as _;

    fn resolved(recall: &mut Recall, tid: u32, time_ns: u64, syscall: u32) {
        let body = Resolved {
            path: Span { offset: 0, len: 4 },
            new_path: Span::default(),
        };
        let header = Header {
            kind: Kind::Resolved as u16,
            len: u32::try_from(size_of::<Header>() + size_of::<Resolved>() + 4).unwrap(),
            tid,
            time_ns,
            syscall,
            ..Header::default()
        };
        let bytes = [header.as_bytes(), body.as_bytes(), b"x\0y\0"].concat();
        let record = decode(&bytes).unwrap();
        recall.keep_resolved(&record, &body);
    }

    fn header(tid: u32, time_ns: u64, syscall: u32) -> Header {
        Header {
            tid,
            time_ns,
            syscall,
            ..Header::default()
        }
    }

    #[test]
    fn resolved_paths_belong_to_the_next_record_of_the_thread() {
        for (told, asked, expected) in [
            ((7, 10, 82), (7, 20, 82), true),
            ((7, 10, 0), (7, 20, 82), true),
            ((7, 10, 82), (8, 20, 82), false),
            ((7, 10, 82), (7, 20, 87), false),
            ((7, 10, 82), (7, 10 + RESOLVED_NS + 1, 82), false),
            ((7, 10, 82), (7, 9, 82), false),
        ] {
            let mut recall = Recall::default();
            resolved(&mut recall, told.0, told.1, told.2);
            let header = header(asked.0, asked.1, asked.2);
            let taken = recall.take_resolved(&header);
            assert_eq!(taken.is_some(), expected, "{told:?} {asked:?}");
            if let Some(taken) = taken {
                assert_eq!(&*taken.path, b"/y/x");
                assert!(taken.new_path.is_none());
                assert!(recall.take_resolved(&header).is_none(), "it is used up");
            }
        }
    }

    #[test]
    fn resolved_paths_are_bounded() {
        let mut recall = Recall::default();
        let threads = u32::try_from(RESOLVED_MAX).unwrap() + 10;
        for tid in 1..=threads {
            resolved(&mut recall, tid, u64::from(tid), 0);
        }
        assert_eq!(recall.resolved.len(), RESOLVED_MAX);
        assert!(recall.take_resolved(&header(10, u64::from(threads), 1)).is_none());
        assert!(recall.take_resolved(&header(11, u64::from(threads), 1)).is_some());
        // One thread alone, over and over, forgets itself only when it is told anew.
        for time_ns in 0..u64::from(threads) * 3 {
            resolved(&mut recall, 1, 100_000 + time_ns, 0);
        }
        assert!(recall.resolved_order.len() <= RESOLVED_MAX);
        assert!(recall.take_resolved(&header(1, 200_000, 1)).is_some());
    }

    fn opened(recall: &mut Recall, identity: u64, process: &Arc<Process>) {
        let socket = Socket {
            identity,
            local_port: 1000,
            remote_port: 443,
            ..Socket::default()
        };
        recall.keep_connection(&header(9, identity, 42), &socket, false, process);
    }

    fn process() -> Arc<Process> {
        let header = Header {
            kind: Kind::Exit as u16,
            len: u32::try_from(size_of::<Header>() + 8).unwrap(),
            pid: 5_000_000,
            ..Header::default()
        };
        let bytes = [header.as_bytes(), &[0; 8]].concat();
        ProcessTable::default().apply(&decode(&bytes).unwrap())
    }

    #[test]
    fn connections_are_known_by_their_socket() {
        let mut recall = Recall::default();
        let process = process();
        opened(&mut recall, 5, &process);
        opened(&mut recall, 0, &process);
        assert!(recall.take_connection(0, (0, 0)).is_none());
        assert!(recall.take_connection(6, (1000, 443)).is_none());
        assert_eq!(recall.take_connection(5, (1000, 443)).unwrap().since_ns, 5);
        assert!(recall.take_connection(5, (1000, 443)).is_none(), "it has ended");
        opened(&mut recall, 5, &process);
        assert!(recall.take_connection(5, (1001, 443)).is_none(), "another socket");
        opened(&mut recall, 5, &process);
        assert!(recall.take_connection(5, (0, 443)).is_some());
    }

    #[test]
    fn connections_are_bounded() {
        let mut recall = Recall::default();
        let process = process();
        let max = u64::try_from(CONNECTIONS_MAX).unwrap();
        for identity in 1..=max + 3 {
            opened(&mut recall, identity, &process);
        }
        assert_eq!(recall.connections.len(), CONNECTIONS_MAX);
        assert_eq!(recall.counts().connections_evicted, 3);
        assert!(recall.take_connection(3, (1000, 443)).is_none());
        assert!(recall.take_connection(4, (1000, 443)).is_some());
        let kept = recall
            .connections
            .values()
            .filter(|connection| connection.process.is_some());
        assert_eq!(kept.count(), ENDED_KEPT);
        // Opened and ended, over and over: nothing is left behind, and nothing is forgotten.
        for _ in 0..3 * max {
            opened(&mut recall, max * 9, &process);
            recall.take_connection(max * 9, (1000, 443)).unwrap();
        }
        assert!(recall.opened.len() <= 2 * CONNECTIONS_MAX);
        assert_eq!(recall.counts().connections_evicted, 3);
    }
}
