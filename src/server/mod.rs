//! The network: a thin skin that converts in, asks, and converts out.
//!
//! A file per service (`collections`, `points`, `upsert_stream`, `inference`), `convert` and `status` for what goes in and
//! out, `gate` before all calls, `device` and `work` for what would hold the network up.

mod collections;
mod convert;
mod device;
mod gate;
mod health;
mod http;
mod inference;
mod jobs;
mod limits;
mod metrics;
mod points;
mod rerank;
pub mod rerankers;
pub mod settings;
mod shared;
mod status;
mod stop;
mod unfinished;
mod upsert_stream;
mod work;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use firn_index::Database;
use firn_model::Encoder;
use firn_proto::v1::{
    collections_server::CollectionsServer, inference_server::InferenceServer, points_server::PointsServer,
    rerankers_server::RerankersServer,
};
use tokio::{net::TcpListener, sync::oneshot};
use tonic::{
    codec::CompressionEncoding,
    transport::server::{Server, TcpIncoming},
};
use tonic_health::{pb::health_server::HealthServer, server::HealthService};

use self::{device::Device, gate::GateLayer, health::Health, settings::ServeSettings, shared::Shared, stop::Signals};
use crate::engine::{Engine, Loading};

/// What a server serves; the first encoder is the default, and there may be none.
pub struct Opened {
    pub db: Database,
    pub encoders: Vec<Arc<dyn Encoder>>,
    /// Where networks compute.
    pub device: firn_model::Device,
}

/// Calls of one connection beyond those that the gate admits: to be refused with a reason, and to ask for health.
const STREAMS_BESIDE: u32 = 128;

/// Serves until SIGTERM or SIGINT, then lets calls end and closes the data. While `open` works, the server listens
/// already and says that it is starting.
pub fn run(
    settings: ServeSettings,
    open: impl FnOnce() -> anyhow::Result<Opened> + Send + 'static,
) -> anyhow::Result<()> {
    // A call that waits for the disk or a device holds one thread.
    let threads = settings.max_requests + 64;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(threads).build()?;
    let result = runtime.block_on(serve(settings, open));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn serve(
    settings: ServeSettings,
    open: impl FnOnce() -> anyhow::Result<Opened> + Send + 'static,
) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let grpc_listener = bind("listen", &settings.listen).await?;
    let http_listener = match &settings.http_listen {
        Some(address) => Some(bind("http-listen", address).await?),
        None => None,
    };
    let addresses = Addresses::of(&grpc_listener, http_listener.as_ref())?;
    let shared = Shared::new(settings).context("starting the thread of jobs")?;
    let health = Arc::new(Health::new().await);
    let (stop_grpc, grpc_stops) = oneshot::channel();
    let mut grpc = tokio::spawn(grpc(grpc_listener, shared.clone(), health.clone(), grpc_stops));
    if let Some(listener) = http_listener {
        tokio::spawn(http::serve(listener, shared.clone(), health.clone()));
    }
    tokio::spawn(upkeep(shared.clone()));

    let opening = tokio::task::spawn_blocking(open);
    let opened = tokio::select! {
        opened = opening => opened.context("opening the data")??,
        () = signals.next() => return Ok(()),
    };
    shared.open(engine(opened, &shared)?);
    health.serving().await;
    addresses.announce(shared.settings.port_file.as_deref())?;

    tokio::select! {
        ended = &mut grpc => ended.context("the gRPC server")??,
        () = signals.next() => {}
    }
    tokio::select! {
        drained = drain(&shared, &health, stop_grpc, grpc) => drained,
        () = signals.next() => {
            tracing::warn!("stopped at once by a second signal");
            std::process::exit(1)
        }
    }
}

async fn bind(setting: &'static str, address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} (--{setting})"))
}

/// Networks run on the thread of their device.
fn engine(opened: Opened, shared: &Shared) -> anyhow::Result<Engine> {
    let device = Device::start(shared.metrics.clone()).context("starting the device thread")?;
    let encoders = opened.encoders.into_iter().map(|encoder| device.share(encoder)).collect();
    let engine = Engine::new(opened.db, encoders, Loading::Fixed(opened.device));
    unfinished::tidy(&engine);
    engine.rerankers().run_by(Box::new(move |scorer| device.share_scorer(scorer)));
    // No query is to wait until a network is open.
    for collection in engine.db().collections().iter().filter_map(|info| engine.db().collection(&info.name).ok()) {
        if let Err(error) = engine.rerankers().active(&collection) {
            tracing::warn!("the network of {:?} cannot be used: {error}", collection.name());
        }
    }
    Ok(engine)
}

