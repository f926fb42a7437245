//! Scores one text against candidates as often as `benches/fusion_speed.py` asks: lines such as `frevl-64m 100` on stdin, times on
//! stdout. It leaves in the folder each network's weights and inputs, and the logits of the last answer.
//!
//! By itself it prints a table, of the CPU or a card, with how far its logits are from those of the network as it is written, in f32:
//!
//!     cargo run --release -p firn-model --example fusion_speed -- --device cpu

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    io::{self, BufRead, Write},
    ops::ControlFlow,
    path::Path,
    time::Instant,
};

use firn_model::{
    Device,
    fusion::{Direction, Ensemble, Hubs, Items, Kind, MAX_CROWD, Mining, Options, Pairs, Plan, Scorer, Sizes, train},
};
use half::f16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

type Outcome<T> = Result<T, Box<dyn Error>>;

const N_CANDIDATES: usize = 1000;

/// A network over vectors of `dim`, and tokens of `token_dim` if it reads any.
struct Case {
    name: &'static str,
    kind: Kind,
    sizes: Sizes,
    dim: usize,
    /// Of a text and of an image.
    n_tokens: [usize; 2],
    token_dim: usize,
}

const CASES: [Case; 4] = [
    Case {
        name: "1way-k7-m16",
        kind: Kind::FacetFusionOneWay,
        sizes: Sizes { dim: 128, n_layers: 2, n_heads: 4, wide: 256, tokens_only: false, share: 0.2 },
        dim: 512,
        n_tokens: [7, 16],
        token_dim: 512,
    },
    Case {
        name: "2way-k7-m16",
        kind: Kind::FacetFusion,
        sizes: Sizes { dim: 128, n_layers: 2, n_heads: 4, wide: 256, tokens_only: false, share: 0.2 },
        dim: 512,
        n_tokens: [7, 16],
        token_dim: 512,
    },
    Case {
        name: "mlp",
        kind: Kind::Mlp,
        sizes: Sizes { dim: 128, n_layers: 2, n_heads: 4, wide: 256, tokens_only: false, share: 0.2 },
        dim: 512,
        n_tokens: [0, 0],
        token_dim: 0,
    },
    Case {
        name: "frevl-64m",
        kind: Kind::Frevl,
        sizes: Sizes { dim: 768, n_layers: 4, n_heads: 12, wide: 3072, tokens_only: false, share: 0.2 },
        dim: 512,
        n_tokens: [0, 0],
        token_dim: 0,
    },
];

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args[..] {
        [flag, device] if flag == "--device" => table(device.parse()?),
        [folder] => answer(Path::new(folder)),
        _ => Err("usage: fusion_speed --device cpu|cuda, or FOLDER (run benches/fusion_speed.py)".into()),
    }
}

