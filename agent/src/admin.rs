//! The agent's own HTTP port: metrics, health and standard gRPC health.

use crate::metrics::{self, Metrics};
use crate::shutdown::Shutdown;
use axum::Router;
use axum::http::{StatusCode, header::CONTENT_TYPE};
use axum::routing::get;
use std::collections::BTreeMap;
use std::future::IntoFuture as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic_health::ServingStatus;

/// How long open connections may go on after shutdown.
const LINGER: Duration = Duration::from_secs(1);

/// Which conditions of readiness are met. Clones share them.
#[derive(Clone)]
pub struct Readiness(Arc<watch::Sender<Conditions>>);

/// Why a condition is not met, by its name; `None` when it is.
type Conditions = BTreeMap<&'static str, Option<String>>;

impl Readiness {
    /// Nothing of this is ready until it says so.
    pub fn new(conditions: &[&'static str]) -> Self {
        let conditions = conditions
            .iter()
            .map(|&name| (name, Some("not yet started".to_owned())))
            .collect();
        Self(Arc::new(watch::Sender::new(conditions)))
    }

    /// The condition is met.
    pub fn ready(&self, condition: &'static str) {
        self.0
            .send_modify(|conditions| drop(conditions.insert(condition, None)));
    }

    /// The condition is not met, and why.
    pub fn not_ready(&self, condition: &'static str, why: &str) {
        self.0
            .send_modify(|conditions| drop(conditions.insert(condition, Some(why.to_owned()))));
    }

    /// What is missing: one line `name: why` each, escaped; empty when all is ready.
    pub fn missing(&self) -> String {
        let conditions = self.0.borrow();
        conditions
            .iter()
            .filter_map(|(name, why)| Some(format!("{name}: {}\n", why.as_deref()?.escape_debug())))
            .collect()
    }

    fn is_ready(&self) -> bool {
        self.0.borrow().values().all(Option::is_none)
    }
}

/// Why the port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// It would be open to others.
    #[error(
        "http listener {0}: not a loopback address, and what it serves is neither encrypted nor authenticated; use 127.0.0.1 or [::1], or add --insecure-http if the network is trusted"
    )]
    NotLoopback(SocketAddr),
    /// The system refused.
    #[error("http listener {0}: {1}; choose another address with `http.listen`, or `none` for no listener")]
    Bind(SocketAddr, io::Error),
}

/// A bound port that is not served yet, so that a mistake in its address stops the agent before it observes.
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Binds the port.
    ///
    /// # Errors
    /// The address is not a loopback one and `insecure` is not set, or the system refuses it.
    pub async fn bind(address: SocketAddr, insecure: bool) -> Result<Self, AdminError> {
        if !address.ip().is_loopback() && !insecure {
            return Err(AdminError::NotLoopback(address));
        }
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| AdminError::Bind(address, error))?;
        let address = listener
            .local_addr()
            .map_err(|error| AdminError::Bind(address, error))?;
        Ok(Self { listener, address })
    }

    /// The address it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until shutdown.
    ///
    /// # Errors
    /// The listener broke.
    pub async fn serve(self, metrics: Arc<Metrics>, readiness: Readiness, shutdown: Shutdown) -> io::Result<()> {
        let (reporter, health) = tonic_health::server::health_reporter();
        let metrics = get(move || async move { ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics.text()) });
        let asked = readiness.clone();
        let ready = get(move || async move {
            match asked.is_ready() {
                true => (StatusCode::OK, "ready\n".to_owned()),
                false => (StatusCode::SERVICE_UNAVAILABLE, asked.missing()),
            }
        });
        let router = Router::new()
            .route("/metrics", metrics)
            .route("/healthz", get(|| async { "alive\n" }))
            .route("/readyz", ready)
            .route_service("/grpc.health.v1.Health/{*method}", health);
        let stopped = shutdown.clone();
        let serving =
            axum::serve(self.listener, router).with_graceful_shutdown(async move { stopped.signalled().await });
        let follow = async {
            let mut changes = readiness.0.subscribe();
            loop {
                let status = match readiness.is_ready() {
                    true => ServingStatus::Serving,
                    false => ServingStatus::NotServing,
                };
                reporter.set_service_status("", status).await;
                if changes.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        let lingered = async {
            shutdown.signalled().await;
            tokio::time::sleep(LINGER).await;
        };
        tokio::select! {
            ended = serving.into_future() => ended,
            () = follow => Ok(()),
            () = lingered => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus as Wire;
    use tonic_health::pb::health_client::HealthClient;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn one_port_serves_metrics_health_and_grpc() {
        let admin = Admin::bind("127.0.0.1:0".parse().unwrap(), false).await.unwrap();
        let address = admin.address();
        let (readiness, shutdown) = (Readiness::new(&["programs", "spool"]), Shutdown::new().unwrap());
        let served = tokio::spawn(admin.serve(Arc::new(Metrics::new()), readiness.clone(), shutdown.clone()));
        assert!(fetch(address, "/metrics").await.contains("staghound_spool_bytes 0"));
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        readiness.ready("spool");
        readiness.not_ready("programs", "exec: no\x1bBTF");
        let answer = fetch(address, "/readyz").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.ends_with("\r\n\r\nprograms: exec: no\\u{1b}BTF\n"),
            "{answer}"
        );

        let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect()
            .await
            .unwrap();
        let mut client = HealthClient::new(channel);
        let mut watched = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        assert_eq!(watched.message().await.unwrap().unwrap().status(), Wire::NotServing);
        readiness.ready("programs");
        assert_eq!(watched.message().await.unwrap().unwrap().status(), Wire::Serving);
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));

        shutdown.signal();
        tokio::time::timeout(Duration::from_secs(10), served)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn other_addresses_must_be_asked_for_twice() {
        let error = Admin::bind("0.0.0.0:0".parse().unwrap(), false).await.err().unwrap();
        assert!(error.to_string().contains("--insecure-http"), "{error}");
        Admin::bind("0.0.0.0:0".parse().unwrap(), true).await.unwrap();
        let taken = Admin::bind("127.0.0.1:0".parse().unwrap(), false).await.unwrap();
        let error = Admin::bind(taken.address(), false).await.err().unwrap();
        assert!(error.to_string().contains("http.listen"), "{error}");
    }
}
