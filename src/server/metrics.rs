//! What Prometheus reads at /metrics:
//!
//!   firn_requests_total{method, code}    counter    calls answered; a stream when it is opened
//!   firn_request_seconds{method}         histogram  from the headers of a call to those of its reply
//!   firn_requests_in_flight              gauge      calls and streams in work
//!   firn_commits_total                   counter    writes that reached the disk
//!   firn_points_written_total            counter    points in them: written, deleted or changed
//!   firn_inference_batch_inputs{kind}    histogram  texts or images that went through a network at once
//!   firn_inference_queue                 gauge      jobs that wait for a device
//!   firn_collection_points{collection}, firn_collection_vectors{collection, state}, firn_collection_segments{collection}
//!                                        gauge      `state`: buffered (searched exactly) or tombstone
//!   firn_disk_bytes                      gauge      what the data directory takes
//!   firn_build_info{version}             gauge      always 1

use std::{collections::HashMap, fmt::Write as _, sync::Arc, time::Duration};

use firn_index::Database;
use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tonic::Code;

/// Every call that is counted, by its path.
const METHODS: [&str; 27] = [
    "/firn.v1.Collections/Create",
    "/firn.v1.Collections/Get",
    "/firn.v1.Collections/List",
    "/firn.v1.Collections/Delete",
    "/firn.v1.Collections/Exists",
    "/firn.v1.Collections/UpdateAliases",
    "/firn.v1.Collections/SetBlend",
    "/firn.v1.Points/Upsert",
    "/firn.v1.Points/UpsertStream",
    "/firn.v1.Points/Delete",
    "/firn.v1.Points/Get",
    "/firn.v1.Points/SetPayload",
    "/firn.v1.Points/Query",
    "/firn.v1.Points/QueryBatch",
    "/firn.v1.Points/Scroll",
    "/firn.v1.Points/Count",
    "/firn.v1.Inference/Info",
    "/firn.v1.Inference/Embed",
    "/firn.v1.Inference/EmbedStream",
    "/firn.v1.Inference/Rerank",
    "/firn.v1.Rerankers/Train",
    "/firn.v1.Rerankers/Evaluate",
    "/firn.v1.Rerankers/GetJob",
    "/firn.v1.Rerankers/CancelJob",
    "/firn.v1.Rerankers/List",
    "/firn.v1.Rerankers/Activate",
    "/firn.v1.Rerankers/Rollback",
];

/// From a tenth of a millisecond to ten seconds.
const SECONDS: [f64; 16] = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
const INPUTS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0, 1024.0, 4096.0];

const METADATA: Metadata<'static> = Metadata::new("firn", Level::INFO, None);

/// The counters of one server.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    methods: HashMap<&'static str, usize>,
    /// By method: calls that succeeded, and how long all took.
    calls: Vec<(Counter, Histogram)>,
    pub in_flight: Gauge,
    pub inference_queue: Gauge,
    pub text_batch: Histogram,
    pub image_batch: Histogram,
    pub pair_batch: Histogram,
    commits: Counter,
    points_written: Counter,
}

impl Metrics {
    pub fn new() -> Arc<Self> {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&SECONDS)
            .and_then(|builder| {
                let matcher = metrics_exporter_prometheus::Matcher::Prefix("firn_inference_batch".to_owned());
                builder.set_buckets_for_metric(matcher, &INPUTS)
            })
            .expect("the buckets are not empty")
            .build_recorder();
        let counter = |key: &Key| recorder.register_counter(key, &METADATA);
        let gauge = |name| recorder.register_gauge(&Key::from_name(name), &METADATA);
        let histogram = |key: &Key| recorder.register_histogram(key, &METADATA);
        let kind = |kind| Key::from_parts("firn_inference_batch_inputs", vec![Label::new("kind", kind)]);
        let call = |path: &&'static str| {
            let seconds = Key::from_parts("firn_request_seconds", vec![Label::new("method", short(path))]);
            (counter(&requests_key(path, Code::Ok)), histogram(&seconds))
        };
        Arc::new(Metrics {
            handle: recorder.handle(),
            methods: METHODS.iter().enumerate().map(|(index, path)| (*path, index)).collect(),
            calls: METHODS.iter().map(call).collect(),
            in_flight: gauge("firn_requests_in_flight"),
            inference_queue: gauge("firn_inference_queue"),
            text_batch: histogram(&kind("text")),
            image_batch: histogram(&kind("image")),
            pair_batch: histogram(&kind("pair")),
            commits: counter(&Key::from_name("firn_commits_total")),
            points_written: counter(&Key::from_name("firn_points_written_total")),
            recorder,
        })
    }

    /// The number of a call; none for health, reflection and what is unknown.
    pub fn method(&self, path: &str) -> Option<usize> {
        self.methods.get(path).copied()
    }

    pub fn answered(&self, method: usize, code: Code, elapsed: Duration) {
        let (succeeded, seconds) = &self.calls[method];
        seconds.record(elapsed.as_secs_f64());
        match code {
            Code::Ok => succeeded.increment(1),
            code => self.recorder.register_counter(&requests_key(METHODS[method], code), &METADATA).increment(1),
        }
    }

    pub fn committed(&self, points: u64) {
        self.commits.increment(1);
        self.points_written.increment(points);
    }

    /// Histograms keep every sample until this is called.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// The text that Prometheus reads.
    pub fn render(&self, in_flight: usize, db: Option<&Database>) -> String {
        self.in_flight.set(in_flight as f64);
        let mut text = self.handle.render();
        write_state(&mut text, db).expect("a String takes everything");
        text
    }
}