/// Every network with 10, 100 and 1000 candidates: medians of the time a question takes, from vectors and tokens in memory to logits.
fn table(device: Device) -> Outcome<()> {
    const N_TIMES: usize = 21;
    println!("| network | weights | candidates | ms a question | furthest logit, of spread |");
    println!("|---|---|---|---|---|");
    for case in &CASES {
        let (pairs, learnt) = (case.pairs(), case.network()?);
        let served = Ensemble::of_bytes(&learnt.bytes()?, Path::new(case.name), device)?;
        let (plain, scorer) = (learnt.as_written(), served.scorer()?.ok_or("there is a network")?);
        for n in [10, 100, N_CANDIDATES] {
            let asked: Vec<(usize, usize)> = (0..n).map(|image| (0, image)).collect();
            let expected = plain.score(&pairs.images, &pairs.texts, &asked)?;
            let mut logits = scorer.score(&pairs.images, &pairs.texts, &asked)?;
            let mut times = Vec::new();
            for _ in 0..N_TIMES {
                let start = Instant::now();
                logits = scorer.score(&pairs.images, &pairs.texts, &asked)?;
                times.push(1000.0 * start.elapsed().as_secs_f64());
            }
            times.sort_by(f64::total_cmp);
            let far = expected.iter().zip(&logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let mean = expected.iter().sum::<f32>() / n as f32;
            let spread = (expected.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n as f32).sqrt();
            let (name, weights, median) = (case.name, learnt.n_parameters(), times[N_TIMES / 2]);
            println!("| {name} | {weights} | {n} | {median:.2} | {far:.0e} of {spread:.0e} |");
        }
    }
    hubs()
}

/// The same of telling hubs among candidates that were never seen, by the largest crowd and a blend of 256 and 512 numbers. On the CPU.
fn hubs() -> Outcome<()> {
    const N_TIMES: usize = 21;
    const BLEND: [(&str, usize); 2] = [("one", 256), ("other", 512)];
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut numbers = |n: usize| (0..n).map(|_| rng.random_range(-0.1..0.1)).collect::<Vec<f32>>();
    let mut side = || {
        let items = |(name, dim): (&str, usize)| {
            (name.to_owned(), Items { dim, vectors: numbers(MAX_CROWD * dim), ..Items::default() })
        };
        BLEND.map(items).into()
    };
    let hubs = Hubs { texts: side(), images: side() };
    let blend = BLEND.map(|(name, _)| (name.to_owned(), 1.0)).into();
    let crowds = hubs.crowds(&blend).ok_or("the blend is that of the hubs")?;
    let candidates = numbers(N_CANDIDATES * 768);
    for n in [10, 100, N_CANDIDATES] {
        let mut times: Vec<f64> = (0..N_TIMES)
            .map(|_| {
                let start = Instant::now();
                std::hint::black_box(crowds.who_look(Direction::TextToImage).hubness(&candidates[..n * 768]));
                1000.0 * start.elapsed().as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!("| hubs, {MAX_CROWD} x 768 | - | {n} | {:.2} | |", times[N_TIMES / 2]);
    }
    Ok(())
}

fn answer(folder: &Path) -> Outcome<()> {
    let mut ready: BTreeMap<&str, (Pairs, Box<dyn Scorer + Send + Sync>)> = BTreeMap::new();
    for case in &CASES {
        let pairs = case.pairs();
        let network = case.network()?;
        eprintln!("{}: {} weights", case.name, network.n_parameters());
        fs::write(folder.join(format!("{}.safetensors", case.name)), network.bytes()?)?;
        for (side, items) in [("text", &pairs.texts), ("image", &pairs.images)] {
            write(&folder.join(format!("{}.{side}.f32", case.name)), items.vectors.iter().copied())?;
            let tokens = items.tokens.iter().map(|x| x.to_f32());
            write(&folder.join(format!("{}.{side}_tokens.f32", case.name)), tokens)?;
        }
        ready.insert(case.name, (pairs, network.scorer()?.ok_or("there is a network")?));
    }
    println!("ready");
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (name, n) = line.split_once(' ').ok_or("expected a name and a number")?;
        let (pairs, scorer) = &ready[name];
        let asked: Vec<(usize, usize)> = (0..n.parse::<usize>()?).map(|image| (0, image)).collect();
        // The kernel counts in ticks that are longer than a few candidates take.
        let n_times = (N_CANDIDATES / asked.len().max(1)).max(1);
        let (cpu_s, wall, mut logits) = (cpu_seconds(), Instant::now(), Vec::new());
        for _ in 0..n_times {
            logits = scorer.score(&pairs.images, &pairs.texts, &asked)?;
        }
        let ms = 1000.0 / n_times as f64;
        let taken = json!({"cpu_ms": ms * (cpu_seconds() - cpu_s), "wall_ms": ms * wall.elapsed().as_secs_f64()});
        write(&folder.join("logits.f32"), logits.into_iter())?;
        println!("{taken}");
        io::stdout().flush()?;
    }
    Ok(())
}

impl Case {
    /// One text and the candidates, of random numbers.
    fn pairs(&self) -> Pairs {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (images, texts) =
            (self.items(N_CANDIDATES, self.n_tokens[1], &mut rng), self.items(1, self.n_tokens[0], &mut rng));
        Pairs { images, texts, owner_of: vec![0], ..Pairs::default() }
    }

    fn items(&self, n: usize, n_tokens: usize, rng: &mut ChaCha8Rng) -> Items {
        let mut items = Items { dim: self.dim, n_tokens, token_dim: self.token_dim, ..Items::default() };
        for _ in 0..n {
            let vector: Vec<f32> = (0..self.dim).map(|_| rng.random_range(-1.0f32..1.0)).collect();
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            items.vectors.extend(vector.iter().map(|x| x / length));
            let tokens = (0..n_tokens * self.token_dim).map(|_| f16::from_f32(rng.random_range(-1.0f32..1.0)));
            items.tokens.extend(tokens);
        }
        items
    }

    /// After one step on random pairs: speed does not depend on what is learnt.
    fn network(&self) -> Outcome<Ensemble> {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let (images, texts) = (self.items(40, self.n_tokens[1], &mut rng), self.items(40, self.n_tokens[0], &mut rng));
        let pairs = Pairs { images, texts, owner_of: (0..40).collect(), ..Pairs::default() };
        let mut plan = Plan::new(self.kind, 1, 1);
        (plan.sizes, plan.n_lists, plan.list_length) = (self.sizes, 2, 2);
        let (learnt, held_out): (Vec<usize>, Vec<usize>) = ((0..30).collect(), (30..40).collect());
        let options = Options {
            plan: &plan,
            pairs: &pairs,
            train: &learnt,
            held_out: &held_out,
            device: Device::Cpu,
            checkpoint: None,
            mining: Mining::Exact,
        };
        let learnt = train(&options, &mut |_| ControlFlow::Continue(()))?;
        Ok(Ensemble::new(vec![learnt.ok_or("the run was broken off")?.0])?)
    }
}

fn write(path: &Path, numbers: impl Iterator<Item = f32>) -> io::Result<()> {
    fs::write(path, numbers.flat_map(f32::to_le_bytes).collect::<Vec<u8>>())
}

/// Of all threads of this process, from the kernel's count in nanoseconds.
fn cpu_seconds() -> f64 {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of_task = |task: fs::DirEntry| -> Option<f64> {
        let stat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse().ok()
    };
    tasks.filter_map(of_task).sum::<f64>() / 1e9
}
