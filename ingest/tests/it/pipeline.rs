//! Whole runs against a sink in memory: nothing is lost, nothing is done twice, and the report adds up.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use firn_index::PointId;
use firn_ingest::{
    embed,
    identity::IdFrom,
    journal::Journal,
    pipeline::{Job, RunError, run},
    report::{Report, SkippedItem, Watch},
    sink::{Outcome, Sink, SinkError, Ticket},
    source::{Source, SourceOptions},
};

use firn_model::{Encoder, ImageEmbedding, Keep, ModelInfo, Pixels, TextEmbedding};
use image::RgbImage;

use crate::support::{FakeEncoder, MapSink, config, f32_bytes, npy, png, tar, write};

struct World {
    dir: tempfile::TempDir,
    sources: Vec<PathBuf>,
    encoder: Arc<FakeEncoder>,
}

impl World {
    /// A folder `in` with these files.
    fn new(files: &[(&str, &[u8])]) -> World {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        write(&dir.path().join("in"), files);
        World { sources: vec![dir.path().join("in")], dir, encoder: Arc::new(FakeEncoder::new()) }
    }

    fn with_pictures(n: u32) -> World {
        let world = World::new(&[]);
        for at in 0..n {
            world.write(&format!("{:02}/{at:05}.png", at % 7), &png(at));
        }
        world
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        write(&self.dir.path().join("in"), &[(name, bytes)]);
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    fn job(&self) -> Job {
        let open = |path: &PathBuf| Source::open(path, &SourceOptions::default()).unwrap();
        let sources: Vec<Source> = self.sources.iter().map(open).collect();
        let mut journal = Journal::lock(&self.journal()).unwrap();
        let written = journal.load("uuid").unwrap();
        Job {
            collection: "c".to_owned(),
            config: config(&["image", "text"]),
            watch: Watch::new(sources.iter().map(|source| source.progress.clone()).collect()),
            sources,
            encoders: vec![self.encoder.clone()],
            journal,
            journal_path: self.journal(),
            written,
            id_from: IdFrom::Path,
            batch: 16,
            bytes_in_flight: 1 << 20,
            stop: Arc::new(AtomicBool::new(false)),
        }
    }

    fn run(&self, sink: &mut MapSink) -> Report {
        let (report, result) = run(self.job(), sink);
        result.unwrap();
        assert_adds_up(&report);
        report
    }
}

fn assert_adds_up(report: &Report) {
    let settled = report.written + report.unchanged + report.duplicates + report.skipped;
    assert_eq!(report.read, settled, "{report:?}");
    assert_eq!(report.skipped, report.skipped_by_reason.values().sum::<u64>());
    assert_eq!(report.skipped, report.skipped_items.len() as u64);
}

fn counts(report: &Report) -> [u64; 4] {
    [report.written, report.unchanged, report.duplicates, report.skipped]
}

fn embedding() -> MapSink {
    MapSink { needs_vectors: true, ..MapSink::default() }
}

#[test]
fn everything_is_written_and_a_repeated_run_changes_nothing() {
    for needs_vectors in [true, false] {
        let world = World::with_pictures(150);
        let mut sink = MapSink { needs_vectors, is_late: true, ..MapSink::default() };
        assert_eq!(counts(&world.run(&mut sink)), [150, 0, 0, 0]);
        assert_eq!(sink.points.len(), 150);
        assert!(sink.points.values().all(|point| point.vectors.contains_key("image") == needs_vectors));
        assert!(sink.points.values().all(|point| point.image.is_some() != needs_vectors));
        assert!(sink.batches.iter().all(|&n| n <= 16), "{:?}", sink.batches);

        let preprocessed = world.encoder.preprocessed.load(Relaxed);
        let mut again = sink.next_run();
        assert_eq!(counts(&world.run(&mut again)), [0, 150, 0, 0]);
        assert!(again.points.is_empty());
        assert_eq!(world.encoder.preprocessed.load(Relaxed), preprocessed, "skipped without decoding");
    }
}

#[test]
fn only_what_changed_is_written_again() {
    let world = World::with_pictures(20);
    let mut sink = embedding();
    world.run(&mut sink);
    world.write("00/00000.png", &png(9999));
    world.write("new.png", &png(5000));
    world.write("01/00001.txt", b"a caption");
    let mut sink = sink.next_run();
    assert_eq!(counts(&world.run(&mut sink)), [3, 18, 0, 0]);
    let ids: Vec<_> = sink.points.keys().map(ToString::to_string).collect();
    assert_eq!(ids, ["00/00000.png", "01/00001.png", "new.png"]);
    world.write("00/00000.png", &png(0));
    assert_eq!(counts(&world.run(&mut sink)), [1, 20, 0, 0], "what it was before is not what it is now");
}

#[test]
fn points_that_are_gone_are_written_again() {
    let world = World::with_pictures(30);
    let mut sink = embedding();
    world.run(&mut sink);
    let ids: Vec<PointId> = sink.points.keys().cloned().collect();
    for deleted in ids.iter().take(4) {
        sink.points.remove(deleted);
    }
    let mut sink = sink.next_run();
    assert_eq!(counts(&world.run(&mut sink)), [4, 26, 0, 0]);
    assert!(sink.points.keys().eq(&ids[..4]), "{:?}", sink.points.keys());
    assert_eq!(counts(&world.run(&mut sink)), [0, 30, 0, 0]);
    assert_eq!(counts(&world.run(&mut embedding())), [30, 0, 0, 0], "nothing is left of an earlier run");
}

#[test]
fn bad_files_are_named_and_tried_again_next_time() {
    let whole = png(1);
    let world = World::new(&[
        ("good.png", &whole),
        ("cut.png", &whole[..whole.len() - 20]),
        ("text.jpg", b"not a picture"),
        ("empty.jpg", b""),
        ("silent.png", &png(2)),
        ("silent.txt", b" \n"),
        ("refused.png", &png(3)),
        ("refused.json", br#"{"refuse": "me"}"#),
        ("sidecar.png", &png(4)),
        ("sidecar.json", b"nonsense"),
        ("scan.tiff", b"II*"),
        ("long.png", &png(5)),
        ("long.txt", b"one two three four five six seven"),
    ]);
    let expected = [
        ("cut.png", "broken_image"),
        ("empty.jpg", "empty_image"),
        ("refused.png", "refused"),
        ("scan.tiff", "unsupported_image"),
        ("sidecar.png", "invalid_json"),
        ("silent.png", "empty_text"),
        ("text.jpg", "unknown_image"),
    ];
    let mut sink = embedding();
    for written in [2, 0] {
        let report = world.run(&mut sink);
        assert_eq!(counts(&report), [written, 2 - written, 0, 7]);
        let mut skipped: Vec<_> = report.skipped_items.iter().map(|s| (s.item.as_str(), s.reason.as_str())).collect();
        skipped.sort();
        assert_eq!(skipped, expected);
        assert!(report.skipped_items.iter().all(|s| s.source == world.sources[0] && !s.message.is_empty()));
        assert_eq!(report.truncated_texts, written / 2);
        let named = report.truncated_example.map(|place| place.item);
        assert_eq!(named.as_deref(), (written > 0).then_some("long.png"));
    }
    world.write("cut.png", &whole);
    assert_eq!(counts(&world.run(&mut sink)), [1, 2, 0, 6]);
}

#[test]
fn equal_items_are_one_point_and_an_id_used_twice_is_named() {
    let world = World::new(&[("a.png", &png(1)), ("b.png", &png(1)), ("c.png", &png(2))]);
    let mut sink = embedding();
    let mut by_content = |expected: [u64; 4]| {
        let (report, result) = run(Job { id_from: IdFrom::Content, ..world.job() }, &mut sink);
        result.unwrap();
        assert_adds_up(&report);
        assert_eq!(counts(&report), expected);
    };
    by_content([2, 0, 1, 0]);
    by_content([0, 2, 1, 0]);

    let rows = "{\"id\": 1, \"text\": \"a\"}\n{\"id\": 1, \"text\": \"b\"}\n{\"id\": 1, \"text\": \"a\"}\n{\"id\": \"1\", \"text\": \"a\"}\n";
    let mut world = World::new(&[("d.jsonl", rows.as_bytes())]);
    world.sources = vec![world.sources[0].join("d.jsonl")];
    let mut sink = embedding();
    for written in [2, 0] {
        let report = world.run(&mut sink);
        assert_eq!(counts(&report), [written, 2 - written, 1, 1]);
        assert_eq!((&*report.skipped_items[0].item, &*report.skipped_items[0].reason), ("line 2", "duplicate_id"));
        assert!(sink.points.values().all(|point| point.texts[0].text == "a"));
        assert!(report.skipped_items[0].message.contains("an id of its own, as \"id\" in each line"), "{report:?}");
    }
}

#[test]
fn frames_in_a_tar_are_written_once_in_two_runs() {
    let (first, second) = (png(1), png(2));
    let frames = tar(&[("a.0000.png", &first), ("a.0000.txt", b"one"), ("a.0001.png", &second)]);
    let mut world = World::new(&[("d.tar", &frames)]);
    world.sources = vec![world.sources[0].join("d.tar")];
    let mut sink = embedding();
    for written in [2, 0] {
        assert_eq!(counts(&world.run(&mut sink)), [written, 2 - written, 0, 0]);
    }
    let ids: Vec<_> = sink.points.keys().map(ToString::to_string).collect();
    assert_eq!(ids, ["a.0000.png", "a.0001.png"]);
    assert_eq!(sink.points[&"a.0000.png".into()].texts[0].text, "one");
}

#[test]
fn shards_without_ids_stay_apart_unless_they_have_one_name() {
    let shard = |first: f32| npy("(2, 8)", "<f4", &f32_bytes(&std::array::from_fn::<f32, 16, _>(|n| first + n as f32)));
    let mut world = World::new(&[("a/0.npy", &shard(1.0)), ("a/1.npy", &shard(50.0)), ("b/0.npy", &shard(90.0))]);
    let folder = world.sources[0].clone();
    world.sources = ["a/0.npy", "a/1.npy", "a/0.npy", "b/0.npy"].map(|name| folder.join(name)).into();
    let mut sink = embedding();
    for written in [4, 0] {
        let report = world.run(&mut sink);
        assert_eq!(counts(&report), [written, 4 - written, 2, 2]);
        assert_eq!(report.skipped_by_reason["duplicate_id"], 2);
        let SkippedItem { source, item, message, .. } = &report.skipped_items[0];
        assert_eq!((source, item.as_str()), (&world.sources[3], "row 0"));
        assert!(message.contains("\"0:0\"") && message.contains("an id of its own, in x.ids.txt"), "{message}");
    }
    let ids: Vec<_> = sink.points.keys().map(ToString::to_string).collect();
    assert_eq!(ids, ["0:0", "0:1", "1:0", "1:1"]);
    assert_eq!(sink.points[&"0:0".into()].vectors["image"][0], 1.0, "the first of that name");
}

#[test]
fn what_is_met_twice_is_one_point_also_with_ids_of_its_own() {
    let mut world = World::new(&[("top.png", &png(1)), ("sub/a.png", &png(2)), ("sub/b.png", &png(3))]);
    world.write("sub/a.json", br#"{"id": 7, "n": 1}"#);
    let folder = world.sources[0].clone();
    world.sources.extend([folder.join("sub"), folder]);
    let (report, result) = run(Job { id_from: IdFrom::Content, ..world.job() }, &mut embedding());
    result.unwrap();
    assert_adds_up(&report);
    assert_eq!(counts(&report), [3, 0, 5, 0]);
}

#[test]
fn several_sources_are_one_run() {
    let mut world = World::with_pictures(5);
    world.write("more.jsonl", b"{\"id\": 1, \"text\": \"a\"}\n{\n");
    world.write("rows.csv", b"id,text\n2,b\n3,c\n");
    let folder = world.sources[0].clone();
    world.sources.extend([folder.join("more.jsonl"), folder.join("rows.csv"), folder]);
    let report = world.run(&mut embedding());
    assert_eq!(counts(&report), [8, 0, 5, 1]);
    assert_eq!(report.skipped_items[0].source, world.sources[1]);
    assert_eq!(report.ignored_files, 4);
}

#[test]
fn a_sink_that_fails_ends_the_run_and_the_next_goes_on() {
    let world = World::with_pictures(100);
    let mut sink = MapSink { full_at: Some(50), is_late: true, needs_vectors: true, ..MapSink::default() };
    let (report, result) = run(world.job(), &mut sink);
    assert!(matches!(result, Err(RunError::Sink(ref error)) if error.to_string() == "the sink is full"), "{result:?}");
    assert_eq!(report.written, 48, "answers that were late count too");
    sink.full_at = None;
    let report = world.run(&mut sink);
    assert_eq!(counts(&report), [52, 48, 0, 0]);
    assert_eq!(sink.points.len(), 100);
}

/// Asks to stop when it has seen some points.
struct Stopping {
    inner: MapSink,
    at: usize,
    stop: Arc<AtomicBool>,
}

impl Sink for Stopping {
    fn needs_vectors(&self) -> bool {
        self.inner.needs_vectors()
    }

    fn each_id(&mut self, see: &mut dyn FnMut(&PointId)) -> Result<(), SinkError> {
        self.inner.each_id(see)
    }

    fn put(
        &mut self,
        batch: Vec<(Ticket, firn_ingest::embed::Input)>,
        settled: &mut Vec<(Ticket, Outcome)>,
    ) -> Result<(), SinkError> {
        self.inner.put(batch, settled)?;
        if self.inner.points.len() >= self.at {
            self.stop.store(true, Relaxed);
        }
        Ok(())
    }

    fn wait(&mut self, settled: &mut Vec<(Ticket, Outcome)>) -> Result<(), SinkError> {
        self.inner.wait(settled)
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.inner.finish()
    }
}

#[test]
fn a_run_that_is_stopped_keeps_what_it_has_and_the_next_does_the_rest() {
    let world = World::with_pictures(3000);
    let job = world.job();
    let mut sink = Stopping { inner: embedding(), at: 100, stop: job.stop.clone() };
    let (report, result) = run(job, &mut sink);
    result.unwrap();
    assert!(report.interrupted && report.skipped == 0);
    let kept = sink.inner.points.len() as u64;
    assert!((100..3000).contains(&kept), "{kept}");
    assert_eq!(report.written, kept);

    let report = world.run(&mut sink.inner);
    assert_eq!(counts(&report), [3000 - kept, kept, 0, 0]);
    assert_eq!(sink.inner.points.len(), 3000);
    let mut at_once = embedding();
    World { sources: world.sources.clone(), ..World::new(&[]) }.run(&mut at_once);
    assert_eq!(sink.inner.points, at_once.points, "in two runs as in one");
}

/// Asks to stop while it embeds the first image beyond a step.
struct StopsWhileEmbedding {
    inner: FakeEncoder,
    stop: Arc<AtomicBool>,
    images: AtomicUsize,
}

impl Encoder for StopsWhileEmbedding {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    fn preprocess(&self, picture: &RgbImage) -> Result<Pixels, firn_model::Error> {
        self.inner.preprocess(picture)
    }

    fn embed_images(&self, images: &[Pixels], keep: Keep) -> Result<Vec<ImageEmbedding>, firn_model::Error> {
        let so_far = self.images.fetch_add(images.len(), Relaxed) + images.len();
        self.stop.store(so_far > embed::step(&[self]), Relaxed);
        self.inner.embed_images(images, keep)
    }

    fn embed_texts(&self, texts: &[&str], keep: Keep) -> Result<Vec<TextEmbedding>, firn_model::Error> {
        assert!(!self.stop.load(Relaxed), "texts are embedded after the stop");
        self.inner.embed_texts(texts, keep)
    }
}

/// On a CPU an image can take seconds: a stop waits for a few, and drops none that is done.
#[test]
fn a_stop_waits_for_no_more_than_one_step_of_the_encoder() {
    for with_texts in [false, true] {
        let world = World::with_pictures(300);
        if with_texts {
            (0..300).for_each(|at| world.write(&format!("{:02}/{at:05}.txt", at % 7), b"a text"));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let encoder = Arc::new(StopsWhileEmbedding { inner: FakeEncoder::new(), stop, images: AtomicUsize::new(0) });
        let step = embed::step(&[&*encoder]);
        let job = Job { encoders: vec![encoder.clone()], stop: encoder.stop.clone(), ..world.job() };
        let mut sink = embedding();
        let (report, result) = run(job, &mut sink);
        result.unwrap();
        assert!(report.interrupted && report.skipped == 0, "{report:?}");
        let images = encoder.images.load(Relaxed);
        assert!((step + 1..=2 * step).contains(&images), "{images} images in steps of {step}");
        let (all, done) = (report.written as usize, sink.points.len());
        assert_eq!(all, done);
        if !with_texts {
            assert_eq!(done, images, "what was embedded is written");
        } else {
            assert!((1..=step).contains(&done), "what lacks its text is not: {done} of {images}");
        }
        assert_eq!(counts(&world.run(&mut sink)), [300 - report.written, report.written, 0, 0]);
    }
}

#[test]
fn points_of_vectors_alone_need_no_model() {
    let rows = "{\"vectors\": {\"image\": [1,0,0,0,0,0,0,0]}}\n{\"vectors\": {\"image\": [1,0]}}\n{\"vectors\": {\"image\": [0,0,0,0,0,0,0,0]}}\n";
    let mut world = World::new(&[("d.jsonl", rows.as_bytes())]);
    world.sources = vec![world.sources[0].join("d.jsonl")];
    let (report, result) = run(Job { encoders: Vec::new(), ..world.job() }, &mut embedding());
    result.unwrap();
    assert_eq!(counts(&report), [1, 0, 0, 2]);
    let reasons: Vec<_> = report.skipped_by_reason.keys().map(String::as_str).collect();
    assert_eq!(reasons, ["wrong_dimension", "zero_vector"]);
}

#[test]
fn memory_is_bounded_by_bytes() {
    let world = World::with_pictures(400);
    let job = Job { bytes_in_flight: 20_000, batch: 10_000, ..world.job() };
    let mut sink = embedding();
    let (report, result) = run(job, &mut sink);
    result.unwrap();
    assert_eq!(report.written, 400);
    let largest = sink.batches.iter().max().unwrap();
    assert!(*largest < 100, "a batch of {largest} points does not fit in 20 kB");
}

#[test]
fn the_report_as_json() {
    let world = World::new(&[("a.png", &png(1)), ("b.png", b"x"), ("c.md", b"")]);
    let report = world.run(&mut embedding());
    let mut json = serde_json::to_value(&report).unwrap();
    assert!(json["seconds"].as_f64().unwrap() > 0.0 && json["points_per_second"].as_f64().unwrap() > 0.0);
    json["seconds"] = 0.into();
    json["points_per_second"] = 0.into();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let message = json["skipped_items"][0]["message"].take();
    assert!(message.as_str().unwrap().contains("expected JPEG"));
    assert_eq!(
        json,
        serde_json::json!({
            "collection": "c",
            "sources": [{"path": path(&world.sources[0]), "kind": "folder"}],
            "read": 2, "written": 1, "unchanged": 0, "duplicates": 0, "skipped": 1,
            "skipped_by_reason": {"unknown_image": 1},
            "skipped_items": [{
                "source": path(&world.sources[0]), "item": "b.png", "reason": "unknown_image", "message": null
            }],
            "truncated_texts": 0, "truncated_example": null, "unmet_captions": 0, "ignored_files": 1, "interrupted": false, "seconds": 0, "points_per_second": 0,
            "journal": path(&world.journal()),
        })
    );
}

#[test]
fn ids_come_from_content_unless_told_otherwise() {
    let world = World::new(&[("a/x.png", &png(1))]);
    let mut sink = embedding();
    world.run(&mut sink);
    assert_eq!(sink.points.keys().next(), Some(&PointId::from("a/x.png")));
}