/// Gauges of collections are written here: a registry would remember collections that are gone. Names need no escape.
fn write_state(text: &mut String, db: Option<&Database>) -> std::fmt::Result {
    writeln!(text, "# TYPE firn_build_info gauge")?;
    writeln!(text, "firn_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"))?;
    let Some(db) = db else { return Ok(()) };
    writeln!(text, "# TYPE firn_disk_bytes gauge\nfirn_disk_bytes {}", db.disk_bytes())?;
    let collections = db.collections();
    writeln!(text, "# TYPE firn_collection_points gauge")?;
    for c in &collections {
        writeln!(text, "firn_collection_points{{collection=\"{}\"}} {}", c.name, c.points_count)?;
    }
    writeln!(text, "# TYPE firn_collection_vectors gauge")?;
    for c in &collections {
        let states = [("buffered", c.buffered_vectors_count), ("tombstone", c.tombstones_count)];
        for (state, count) in states {
            writeln!(text, "firn_collection_vectors{{collection=\"{}\",state=\"{state}\"}} {count}", c.name)?;
        }
    }
    writeln!(text, "# TYPE firn_collection_segments gauge")?;
    for c in &collections {
        writeln!(text, "firn_collection_segments{{collection=\"{}\"}} {}", c.name, c.segments_count)?;
    }
    Ok(())
}

fn requests_key(path: &'static str, code: Code) -> Key {
    let labels = vec![Label::new("method", short(path)), Label::new("code", name(code))];
    Key::from_parts("firn_requests_total", labels)
}

/// `/firn.v1.Points/Query` as `Points/Query`.
fn short(path: &'static str) -> &'static str {
    path.strip_prefix("/firn.v1.").unwrap_or(path)
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn every_call_of_the_protocol_is_counted() {
        let files = prost_types::FileDescriptorSet::decode(firn_proto::DESCRIPTORS).unwrap();
        let mut paths = Vec::new();
        for service in files.file.iter().flat_map(|file| &file.service) {
            for method in &service.method {
                paths.push(format!("/firn.v1.{}/{}", service.name(), method.name()));
            }
        }
        paths.sort();
        let mut counted = METHODS.map(str::to_owned).to_vec();
        counted.sort();
        assert_eq!(counted, paths);
    }

    #[test]
    fn calls_are_counted_by_method_and_code() {
        let metrics = Metrics::new();
        let query = metrics.method("/firn.v1.Points/Query").unwrap();
        metrics.answered(query, Code::Ok, Duration::from_millis(3));
        metrics.answered(query, Code::NotFound, Duration::from_millis(3));
        metrics.answered(query, Code::NotFound, Duration::from_millis(3));
        metrics.committed(5);
        let text = metrics.render(2, None);
        for line in [
            "firn_requests_total{method=\"Points/Query\",code=\"OK\"} 1",
            "firn_requests_total{method=\"Points/Query\",code=\"NOT_FOUND\"} 2",
            "firn_request_seconds_bucket{method=\"Points/Query\",le=\"0.005\"} 3",
            "firn_request_seconds_bucket{method=\"Points/Query\",le=\"0.002\"} 0",
            "firn_points_written_total 5",
            "firn_requests_in_flight 2",
        ] {
            assert!(text.contains(line), "{line}\nis not in\n{text}");
        }
    }
}
