//! The index beside exact search and beside hnswlib, on the same clustered vectors in the same run.
//!
//! CPU time, since machines are shared; searches run on one thread. What it prints is a Markdown table for README.md.

use std::{collections::BTreeMap, error::Error, fs, path::Path, process::Command, time::Instant};

use clap::Parser;
use firn_benches::process_cpu_s;
use firn_index::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

const LIMIT: usize = 10;
const REPEATS: usize = 5;
const LATENT_DIM: usize = 64;
const BATCH: usize = 1000;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Measure building and searching, with hnswlib beside it if Python has it.
#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 100_000)]
    n: usize,
    #[arg(long, default_value_t = 768)]
    dim: usize,
    #[arg(long, default_value_t = 1000)]
    clusters: usize,
    #[arg(long, default_value_t = 1000)]
    queries: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads that build.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[arg(long, value_delimiter = ',', default_values_t = [10, 12, 16, 24, 32, 48, 64, 96, 128])]
    ef: Vec<usize>,
    /// A Python with hnswlib and numpy.
    #[arg(long, default_value = "python3")]
    python: String,
    /// Where vectors and database go; a temporary folder if not given.
    #[arg(long)]
    folder: Option<std::path::PathBuf>,
}

struct Data {
    base: Vec<f32>,
    queries: Vec<f32>,
}

/// One row of the table.
#[derive(Clone, Copy)]
struct Measured {
    ef: usize,
    recall: f64,
    cpu_us: f64,
}

struct Summary {
    build_cpu_s: f64,
    resident_bytes: f64,
    lost: u64,
    results: Vec<Measured>,
}

fn main() -> Outcome<()> {
    let args = Args::parse();
    let temporary = tempfile::tempdir()?;
    let folder = args.folder.clone().unwrap_or_else(|| temporary.path().to_owned());
    fs::create_dir_all(&folder)?;
    let data = generate(&args);
    let (firn, truth) = measure_firn(&args, &data, &folder.join("database"))?;
    write_numbers(&folder.join("base.f32"), &data.base)?;
    write_numbers(&folder.join("queries.f32"), &data.queries)?;
    fs::write(folder.join("truth.u32"), truth.iter().flatten().flat_map(|row| row.to_le_bytes()).collect::<Vec<_>>())?;
    let hnswlib = measure_hnswlib(&args, &folder)?;
    print_tables(&args, &firn, hnswlib.as_ref());
    Ok(())
}

/// Unit vectors around `clusters` centres of a 64-dimensional latent space, projected, with a little noise of full rank;
/// the points of a cluster stand together.
fn generate(args: &Args) -> Data {
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let projection = normals(&mut rng, LATENT_DIM * args.dim);
    let centres: Vec<Vec<f32>> = (0..args.clusters).map(|_| normals(&mut rng, LATENT_DIM)).collect();
    let mut draw = |n: usize, centre_of: &dyn Fn(usize, &mut ChaCha8Rng) -> usize| {
        let mut numbers = Vec::with_capacity(n * args.dim);
        for i in 0..n {
            let centre = &centres[centre_of(i, &mut rng)];
            let latent: Vec<f32> = normals(&mut rng, LATENT_DIM).iter().zip(centre).map(|(x, c)| 0.5 * x + c).collect();
            let mut point: Vec<f32> = normals(&mut rng, args.dim).iter().map(|x| 0.2 * x).collect();
            for (x, row) in latent.iter().zip(projection.chunks_exact(args.dim)) {
                point.iter_mut().zip(row).for_each(|(p, r)| *p += x * r);
            }
            let length = point.iter().map(|x| x * x).sum::<f32>().sqrt();
            numbers.extend(point.iter().map(|x| x / length));
        }
        numbers
    };
    let base = draw(args.n, &|i, _| i * args.clusters / args.n);
    let queries = draw(args.queries, &|_, rng| rng.random_range(0..args.clusters));
    Data { base, queries }
}

