//! Health, reflection, metrics, shutdown, and the command line.

use crate::{
    crash::{Process, binary},
    harness::{Agent, Running, Subscriber, alerts, earliest, hello, lost, within},
};
use staghound_proto::{
    json,
    v1::{Alert, Entry, publish_request},
};
use std::{net::SocketAddr, process::Stdio};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

pub(crate) async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    within("HTTP response", stream.read_to_string(&mut text)).await.unwrap();
    text
}

#[tokio::test]
async fn health_and_metrics_tell_the_state() {
    let running = Running::start().await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", running.address())).unwrap();
    let mut health = HealthClient::new(channel.connect().await.unwrap());
    for service in [
        "",
        "staghound.v1.IngestService",
        "staghound.v1.FeedService",
        "staghound.v1.AgentService",
    ] {
        let response = health
            .check(HealthCheckRequest {
                service: service.to_owned(),
            })
            .await
            .unwrap();
        assert_eq!(response.into_inner().status(), ServingStatus::Serving, "{service}");
    }
    let mut agent = running.agent("a").await;
    agent.deliver(1, vec![lost(1, 2)], 2).await;
    agent.deliver(1, vec![lost(1, 3)], 3).await;
    agent.deliver(2, alerts(2..=4), 4).await;
    let _held = running.stored(3).await;
    let http = running.collector.http_address().unwrap();
    assert!(get(http, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(http, "/readyz").await.ends_with("ready\n"));
    let metrics = get(http, "/metrics").await;
    for line in [
        "staghound_collector_ingest_streams 1",
        "staghound_collector_ingest_items_total 3",
        "staghound_collector_ingest_duplicate_items_total 2",
        "staghound_collector_ingest_sequence_gaps_total 2",
        "staghound_collector_feed_sent_entries_total 3",
        "staghound_collector_store_entries 3",
        "staghound_collector_store_open 1",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line} is not in\n{metrics}"
        );
    }
    running.collector.shutdown().await;
}

#[tokio::test]
async fn shutdown_acknowledges_what_is_under_way_and_tells_everyone() {
    let running = Running::start().await;
    let mut subscriber = running.subscribe(earliest()).await;
    let mut agent = running.agent("a").await;
    agent.deliver(1, alerts(1..=5), 5).await;
    subscriber.entries(5).await;
    let address = running.address();
    within("shutdown", running.collector.shutdown()).await;
    for status in [agent.refused().await, subscriber.next().await.unwrap_err()] {
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("shutting down"), "{status:?}");
    }
    assert!(Agent::connect(address, hello("a")).await.is_err());
}

#[tokio::test]
async fn shutdown_does_not_wait_for_peers_that_say_nothing() {
    let running = Running::start().await;
    let _silent = Agent::open(running.address()).await.unwrap();
    let _idle = TcpStream::connect(running.address()).await.unwrap();
    let _slow = Subscriber::connect(running.address(), earliest()).await.unwrap();
    within("shutdown", running.collector.shutdown()).await;
}

#[tokio::test]
async fn a_message_of_garbage_is_refused() {
    let running = Running::start().await;
    let mut agent = Agent::open(running.address()).await.unwrap();
    agent.send(publish_request::Phase::Hello(hello("\u{0}"))).await;
    assert_eq!(agent.refused().await.code(), Code::InvalidArgument);
    let mut stream = TcpStream::connect(running.address()).await.unwrap();
    stream.write_all(&[0xff; 4096]).await.unwrap();
    running.agent("a").await.deliver(1, alerts(1..=1), 1).await;
    running.collector.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_prints_resumes_at_its_cursor_file_and_tells_a_timeout() {
    let directory = TempDir::new().unwrap();
    let process = Process::start(&directory.path().join("data"));
    let (mut agent, _) = Agent::connect(process.grpc, hello("a")).await.unwrap();
    agent.deliver(1, alerts(1..=2), 2).await;
    agent.deliver(3, vec![lost(3, 4)], 4).await;
    let cursor = directory.path().join("cursor");
    let tail = async |arguments: &[&str]| {
        let mut command = binary();
        command
            .args(["tail", "--url", &format!("http://{}", process.grpc)])
            .args(arguments);
        command
            .arg("--cursor-file")
            .arg(&cursor)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = within("output of tail", output).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, out, err) = tail(&["--from", "earliest", "--count", "1", "--output", "json"]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(json::from_str::<Alert>(out.trim()).unwrap().boot_time_ns, 1);
    let (code, out, _) = tail(&["--count", "2", "--output", "json", "--timeout", "30"]).await;
    assert_eq!(code, Some(0));
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(json::from_str::<Alert>(lines[0]).unwrap().boot_time_ns, 2);
    assert_eq!(json::from_str::<Entry>(lines[1]).unwrap().item, Some(lost(3, 4)));
    let (code, out, err) = tail(&["--count", "1", "--timeout", "1"]).await;
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("timeout: 0 of 1 entries"), "{err}");
    assert_eq!(tail(&["--timeout", "1"]).await.0, Some(0));
    let (code, _, err) = tail(&["--technique", "shadow", "--count", "1"]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("T1003.008"), "{err}");
    assert!(get(process.http, "/readyz").await.ends_with("ready\n"));
}

#[test]
fn the_version_and_completions_are_printed() {
    let version = String::from_utf8(binary().arg("--version").output().unwrap().stdout).unwrap();
    assert!(version.starts_with("staghound-collector 0."), "{version}");
    for shell in ["bash", "zsh", "fish"] {
        let output = binary().args(["completions", shell]).output().unwrap();
        assert!(
            String::from_utf8(output.stdout)
                .unwrap()
                .contains("staghound-collector"),
            "{shell}"
        );
    }
}
