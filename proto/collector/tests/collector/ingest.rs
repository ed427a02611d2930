//! What agents deliver is stored exactly once, or refused with a reason.

use crate::harness::{Agent, EPOCH, Running, alert, alerts, hello, lost, sequences, within};
use proptest::prelude::*;
use staghound_proto::v1::{Alert, Hello, Item, item, publish_request};
use tonic::Code;

#[tokio::test]
async fn delivers_acknowledges_and_drops_duplicates() {
    let running = Running::start().await;
    let (mut agent, welcome) = Agent::connect(running.address(), hello("a")).await.unwrap();
    assert_eq!(
        (welcome.resume_after, welcome.window, welcome.contract_version),
        (0, 8192, 1)
    );
    agent.deliver(1, alerts(1..=3), 3).await;
    agent.deliver(2, alerts(2..=5), 5).await;
    agent.deliver(1, alerts(1..=5), 5).await;
    agent.deliver(6, alerts(6..=6), 6).await;
    let entries = running.stored(6).await;
    assert_eq!(sequences(&entries), [1, 2, 3, 4, 5, 6]);
    for entry in entries {
        assert_eq!((entry.agent_id.as_str(), entry.epoch.as_str()), ("a", EPOCH));
        let Some(item::Kind::Alert(alert)) = entry.item.unwrap().kind else {
            panic!("not an alert")
        };
        assert_eq!(alert.boot_time_ns, entry.sequence);
        assert_eq!(alert.ingest_time, entry.ingest_time);
        assert!(alert.ingest_time.is_some());
    }
    running.collector.shutdown().await;
}

#[tokio::test]
async fn a_hole_is_refused_until_a_gap_explains_it() {
    let running = Running::start().await;
    let mut agent = running.agent("a").await;
    agent.deliver(1, alerts(1..=2), 2).await;
    agent.batch(4, alerts(4..=4)).await;
    let status = agent.refused().await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status.message().contains("batch begins at 4, but 3 is due"),
        "{status:?}"
    );
    let mut agent = running.agent("a").await;
    agent.deliver(3, vec![lost(3, 9), alert(10)], 10).await;
    // The agent had not seen the acknowledgement, and meanwhile lost more.
    agent.deliver(8, vec![lost(8, 12), alert(13)], 13).await;
    let entries = running.stored(6).await;
    assert_eq!(sequences(&entries), [1, 2, 9, 10, 12, 13]);
    assert_eq!(entries[4].item, Some(lost(11, 12)));
    running.collector.shutdown().await;
}

#[tokio::test]
async fn an_agent_resumes_where_the_collector_is_after_both_restart() {
    let running = Running::start().await;
    let mut agent = running.agent("a").await;
    agent.deliver(1, alerts(1..=7), 7).await;
    let running = running.restart().await;
    let (mut agent, welcome) = Agent::connect(running.address(), hello("a")).await.unwrap();
    assert_eq!(welcome.resume_after, 7);
    agent.deliver(5, alerts(5..=9), 9).await;
    let other = Hello {
        epoch: EPOCH.replace('0', "f"),
        ..hello("a")
    };
    let (mut agent, welcome) = Agent::connect(running.address(), other).await.unwrap();
    assert_eq!(welcome.resume_after, 0);
    agent.deliver(1, alerts(1..=1), 1).await;
    assert_eq!(sequences(&running.stored(10).await), [1, 2, 3, 4, 5, 6, 7, 8, 9, 1]);
    running.collector.shutdown().await;
}

#[tokio::test]
async fn a_newer_stream_replaces_the_older() {
    let running = Running::start().await;
    let mut older = running.agent("a").await;
    let mut other = running.agent("b").await;
    let mut newer = running.agent("a").await;
    let status = older.refused().await;
    assert_eq!(status.code(), Code::Aborted);
    assert!(status.message().contains("newer stream"), "{status:?}");
    newer.deliver(1, alerts(1..=1), 1).await;
    other.deliver(1, alerts(1..=1), 1).await;
    running.collector.shutdown().await;
}

#[tokio::test]
async fn bad_streams_are_refused_with_a_reason() {
    let running = Running::start_with(|config| config.window = 4).await;
    let refused = async |first: publish_request::Phase, code: Code, part: &str| {
        let mut agent = Agent::open(running.address()).await.unwrap();
        agent.send(first).await;
        let status = agent.refused().await;
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(part), "{status:?}");
    };
    let batch = publish_request::Phase::Batch;
    let greet = publish_request::Phase::Hello;
    refused(batch(Default::default()), Code::InvalidArgument, "not a hello").await;
    refused(greet(hello("a b")), Code::InvalidArgument, "agent id").await;
    refused(
        greet(Hello {
            epoch: "1".to_owned(),
            ..hello("a")
        }),
        Code::InvalidArgument,
        "epoch",
    )
    .await;
    refused(
        greet(Hello {
            contract_version: 9,
            ..hello("a")
        }),
        Code::FailedPrecondition,
        "update the older",
    )
    .await;

    let refused = async |first: u64, items: Vec<Item>, code: Code, part: &str| {
        let mut agent = running.agent("a").await;
        agent.batch(first, items).await;
        let status = agent.refused().await;
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(part), "{status:?}");
    };
    refused(1, vec![], Code::InvalidArgument, "empty").await;
    refused(0, alerts(1..=1), Code::InvalidArgument, "begin at 1").await;
    refused(
        1,
        vec![Item { kind: None }],
        Code::FailedPrecondition,
        "update the collector",
    )
    .await;
    refused(1, vec![lost(2, 3)], Code::InvalidArgument, "must begin at its place").await;
    refused(1, alerts(1..=5), Code::ResourceExhausted, "the window is 4").await;
    let large = Alert {
        message: "x".repeat(5 << 20),
        ..Alert::default()
    };
    let large = Item {
        kind: Some(item::Kind::Alert(large)),
    };
    refused(1, vec![large], Code::ResourceExhausted, "send smaller batches").await;

    let mut agent = running.agent("a").await;
    agent.send(greet(hello("a"))).await;
    assert!(agent.refused().await.message().contains("only batches may follow"));
    let mut agent = running.agent("a").await;
    agent.deliver(1, alerts(1..=4), 4).await;
    assert_eq!(running.stored(4).await.len(), 4);
    running.collector.shutdown().await;
}

