//! Real features of a frozen image encoder with their grid tokens: all are ingested, and found by id and by vector.

use std::{fs, path::Path};

use firn_index::{CollectionConfig, Database, Fields, Options, Search, TokenConfig, VectorConfig};
use firn_ingest::{
    identity::IdFrom,
    journal::Journal,
    pipeline::{DEFAULT_BYTES_IN_FLIGHT, Job, run},
    report::Watch,
    sink::CollectionSink,
    source::{Source, SourceOptions},
};
use half::f16;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value;

/// The numbers of a .npy file of int8, as what they stand for.
fn dequantized(path: &Path, meta: &Value, of: &str) -> Vec<f32> {
    let bytes = fs::read(path).unwrap();
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let number = |name: &str| meta[format!("{of}_{name}")].as_f64().unwrap() as f32;
    let (scale, zero) = (number("scale"), number("zero"));
    bytes[header..].iter().map(|&byte| (f32::from(byte as i8) - zero) * scale).collect()
}

#[test]
fn seven_thousand_photos_are_ingested_with_their_grid_tokens() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/flickr8k_research");
    if !folder.join("mnv2.json").exists() {
        return println!("skipped: {} is not there", folder.display());
    }
    let meta: Value = serde_json::from_slice(&fs::read(folder.join("mnv2.json")).unwrap()).unwrap();
    let ids: Vec<String> = meta["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect();
    let (n, shape) = (ids.len(), TokenConfig { n: 16, dim: 320 });
    let image = dequantized(&folder.join("mnv2_global_i8.npy"), &meta, "global");
    let grid = dequantized(&folder.join("mnv2_grid4x4_i8.npy"), &meta, "grid");
    let tokens: Vec<f16> = grid.into_iter().map(f16::from_f32).collect();
    let dim = image.len() / n;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mnv2.safetensors");
    let (image_bytes, token_bytes): (Vec<u8>, Vec<u8>) =
        (image.iter().flat_map(|x| x.to_le_bytes()).collect(), tokens.iter().flat_map(|x| x.to_le_bytes()).collect());
    let views = [
        ("image", TensorView::new(Dtype::F32, vec![n, dim], &image_bytes).unwrap()),
        ("image.tokens", TensorView::new(Dtype::F16, vec![n, shape.n, shape.dim], &token_bytes).unwrap()),
    ];
    let metadata = [("ids".to_owned(), serde_json::to_string(&ids).unwrap())].into();
    safetensors::serialize_to_file(views, Some(metadata), &path).unwrap();

    let source = Source::open(&path, &SourceOptions::default()).unwrap();
    assert_eq!((source.dims["image"], source.tokens["image"]), (dim, shape));
    // Searched exactly: this is no test of the graph.
    let options = Options { buffer_limit: 2 * n, min_free_bytes: 0, ..Options::default() };
    let database = Database::open(&dir.path().join("data"), options).unwrap();
    let config = CollectionConfig {
        vectors: [("image".to_owned(), VectorConfig::new(dim))].into(),
        tokens: [("image".to_owned(), shape)].into(),
        ..CollectionConfig::default()
    };
    let collection = database.create_collection("photos", config.clone()).unwrap();
    let journal_path = dir.path().join("journal");
    let mut journal = Journal::lock(&journal_path).unwrap();
    let job = Job {
        collection: "photos".to_owned(),
        config,
        watch: Watch::new(vec![source.progress.clone()]),
        sources: vec![source],
        encoders: Vec::new(),
        written: journal.load("uuid").unwrap(),
        journal,
        journal_path,
        id_from: IdFrom::Content,
        batch: 1000,
        bytes_in_flight: DEFAULT_BYTES_IN_FLIGHT,
        stop: Default::default(),
    };
    let (report, result) = run(job, &mut CollectionSink::new(collection.clone()));
    result.unwrap();
    assert_eq!((report.written, report.skipped), (n as u64, 0), "{report:?}");

    let reader = collection.reader();
    let expected = |at: usize| &tokens[at * shape.n * shape.dim..][..shape.n * shape.dim];
    let asked = Fields { tokens: true, ..Fields::default() };
    for at in (0..n).step_by(501) {
        let point = reader.get(&[ids[at].as_str().into()], asked).unwrap().pop().unwrap();
        assert_eq!(point.tokens["image"].values, expected(at), "{}", ids[at]);
        let vector = &image[at * dim..][..dim];
        let search = Search { vector, using: "image", limit: 5, ef: None, exact: true };
        let hits = reader.search(&search).unwrap();
        assert_eq!(hits[0].row, point.row, "{} is not the first for its own vector", ids[at]);
        for hit in hits {
            let found = reader.fetch(&[hit.row], asked).unwrap().pop().unwrap();
            let place = ids.iter().position(|id| *id == found.id.to_string()).unwrap();
            assert_eq!(reader.tokens(hit.row, "image").unwrap().unwrap().values, expected(place));
        }
    }
    let verified = collection.verify().unwrap();
    assert_eq!((verified.tokens_checked, verified.damages), (n as u64, Vec::new()));
}
