//! A control group for the command and everything below it: whoever leaves the process tree stays in the group.
//!
//! Version 2 only, its own mount or the one beside version 1's. No controller is used, so nothing is limited and the group
//! may be made anywhere below our own.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How long killed processes may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// Groups that the command made inside its own and that are looked into.
const GROUPS_MAX: usize = 1000;

/// A group of our own; removed when it is dropped, if nobody is in it any more.
pub(super) struct Cgroup {
    path: PathBuf,
    processes: File,
}

impl Cgroup {
    /// Makes the group for a run.
    ///
    /// # Errors
    /// There is no version 2 hierarchy, or we may not write to it.
    pub(super) fn create(run_id: &str) -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let none = || io::Error::new(io::ErrorKind::NotFound, "no control groups of version 2 are mounted");
        let (root, mount) = hierarchy(&mounts).ok_or_else(none)?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).ok_or_else(none)?;
        // The mount may show only a part of the hierarchy.
        let below = Path::new(own).strip_prefix(&root).unwrap_or(Path::new(""));
        let path = mount.join(below).join(format!("staghound-run-{run_id}"));
        fs::create_dir(&path)?;
        match OpenOptions::new().write(true).open(path.join("cgroup.procs")) {
            Ok(processes) => Ok(Self { path, processes }),
            Err(error) => {
                fs::remove_dir(&path)?;
                Err(error)
            }
        }
    }

    /// The file that whoever writes `0` to it enters the group by.
    pub(super) fn entrance(&self) -> BorrowedFd<'_> {
        self.processes.as_fd()
    }

    /// Whether this process runs outside of the group: it could not enter. One that has ended already could.
    pub(super) fn lacks(&self, pid: u32) -> bool {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Ok(groups) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else {
            return false;
        };
        let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
        own.is_some_and(|path| !path.split('/').any(|part| part == name))
    }

    /// Everybody in the group and in those below it.
    pub(super) fn pids(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self
            .groups()
            .iter()
            .filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok())
            .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>())
            .filter(|pid| *pid != 0)
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Kills everybody who is in it now, where the kernel can do so at once (5.14), and does not wait for it.
    pub(super) fn kill_now(&self) {
        // Where it cannot, `kill` does at the end.
        let _not_here = fs::write(self.path.join("cgroup.kill"), "1");
    }

    /// Kills everybody in it, whatever they do to get away; yields how many are left after a while.
    pub(super) fn kill(&self) -> usize {
        // Since 5.14 the kernel does it at once.
        let at_once = fs::write(self.path.join("cgroup.kill"), "1").is_ok();
        let until = Instant::now() + KILL_WAIT;
        loop {
            let pids = self.pids();
            if pids.is_empty() || Instant::now() >= until {
                return pids.len();
            }
            if !at_once {
                for pid in pids.into_iter().filter_map(|pid| i32::try_from(pid).ok()) {
                    // SAFETY: kill(2) has no preconditions. The pid was in our group a moment ago.
                    unsafe { libc::kill(pid, libc::SIGKILL) };
                }
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// This group and those below it, children first.
    fn groups(&self) -> Vec<PathBuf> {
        let mut groups = vec![self.path.clone()];
        let mut at = 0;
        while at < groups.len() && groups.len() < GROUPS_MAX {
            if let Ok(entries) = fs::read_dir(&groups[at]) {
                let directories = entries
                    .flatten()
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
                groups.extend(directories.map(|entry| entry.path()));
            }
            at += 1;
        }
        groups.reverse();
        groups
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for group in self.groups() {
            // Somebody is still in it: then it stays, and is theirs.
            let _kept = fs::remove_dir(group);
        }
    }
}

/// The version 2 hierarchy: which part of it is mounted, and where.
fn hierarchy(mountinfo: &str) -> Option<(PathBuf, PathBuf)> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, mount) = (fields.next()?, fields.next()?);
        after
            .starts_with("cgroup2 ")
            .then(|| (PathBuf::from(unescaped(root)), PathBuf::from(unescaped(mount))))
    })
}

/// Blanks and the like in `/proc/self/mountinfo` are `\040`.
fn unescaped(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_where_it_is_mounted() {
        let hybrid = "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:5 - cgroup2 cgroup2 rw\n\
                      32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let found = hierarchy(hybrid).unwrap();
        assert_eq!(found, (PathBuf::from("/"), PathBuf::from("/sys/fs/cgroup/unified")));
        let part = "9 8 0:1 /kube/pod\\0401 /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(hierarchy(part).unwrap().0, PathBuf::from("/kube/pod 1"));
        assert_eq!(hierarchy("1 2 0:1 / /x rw - cgroup cgroup rw\n"), None);
        assert_eq!(hierarchy("garbage"), None);
    }
}