#[tokio::test]
async fn a_silent_peer_and_one_too_many_are_refused() {
    let running = Running::start_with(|config| {
        config.hello_timeout = std::time::Duration::from_millis(50);
        config.agents_max = 1;
    })
    .await;
    let mut silent = Agent::open(running.address()).await.unwrap();
    assert_eq!(silent.refused().await.code(), Code::DeadlineExceeded);
    let _first = running.agent("a").await;
    let refused = Agent::connect(running.address(), hello("b")).await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    running.collector.shutdown().await;
}

#[tokio::test]
async fn a_rolled_back_spool_is_not_taken_for_duplicates() {
    let running = Running::start().await;
    running.agent("a").await.deliver(1, alerts(1..=9), 9).await;
    let rolled_back = Hello {
        first_unacked: 3,
        next_sequence: 5,
        ..hello("a")
    };
    let (mut agent, welcome) = Agent::connect(running.address(), rolled_back.clone()).await.unwrap();
    assert_eq!(welcome.resume_after, 9);
    agent.batch(5, alerts(5..=5)).await;
    let status = agent.refused().await;
    assert!(status.message().contains("delivered through 9 before"), "{status:?}");
    let (mut agent, _) = Agent::connect(running.address(), rolled_back).await.unwrap();
    agent.deliver(10, alerts(10..=10), 10).await;
    running.collector.shutdown().await;
}

#[tokio::test]
async fn many_agents_at_once_are_stored_once_each() {
    let running = Running::start().await;
    let agents = (0..20).map(|number| {
        let address = running.address();
        tokio::spawn(async move {
            let (mut agent, _) = Agent::connect(address, hello(&format!("agent-{number}")))
                .await
                .unwrap();
            for first in (1..=91).step_by(10) {
                agent.batch(first, alerts(first..=first + 9)).await;
            }
            agent.acked(100).await;
        })
    });
    for agent in agents.collect::<Vec<_>>() {
        within("agent", agent).await.unwrap();
    }
    let entries = running.stored(2000).await;
    for number in 0..20 {
        let of_one = entries
            .iter()
            .filter(|entry| entry.agent_id == format!("agent-{number}"));
        assert!(of_one.map(|entry| entry.sequence).eq(1..=100));
    }
    running.collector.shutdown().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Two agents send overlapping batches, drop connections without waiting and resume: exactly once, in order.
    #[test]
    fn any_interleaving_is_exactly_once(steps in prop::collection::vec((0_usize..2, 0_u64..6, 1_u64..9, any::<bool>()), 1..30)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let running = Running::start().await;
            let mut sent = [0_u64; 2];
            let mut agents: [Option<Agent>; 2] = [None, None];
            for (who, back, count, hang_up) in steps {
                let name = ["a", "b"][who];
                let agent = match agents[who].take() {
                    Some(agent) => agent,
                    None => {
                        let (agent, welcome) = Agent::connect(running.address(), hello(name)).await.unwrap();
                        // What was under way when it hung up may or may not have arrived.
                        sent[who] = welcome.resume_after;
                        agent
                    }
                };
                let first = (sent[who] + 1).saturating_sub(back).max(1);
                agent.batch(first, alerts(first..=first + count - 1)).await;
                sent[who] = sent[who].max(first + count - 1);
                if !hang_up {
                    agents[who] = Some(agent);
                }
            }
            let mut total = 0;
            for who in 0..2 {
                drop(agents[who].take());
                let (mut agent, welcome) = Agent::connect(running.address(), hello(["a", "b"][who])).await.unwrap();
                let through = sent[who].max(welcome.resume_after) + 1;
                agent.deliver(welcome.resume_after + 1, alerts(welcome.resume_after + 1..=through), through).await;
                sent[who] = through;
                total += usize::try_from(through).unwrap();
            }
            let entries = running.stored(total).await;
            for who in 0..2 {
                let of_one: Vec<u64> = entries.iter().filter(|entry| entry.agent_id == ["a", "b"][who]).map(|entry| entry.sequence).collect();
                assert!(of_one.iter().copied().eq(1..=sent[who]), "{of_one:?}");
            }
            running.collector.shutdown().await;
        });
    }
}