/// Standard normal numbers (Box and Muller).
fn normals(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    let mut normal = || {
        let (u, v): (f32, f32) = (1.0 - rng.random::<f32>(), rng.random());
        (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
    };
    (0..n).map(|_| normal()).collect()
}

fn measure_firn(args: &Args, data: &Data, path: &Path) -> Outcome<(Summary, Vec<Vec<Row>>)> {
    let options = Options { buffer_limit: args.n + 1, build_threads: args.threads, ..Options::default() };
    let database = Database::open(path, options.clone())?;
    let vectors = BTreeMap::from([("v".to_owned(), VectorConfig::new(args.dim))]);
    let config = CollectionConfig { vectors, ..CollectionConfig::default() };
    let collection = database.create_collection("c", config)?;
    let (wall, cpu) = (Instant::now(), process_cpu_s());
    insert(&collection, data, args.dim)?;
    let (seconds, cpu) = (wall.elapsed().as_secs_f64(), process_cpu_s() - cpu);
    println!("written: {} vectors, {seconds:.1} s, {cpu:.1} CPU-s", args.n);
    let truth = exact(&collection.reader(), data, args.dim)?;
    let (wall, cpu) = (Instant::now(), process_cpu_s());
    collection.optimize()?;
    let build_cpu_s = process_cpu_s() - cpu;
    println!("built: {build_cpu_s:.1} CPU-s, {:.1} s", wall.elapsed().as_secs_f64());
    database.close()?;
    drop(collection);
    drop(database);

    let resident = resident_bytes();
    let (wall, cpu) = (Instant::now(), process_cpu_s());
    let database = Database::open(path, options)?;
    let seconds = wall.elapsed().as_secs_f64();
    let resident_bytes = resident_bytes() - resident;
    let disk = database.disk_bytes() as f64 / (args.n * args.dim * 4) as f64;
    println!("opened: {seconds:.2} s, {:.2} CPU-s; on disk {disk:.2} x the vectors", process_cpu_s() - cpu);
    let collection = database.collection("c")?;
    let reader = collection.reader();
    let results = args.ef.iter().map(|&ef| measure_ef(&reader, data, args.dim, ef, &truth)).collect::<Outcome<_>>()?;
    let report = collection.verify()?;
    let lost = lost(&reader, data, args.dim)? + report.unreachable_vectors;
    println!("verified: {:?}, info {:?} segments", report.damages, collection.info().segments_count);
    Ok((Summary { build_cpu_s, resident_bytes, lost, results }, truth))
}

fn insert(collection: &Collection, data: &Data, dim: usize) -> Outcome<()> {
    let vectors: Vec<&[f32]> = data.base.chunks_exact(dim).collect();
    for (b, batch) in vectors.chunks(BATCH).enumerate() {
        let point = |(i, v): (usize, &&[f32])| NewPoint {
            id: PointId::Num((b * BATCH + i) as u64),
            texts: Vec::new(),
            payload: Payload::new(),
            vectors: [("v".to_owned(), v.to_vec())].into(),
            tokens: BTreeMap::new(),
        };
        collection.upsert(batch.iter().enumerate().map(point).collect())?;
    }
    Ok(())
}

/// Rows are the places in `base`: nothing was replaced.
fn exact(reader: &Reader, data: &Data, dim: usize) -> Outcome<Vec<Vec<Row>>> {
    data.queries.chunks_exact(dim).map(|query| search(reader, query, None, true)).collect()
}

fn search(reader: &Reader, vector: &[f32], ef: Option<usize>, exact: bool) -> Outcome<Vec<Row>> {
    let hits = reader.search(&Search { vector, using: "v", limit: LIMIT, ef, exact })?;
    Ok(hits.into_iter().map(|hit| hit.row).collect())
}

fn measure_ef(reader: &Reader, data: &Data, dim: usize, ef: usize, truth: &[Vec<Row>]) -> Outcome<Measured> {
    let mut cpu_us = f64::INFINITY;
    let mut found = Vec::new();
    for _ in 0..REPEATS {
        let started = thread_cpu_s();
        found = data
            .queries
            .chunks_exact(dim)
            .map(|query| search(reader, query, Some(ef), false))
            .collect::<Outcome<Vec<_>>>()?;
        cpu_us = cpu_us.min((thread_cpu_s() - started) * 1e6 / truth.len() as f64);
    }
    let same = found.iter().zip(truth).map(|(found, truth)| truth.iter().filter(|row| found.contains(row)).count());
    let recall = same.sum::<usize>() as f64 / (truth.len() * LIMIT) as f64;
    Ok(Measured { ef, recall, cpu_us })
}

/// Points that are not among the hits for their own vector at the default ef.
fn lost(reader: &Reader, data: &Data, dim: usize) -> Outcome<u64> {
    let mut lost = 0;
    for (row, vector) in data.base.chunks_exact(dim).enumerate() {
        lost += u64::from(!search(reader, vector, None, false)?.contains(&(row as Row)));
    }
    Ok(lost)
}

/// None if Python has no hnswlib.
fn measure_hnswlib(args: &Args, folder: &Path) -> Outcome<Option<Summary>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/hnswlib.py");
    let hnsw = HnswConfig::default();
    let numbers = [args.dim, hnsw.m, hnsw.ef_construction, args.threads, LIMIT];
    let mut command = Command::new(&args.python);
    command.arg(script).arg(folder).args(numbers.iter().chain(&args.ef).map(usize::to_string));
    let output = match command.output() {
        Ok(output) if output.status.success() => output.stdout,
        Ok(output) if output.status.code() == Some(3) => {
            println!("skipped hnswlib: {} has no hnswlib or numpy", args.python);
            return Ok(None);
        }
        Ok(output) => return Err(String::from_utf8_lossy(&output.stderr).into()),
        Err(error) => {
            println!("skipped hnswlib: {}: {error}", args.python);
            return Ok(None);
        }
    };
    let report: Value = serde_json::from_slice(&output)?;
    let number = |value: &Value| value.as_f64().ok_or("hnswlib.py answered no number");
    let mut results = Vec::new();
    for result in report["results"].as_array().ok_or("hnswlib.py answered no results")? {
        let ef = number(&result["ef"])? as usize;
        results.push(Measured { ef, recall: number(&result["recall"])?, cpu_us: number(&result["cpu_us"])? });
    }
    Ok(Some(Summary {
        build_cpu_s: number(&report["build_cpu_s"])?,
        resident_bytes: number(&report["resident_bytes"])?,
        lost: number(&report["lost"])? as u64,
        results,
    }))
}

