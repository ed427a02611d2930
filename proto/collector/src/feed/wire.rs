//! What goes to subscribers, with items as the bytes that were stored: nothing is decoded only to be encoded again.
//!
//! On the wire these are `SubscribeResponse` and its parts; a test holds them against each other.

use super::Feed;
use prost::bytes::Bytes;
use prost_types::Timestamp;
use staghound_proto::v1::{Heartbeat, SubscribeRequest};
use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::{CompressionEncoding, EnabledCompressionEncodings},
    codegen::{BoxFuture, Service, http},
    server::{Grpc, NamedService, StreamingService},
};
use tonic_prost::ProstCodec;

/// What a consumer says is small.
const REQUEST_BYTES_MAX: usize = 256 << 10;
const SUBSCRIBE: &str = "/staghound.v1.FeedService/Subscribe";

/// `SubscribeResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Sent {
    #[prost(message, optional, tag = "1")]
    pub(crate) entries: Option<SentEntries>,
    #[prost(message, optional, tag = "2")]
    pub(crate) heartbeat: Option<Heartbeat>,
}

/// `Entries`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SentEntries {
    #[prost(message, repeated, tag = "1")]
    pub(crate) entries: Vec<SentEntry>,
    #[prost(bool, tag = "2")]
    pub(crate) lost_before: bool,
}

/// `Entry`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SentEntry {
    #[prost(string, tag = "1")]
    pub(crate) cursor: String,
    #[prost(string, tag = "2")]
    pub(crate) agent_id: String,
    #[prost(string, tag = "3")]
    pub(crate) epoch: String,
    #[prost(uint64, tag = "4")]
    pub(crate) sequence: u64,
    #[prost(message, optional, tag = "5")]
    pub(crate) ingest_time: Option<Timestamp>,
    /// An encoded `Item`; a message and bytes look alike on the wire.
    #[prost(bytes = "bytes", tag = "6")]
    pub(crate) item: Bytes,
}

/// `FeedService` as gRPC serves it. The generated server insists on messages that are decoded.
#[derive(Clone)]
pub(crate) struct FeedServer(Arc<Feed>);

impl FeedServer {
    pub(crate) fn new(feed: Feed) -> Self {
        Self(Arc::new(feed))
    }
}

impl NamedService for FeedServer {
    const NAME: &'static str = staghound_proto::v1::feed_service_server::SERVICE_NAME;
}

struct Subscribe(Arc<Feed>);

impl StreamingService<SubscribeRequest> for Subscribe {
    type Response = Sent;
    type ResponseStream = ReceiverStream<Result<Sent, Status>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<SubscribeRequest>>) -> Self::Future {
        let feed = Arc::clone(&self.0);
        Box::pin(async move { feed.subscribe(request) })
    }
}

impl Service<http::Request<Body>> for FeedServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let feed = Arc::clone(&self.0);
        Box::pin(async move {
            if request.uri().path() != SUBSCRIBE {
                return Ok(Status::unimplemented("FeedService has the method Subscribe").into_http());
            }
            let mut compressions = EnabledCompressionEncodings::default();
            compressions.enable(CompressionEncoding::Gzip);
            compressions.enable(CompressionEncoding::Zstd);
            let mut grpc = Grpc::new(ProstCodec::<Sent, SubscribeRequest>::default())
                .apply_compression_config(EnabledCompressionEncodings::default(), compressions)
                .apply_max_message_size_config(Some(REQUEST_BYTES_MAX), None);
            Ok(grpc.streaming(Subscribe(feed), request).await)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use staghound_proto::v1::{Alert, Entries, Entry, Item, SubscribeResponse, item, subscribe_response};

    #[test]
    fn what_is_sent_is_what_the_contract_says() {
        let alert = Alert {
            message: "m".to_owned(),
            ..Alert::default()
        };
        let item = Item {
            kind: Some(item::Kind::Alert(alert)),
        };
        let time = Some(Timestamp { seconds: 7, nanos: 8 });
        let sent = SentEntry {
            cursor: "c".to_owned(),
            agent_id: "a".to_owned(),
            epoch: "e".to_owned(),
            sequence: 9,
            ingest_time: time,
            item: item.encode_to_vec().into(),
        };
        let sent = Sent {
            entries: Some(SentEntries {
                entries: vec![sent],
                lost_before: true,
            }),
            heartbeat: None,
        };
        let entry = Entry {
            cursor: "c".to_owned(),
            agent_id: "a".to_owned(),
            epoch: "e".to_owned(),
            sequence: 9,
            ingest_time: time,
            item: Some(item),
        };
        let entries = Entries {
            entries: vec![entry],
            lost_before: true,
        };
        let phase = Some(subscribe_response::Phase::Entries(entries));
        let decoded = SubscribeResponse::decode(sent.encode_to_vec().as_slice()).unwrap();
        assert_eq!(decoded, SubscribeResponse { phase });
        let heartbeat = Heartbeat {
            cursor: "h".to_owned(),
            time,
            lost_before: true,
        };
        let sent = Sent {
            entries: None,
            heartbeat: Some(heartbeat.clone()),
        };
        let decoded = SubscribeResponse::decode(sent.encode_to_vec().as_slice()).unwrap();
        assert_eq!(decoded.phase, Some(subscribe_response::Phase::Heartbeat(heartbeat)));
    }
}
