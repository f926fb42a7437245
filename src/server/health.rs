//! What grpc.health.v1 and /readyz say: SERVING only while it is true.

use std::sync::atomic::{AtomicBool, Ordering};

use firn_proto::v1::{
    collections_server::SERVICE_NAME as COLLECTIONS, inference_server::SERVICE_NAME as INFERENCE,
    points_server::SERVICE_NAME as POINTS, rerankers_server::SERVICE_NAME as RERANKERS,
};
use tonic_health::{ServingStatus, server::HealthReporter};

/// The server as a whole, and each service by its name.
const SERVICES: [&str; 5] = ["", COLLECTIONS, POINTS, INFERENCE, RERANKERS];

pub struct Health {
    reporter: HealthReporter,
    ready: AtomicBool,
}

impl Health {
    /// Not serving yet.
    pub async fn new() -> Self {
        let health = Health { reporter: HealthReporter::new(), ready: AtomicBool::new(false) };
        health.set(ServingStatus::NotServing).await;
        health
    }

    pub fn reporter(&self) -> HealthReporter {
        self.reporter.clone()
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    pub async fn serving(&self) {
        self.set(ServingStatus::Serving).await;
    }

    pub async fn not_serving(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    /// Ends every Watch: a connection with an open one would never close.
    pub async fn end(&self) {
        let mut reporter = self.reporter.clone();
        for service in SERVICES {
            reporter.clear_service_status(service).await;
        }
    }

    async fn set(&self, status: ServingStatus) {
        self.ready.store(status == ServingStatus::Serving, Ordering::Relaxed);
        for service in SERVICES {
            self.reporter.set_service_status(service, status).await;
        }
    }
}
