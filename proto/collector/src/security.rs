//! Who may talk to the collector: TLS with certificates on both sides, what they say of the peer, and what the peer may do.
//!
//! Plaintext is for loopback. There nobody is anybody, and everyone may do everything.

pub mod certs;
pub mod client;
pub mod tls;

pub(crate) mod identity;
pub(crate) mod listener;

use identity::Identity;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use tonic::{Request, Status};

/// Requests that a connection may make at once, and then per second. A stream is one request.
const REQUESTS_BURST: f64 = 200.0;
const REQUESTS_PER_SECOND: f64 = 50.0;

/// The other end of a connection; an extension of every request.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// What its certificate says. `None`: it has none, since the connection is not encrypted.
    identity: Option<Arc<Identity>>,
    bucket: Arc<Mutex<Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

/// What a peer is allowed to say of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// Any name: nothing is known of it.
    Anyone,
    /// This name only.
    Only(String),
}

impl Allowed {
    pub(crate) fn permits(&self, name: &str) -> bool {
        match self {
            Self::Anyone => true,
            Self::Only(only) => only == name,
        }
    }
}

impl Peer {
    pub(crate) fn new(address: SocketAddr, identity: Option<Identity>) -> Self {
        let bucket = Bucket {
            tokens: REQUESTS_BURST,
            filled: Instant::now(),
        };
        Self {
            address,
            identity: identity.map(Arc::new),
            bucket: Arc::new(Mutex::new(bucket)),
        }
    }

    /// Who made a request.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<&Self, Status> {
        let peer = request.extensions().get();
        peer.ok_or_else(|| Status::internal("the connection is unknown; this is a defect, please report it"))
    }

    /// Counts a request against what the connection may make.
    pub(crate) fn count(&self) -> Result<(), Status> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let filled = now.duration_since(bucket.filled).as_secs_f64() * REQUESTS_PER_SECOND;
        bucket.tokens = (bucket.tokens + filled).min(REQUESTS_BURST);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            let message = format!(
                "too many requests on one connection, {REQUESTS_PER_SECOND} per second are served; keep streams open instead of opening new ones"
            );
            return Err(Status::resource_exhausted(message));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }

    /// Which agent may deliver here.
    pub(crate) fn agent(&self) -> Result<Allowed, Status> {
        match self.identity.as_deref() {
            None => Ok(Allowed::Anyone),
            Some(Identity::Agent(id)) => Ok(Allowed::Only(id.clone())),
            Some(other @ (Identity::Consumer(_) | Identity::Nobody(_))) => {
                Err(denied(other, "may not deliver", "staghound://agent/<agent id>"))
            }
        }
    }

    /// Which consumer may read here.
    pub(crate) fn consumer(&self) -> Result<Allowed, Status> {
        match self.identity.as_deref() {
            None => Ok(Allowed::Anyone),
            Some(Identity::Consumer(name)) => Ok(Allowed::Only(name.clone())),
            Some(other @ (Identity::Agent(_) | Identity::Nobody(_))) => {
                Err(denied(other, "may not read", "staghound://consumer/<name>"))
            }
        }
    }
}

fn denied(identity: &Identity, what: &str, wanted: &str) -> Status {
    Status::permission_denied(format!(
        "{identity} {what}; use a certificate with the URI {wanted} among its alternative names"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn peer(identity: Option<Identity>) -> Peer {
        Peer::new(SocketAddr::from(([127, 0, 0, 1], 1)), identity)
    }

    #[test]
    fn roles() {
        let agent = peer(Some(Identity::Agent("a".to_owned())));
        let consumer = peer(Some(Identity::Consumer("siem".to_owned())));
        let nobody = peer(Some(Identity::Nobody("no URI of ours".to_owned())));
        assert_eq!(agent.agent().unwrap(), Allowed::Only("a".to_owned()));
        assert_eq!(consumer.consumer().unwrap(), Allowed::Only("siem".to_owned()));
        assert_eq!(peer(None).agent().unwrap(), Allowed::Anyone);
        for status in [agent.consumer(), consumer.agent(), nobody.agent(), nobody.consumer()] {
            let status = status.unwrap_err();
            assert_eq!(status.code(), Code::PermissionDenied);
            assert!(status.message().contains("staghound://"), "{status:?}");
        }
        assert!(!Allowed::Only("a".to_owned()).permits("b"));
    }

    #[test]
    fn a_connection_that_asks_too_often_is_refused() {
        let peer = peer(None);
        let refused = (0..1000).filter(|_| peer.count().is_err()).count();
        assert!((700..=800).contains(&refused), "{refused}");
    }
}