fn print_tables(args: &Args, firn: &Summary, hnswlib: Option<&Summary>) {
    println!("\n{} x {}, {} clusters inserted one after the other\n", args.n, args.dim, args.clusters);
    println!("| ef | firn recall@10 | firn CPU-us | hnswlib recall@10 | hnswlib CPU-us |\n|---|---|---|---|---|");
    for (i, m) in firn.results.iter().enumerate() {
        let theirs = hnswlib.map(|h| &h.results[i]);
        let theirs = theirs.map_or("- | -".to_owned(), |h| format!("{:.4} | {:.0}", h.recall, h.cpu_us));
        println!("| {} | {:.4} | {:.0} | {theirs} |", m.ef, m.recall, m.cpu_us);
    }
    println!("\n| | firn | hnswlib | ratio |\n|---|---|---|---|");
    let row = |what: String, ours: Option<f64>, theirs: Option<f64>| {
        let show = |x: Option<f64>| x.map_or("-".to_owned(), |x| format!("{x:.1}"));
        let ratio = ours
            .zip(theirs)
            .filter(|(_, theirs)| *theirs > 0.0)
            .map_or("-".to_owned(), |(a, b)| format!("{:.2}", a / b));
        println!("| {what} | {} | {} | {ratio} |", show(ours), show(theirs));
    };
    for recall in [0.95, 0.99, 0.999] {
        let theirs = hnswlib.and_then(|h| cpu_us_at(&h.results, recall));
        row(format!("CPU-us per query at recall {recall}"), cpu_us_at(&firn.results, recall), theirs);
    }
    row("build CPU-s".into(), Some(firn.build_cpu_s), hnswlib.map(|h| h.build_cpu_s));
    let mb = |s: &Summary| s.resident_bytes / 1e6;
    // firn opens in a process that has built before, so some of its memory was there already.
    row("growth of resident MB".into(), Some(mb(firn)), hnswlib.map(mb));
    let lost = |s: &Summary| s.lost as f64;
    row("points that do not find themselves".into(), Some(lost(firn)), hnswlib.map(lost));
}

/// Between the two measurements around a recall, linear in the logarithm of what is missed.
fn cpu_us_at(results: &[Measured], recall: f64) -> Option<f64> {
    let above = results.iter().position(|m| m.recall >= recall)?;
    let high = results[above];
    let Some(low) = above.checked_sub(1).map(|i| results[i]) else { return Some(high.cpu_us) };
    let missed = |recall: f64| (1.0 - recall).max(1e-5).ln();
    let part = (missed(low.recall) - missed(recall)) / (missed(low.recall) - missed(high.recall));
    Some(low.cpu_us + part * (high.cpu_us - low.cpu_us))
}

fn write_numbers(path: &Path, numbers: &[f32]) -> Outcome<()> {
    Ok(fs::write(path, numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())?)
}

/// CPU seconds of this thread (Linux; elsewhere 0).
fn thread_cpu_s() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).map_or(0.0, |ns| ns * 1e-9)
}

/// Bytes of this process that are in memory (Linux; elsewhere 0).
fn resident_bytes() -> f64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<f64>().ok()).map_or(0.0, |pages| pages * 4096.0)
}
