//! `/metrics`, `/healthz` and `/readyz` over HTTP.

use crate::{metrics::Metrics, store::AlertLog};
use axum::{
    Router,
    http::{StatusCode, header},
    routing::get,
};
use std::sync::Arc;
use tokio::sync::watch;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The routes. `/healthz` says that the process answers, `/readyz` that it takes and gives data.
pub(crate) fn routes(metrics: Arc<Metrics>, store: Arc<dyn AlertLog>, stopping: watch::Receiver<bool>) -> Router {
    let ready = move || {
        let (status, text) = match (*stopping.borrow(), store.is_open()) {
            (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
            (false, false) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "store unavailable; see the log for the reason\n",
            ),
            (false, true) => (StatusCode::OK, "ready\n"),
        };
        std::future::ready((status, text))
    };
    Router::new()
        .route(
            "/metrics",
            get(async move || ([(header::CONTENT_TYPE, OPENMETRICS)], metrics.encode())),
        )
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
}
