//! The real binary, killed at any moment under load: nothing acknowledged is lost, nothing is there twice.

use crate::harness::{Agent, EPOCH, Subscriber, alerts, earliest, hello, within};
use staghound_proto::v1::{publish_response, subscribe_response};
use std::{
    fs,
    io::Read as _,
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::sync::watch;

const ROUNDS: u32 = 6;
const AGENTS: u64 = 3;

/// A collector process; killed when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
}

impl Process {
    /// Starts the binary and waits until it serves.
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    pub(crate) fn start_with(data: &Path, arguments: &[String]) -> Self {
        let ports = data.with_extension("ports");
        drop(fs::remove_file(&ports));
        let mut command = binary();
        command.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--log",
            "warn",
        ]);
        let mut child = command
            .args(arguments)
            .arg("--data")
            .arg(data)
            .arg("--port-file")
            .arg(&ports)
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let text = loop {
            if let Ok(text) = fs::read_to_string(&ports) {
                break text;
            }
            assert_eq!(child.try_wait().unwrap(), None, "the collector ended early");
            assert!(Instant::now() < deadline, "the collector does not serve");
            std::thread::yield_now();
        };
        let mut lines = text.lines().map(|line| line.parse().unwrap());
        Self {
            child,
            grpc: lines.next().unwrap(),
            http: lines.next().unwrap(),
        }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(9));
    }

    /// Asks it to end and waits for it.
    pub(crate) async fn terminate(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        within("end", async move {
            tokio::task::spawn_blocking(move || self.child.wait().unwrap().code())
                .await
                .unwrap()
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_staghound-collector"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_loses_and_duplicates_nothing() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    let mut process = Process::start(&data);
    let (address, addresses) = watch::channel(process.grpc);
    let (finish, finishing) = watch::channel(false);
    let (acknowledged, acks) = watch::channel(0_u64);
    let agents: Vec<_> = (0..AGENTS)
        .map(|number| {
            let (addresses, finishing, acknowledged) = (addresses.clone(), finishing.clone(), acknowledged.clone());
            tokio::spawn(load(format!("agent-{number}"), addresses, finishing, acknowledged))
        })
        .collect();
    for round in 0..ROUNDS {
        // Each round dies after another amount of progress, in the middle of whatever is under way then.
        let target = *acks.borrow() + 200 + u64::from(round) * 377;
        let mut acks = acks.clone();
        within("progress", acks.wait_for(|count| *count >= target))
            .await
            .unwrap();
        process.kill();
        process = Process::start(&data);
        address.send_replace(process.grpc);
    }
    finish.send_replace(true);
    let mut total = 0;
    let mut through = Vec::new();
    for agent in agents {
        let last = within("agent", agent).await.unwrap();
        through.push(last);
        total += last;
    }
    let mut subscriber = Subscriber::connect(process.grpc, earliest()).await.unwrap();
    let mut next = vec![1; through.len()];
    while next.iter().sum::<u64>() < total + AGENTS {
        let subscribe_response::Phase::Entries(entries) = subscriber.next().await.unwrap() else {
            continue;
        };
        for entry in entries.entries {
            let number: usize = entry.agent_id.strip_prefix("agent-").unwrap().parse().unwrap();
            assert_eq!(
                (entry.sequence, entry.epoch.as_str()),
                (next[number], EPOCH),
                "{}",
                entry.agent_id
            );
            next[number] += 1;
        }
    }
    assert!(
        next.iter().zip(&through).all(|(next, through)| *next == through + 1),
        "{next:?} {through:?}"
    );
    assert_eq!(process.terminate().await, Some(0));
}

/// Delivers as fast as it goes, through every crash, and checks that no acknowledgement was taken back.
async fn load(
    id: String,
    mut addresses: watch::Receiver<SocketAddr>,
    finishing: watch::Receiver<bool>,
    acknowledged: watch::Sender<u64>,
) -> u64 {
    const BATCH: u64 = 16;
    let mut acked = 0;
    loop {
        let address = *addresses.borrow_and_update();
        if let Ok((mut agent, welcome)) = Agent::connect(address, hello(&id)).await {
            assert!(
                welcome.resume_after >= acked,
                "{} was acknowledged, {} is there",
                acked,
                welcome.resume_after
            );
            let mut sent = welcome.resume_after;
            acked = sent;
            loop {
                let finish = *finishing.borrow();
                if finish && acked == sent {
                    return acked;
                }
                if !finish && sent - acked < 4 * BATCH {
                    agent.batch(sent + 1, alerts(sent + 1..=sent + BATCH)).await;
                    sent += BATCH;
                    continue;
                }
                let Ok(Some(response)) = agent.response().await else {
                    break;
                };
                let Some(publish_response::Phase::Ack(ack)) = response.phase else {
                    panic!("not an ack")
                };
                assert!(ack.through > acked && ack.through <= sent);
                acknowledged.send_modify(|count| *count += ack.through - acked);
                acked = ack.through;
            }
        }
        // A lost collector comes back under another address.
        within("new collector", addresses.wait_for(|new| *new != address))
            .await
            .unwrap();
    }
}

#[test]
fn a_crash_while_the_store_was_made_does_not_stop_the_next_start() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("index.redb.new"), b"half").unwrap();
    Process::start(&data).kill();
    Process::start(&data).kill();
}

#[tokio::test]
async fn a_store_that_cannot_be_used_gives_one_clear_error() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    let fails = |data: &Path, arguments: &[&str], parts: &[&str]| {
        let mut command = binary();
        command.args(["serve", "--no-http", "--log", "warn"]).args(arguments);
        let mut child = command.arg("--data").arg(data).stderr(Stdio::piped()).spawn().unwrap();
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in parts {
            assert!(text.contains(part), "{text}");
        }
    };
    let free = ["--listen", "127.0.0.1:0"];
    let process = Process::start(&data);
    fails(&data, &free, &["is in use by another staghound-collector", "--data"]);
    let taken = process.grpc.to_string();
    fails(
        &directory.path().join("other"),
        &["--listen", &taken],
        &["cannot listen on", &taken],
    );
    assert_eq!(process.terminate().await, Some(0));
    fails(
        &directory.path().join("third"),
        &["--listen", "0.0.0.0:0"],
        &["refusing to listen", "--insecure-plaintext"],
    );

    let index = data.join("index.redb");
    fs::write(&index, b"no store at all").unwrap();
    fails(&data, &free, &["cannot open store", "index.redb", "move it away"]);
    fs::remove_file(&index).unwrap();
    fails(&data, &free, &["it is missing although there are segments"]);
    let database = redb::Database::create(&index).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    transaction.open_table(meta).unwrap().insert("format", 77).unwrap();
    transaction.commit().unwrap();
    drop(database);
    fails(&data, &free, &["has format 77", "reads format 2"]);
    fails(
        Path::new("/proc/staghound"),
        &[],
        &["cannot use data directory /proc/staghound"],
    );
}
