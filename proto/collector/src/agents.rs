//! `AgentService`: who delivers, as far as it is remembered.

use crate::{
    live::Live,
    security::Peer,
    store::{AgentRecord, AlertLog},
};
use prost_types::Timestamp;
use staghound_proto::v1::{Agent, ListAgentsRequest, ListAgentsResponse, agent_service_server::AgentService};
use std::sync::Arc;
use tonic::{Request, Response, Status};

const PAGE_AGENTS_MAX: usize = 1000;

/// The service.
pub(crate) struct Agents {
    pub(crate) store: Arc<dyn AlertLog>,
    pub(crate) live: Arc<Live>,
}

#[tonic::async_trait]
impl AgentService for Agents {
    async fn list_agents(&self, request: Request<ListAgentsRequest>) -> Result<Response<ListAgentsResponse>, Status> {
        Peer::of(&request)?.consumer()?;
        let request = request.into_inner();
        let agents = self.store.agents().await;
        let agents = agents.map_err(|error| Status::unavailable(error.to_string()))?;
        let size = match usize::try_from(request.page_size).unwrap_or(usize::MAX) {
            0 => PAGE_AGENTS_MAX,
            size => size.min(PAGE_AGENTS_MAX),
        };
        // The token is the last agent told, so that one that comes or goes shifts nothing.
        let rest = agents.partition_point(|record| record.agent_id <= request.page_token);
        let rest = if request.page_token.is_empty() {
            &agents[..]
        } else {
            &agents[rest..]
        };
        let page = &rest[..size.min(rest.len())];
        let next_page_token = page.last().filter(|_| page.len() < rest.len());
        Ok(Response::new(ListAgentsResponse {
            agents: page.iter().map(|record| self.agent(record)).collect(),
            next_page_token: next_page_token
                .map(|record| record.agent_id.clone())
                .unwrap_or_default(),
        }))
    }
}

impl Agents {
    fn agent(&self, record: &AgentRecord) -> Agent {
        let hello = record.hello.clone().unwrap_or_default();
        let time = |seconds| (seconds > 0).then_some(Timestamp { seconds, nanos: 0 });
        Agent {
            agent_id: record.agent_id.clone(),
            host: hello.host,
            agent_version: hello.agent_version,
            contract_version: hello.contract_version,
            capabilities: hello.capabilities,
            ruleset_digest: hello.ruleset_digest,
            epoch: hello.epoch,
            through: record.through,
            connected: self.live.has(&record.agent_id),
            first_seen: time(record.first_seen_s),
            last_seen: time(record.last_seen_s),
            items: record.items,
            sequence_gaps: record.sequence_gaps,
            lost_items: record.lost_items,
            observation_gaps: record.observation_gaps,
            last_gap: time(record.last_gap_s),
            hooks: hello.hooks,
        }
    }
}
