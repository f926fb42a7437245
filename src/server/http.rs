//! HTTP for machines that watch: /healthz (the process lives), /readyz (it answers calls), /metrics (Prometheus).

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;

use super::{health::Health, shared::Shared, work};
use crate::engine::Engine;

#[derive(Clone)]
struct Watched {
    shared: Arc<Shared>,
    health: Arc<Health>,
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, health: Arc<Health>) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Watched { shared, health });
    axum::serve(listener, router).await
}

async fn ready(State(watched): State<Watched>) -> (StatusCode, &'static str) {
    match watched.health.is_ready() {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    }
}

/// Sizes on disk are asked of the file system, so not here.
async fn metrics(State(watched): State<Watched>) -> impl IntoResponse {
    let shared = watched.shared;
    let text = work::run(move || {
        let db = shared.opened().map(Engine::db);
        Ok(shared.metrics.render(shared.gate.in_flight(), db))
    });
    match text.await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(problem) => (StatusCode::INTERNAL_SERVER_ERROR, problem.message).into_response(),
    }
}