async fn grpc(
    listener: TcpListener,
    shared: Arc<Shared>,
    health: Arc<Health>,
    stop: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    let max = shared.settings.max_message_bytes;
    let gzip = CompressionEncoding::Gzip;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(firn_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let collections = CollectionsServer::new(collections::Collections(shared.clone()));
    let points = PointsServer::new(points::Points(shared.clone()));
    let inference = InferenceServer::new(inference::Inference(shared.clone()));
    let rerankers = RerankersServer::new(rerankers::Rerankers(shared.clone()));
    Server::builder()
        // A client that vanished without a word is noticed within a minute.
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .max_concurrent_streams(Some(STREAMS_BESIDE + shared.settings.max_requests as u32))
        .layer(GateLayer(shared.gate.clone()))
        .add_service(points.accept_compressed(gzip).max_decoding_message_size(max))
        .add_service(collections.accept_compressed(gzip).max_decoding_message_size(max))
        .add_service(inference.accept_compressed(gzip).max_decoding_message_size(max))
        .add_service(rerankers.accept_compressed(gzip).max_decoding_message_size(max))
        .add_service(HealthServer::new(HealthService::from_health_reporter(health.reporter())))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async {
            let _ = stop.await;
        })
        .await?;
    Ok(())
}

async fn upkeep(shared: Arc<Shared>) {
    let mut every = tokio::time::interval(Duration::from_secs(5));
    loop {
        every.tick().await;
        shared.metrics.upkeep();
    }
}

/// Says so, lets calls end for as long as the settings give them, closes connections, then the data.
async fn drain(
    shared: &Shared,
    health: &Health,
    stop_grpc: oneshot::Sender<()>,
    grpc: tokio::task::JoinHandle<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    /// For clients to see the end of their connection, once nothing is in work.
    const CLOSE: Duration = Duration::from_secs(1);
    tracing::info!(in_flight = shared.gate.in_flight(), "stopping");
    health.not_serving().await;
    shared.gate.close();
    shared.stopping.send_replace(true);
    shared.jobs.close();
    if tokio::time::timeout(shared.settings.drain, shared.gate.empty()).await.is_err() {
        tracing::warn!(in_flight = shared.gate.in_flight(), "calls were cut off: they did not end in time");
    }
    health.end().await;
    let _ = stop_grpc.send(());
    if tokio::time::timeout(CLOSE, grpc).await.is_err() {
        tracing::info!("some clients keep their connection open; it is cut");
    }
    let Some(db) = shared.opened().map(|engine| engine.db().clone()) else { return Ok(()) };
    tokio::task::spawn_blocking(move || db.close()).await.context("closing the data")??;
    tracing::info!("stopped");
    Ok(())
}

/// Where the server listens.
#[derive(serde::Serialize)]
struct Addresses {
    grpc: SocketAddr,
    http: Option<SocketAddr>,
}

impl Addresses {
    fn of(grpc: &TcpListener, http: Option<&TcpListener>) -> std::io::Result<Self> {
        Ok(Addresses { grpc: grpc.local_addr()?, http: http.map(TcpListener::local_addr).transpose()? })
    }

    /// Tells people on standard error and programs in the port file, which appears whole or not at all.
    fn announce(&self, port_file: Option<&Path>) -> anyhow::Result<()> {
        if let Some(path) = port_file {
            let written = path.with_extension("part");
            let json = serde_json::to_string(self).expect("addresses are plain");
            std::fs::write(&written, json)
                .and_then(|()| std::fs::rename(&written, path))
                .with_context(|| format!("port file {}", path.display()))?;
        }
        if !self.grpc.ip().is_loopback() {
            tracing::warn!("{} is open to the network, and nobody is asked who they are", self.grpc);
        }
        let http = self.http.map_or("no HTTP".to_owned(), |http| format!("HTTP on {http}"));
        eprintln!("firn {} is ready: gRPC on {}, {http}", env!("CARGO_PKG_VERSION"), self.grpc);
        Ok(())
    }
}
