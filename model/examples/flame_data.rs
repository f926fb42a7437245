//! The data of FLAME at small scale, for `benches/flame.sh`: drawings and scenes as tars, their captions, the small real
//! decoder in the Hugging Face layout, and the facets that it makes of the captions.
//!
//!     cargo run --release -p firn-model --example flame_data -- WEIGHTS EMOJI OUT N_SCENES [TEMPLATES]
//!
//! WEIGHTS holds stories260K.bin and tok512.bin, EMOJI what `firn train align --emoji` takes. Of an image 11 facets are kept,
//! as FLAME has them: 1 of its name, 3 of the same, 7 of the long caption. TEMPLATES asks otherwise than FLAME does; its
//! templates are called one, three and seven.

use std::{
    collections::{HashMap, hash_map::Entry},
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use firn_model::{
    facets::{FacetEncoder, Mode, Options, Template},
    scenes::{Style, seen_scene},
    train::{emoji, evaluate},
};
use image::RgbImage;
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error>>;

const SIDE_PX: u32 = 72;
const N_UNSEEN_SCENES: usize = 200;
const SCENE_SEED: u64 = 0xf1a3;

/// An image with what is said of it.
struct Item {
    key: String,
    group: String,
    split: &'static str,
    picture: RgbImage,
    short: String,
    long: String,
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (weights, emoji, out, n_scenes, templates) = match &arguments[..] {
        [weights, emoji, out, n_scenes] => (weights, emoji, out, n_scenes, None),
        [weights, emoji, out, n_scenes, templates] => (weights, emoji, out, n_scenes, Some(Path::new(templates))),
        _ => return Err("expected WEIGHTS EMOJI OUT N_SCENES [TEMPLATES]".into()),
    };
    let (weights, out) = (PathBuf::from(weights), PathBuf::from(out));
    fs::create_dir_all(out.join("decoder"))?;
    convert(&fs::read(weights.join("stories260K.bin"))?, &out.join("decoder"))?;
    let tokenizer = tokenizer(&fs::read(weights.join("tok512.bin"))?);
    fs::write(out.join("decoder/tokenizer.json"), tokenizer.to_string())?;
    let emoji = drawings(Path::new(emoji))?;
    let scenes = scenes(n_scenes.parse()?);
    write_tar(&out.join("emoji.tar"), &emoji)?;
    write_tar(&out.join("scenes.tar"), &scenes)?;
    let all: Vec<&Item> = emoji.iter().chain(&scenes).collect();
    write_captions(&out.join("captions.jsonl"), &all)?;
    write_facets(&out, &all, templates)
}

/// Both drawings of each concept to learn from; of what is held out the first, since a name cannot tell them apart.
fn drawings(folder: &Path) -> Outcome<Vec<Item>> {
    let mut items = Vec::new();
    for concept in emoji::read(folder)? {
        let Some(text) = concept.texts.iter().find(|text| text.lang == "en") else { continue };
        let n_styles = if concept.is_train { emoji::STYLES.len() } else { 1 };
        for (style, picture) in emoji::STYLES.iter().zip(&concept.pictures).take(n_styles) {
            items.push(Item {
                key: format!("{style}-{}", concept.id),
                group: concept.group.clone(),
                split: if concept.is_train { "train" } else { "val" },
                picture: picture.clone(),
                short: text.name.clone(),
                long: format!("{}: {}", text.name, text.keywords.join(", ")),
            });
        }
    }
    Ok(items)
}

fn scenes(n: usize) -> Vec<Item> {
    let seen = (0..n as u64).map(|at| ("train", at, seen_scene(SCENE_SEED, at)));
    let unseen = evaluate::unseen(N_UNSEEN_SCENES).into_iter().zip(0..).map(|(scene, at)| ("val", at, scene));
    let item = |(split, at, scene): (&'static str, u64, firn_model::scenes::Scene)| Item {
        key: format!("scene-{split}-{at}"),
        group: format!("scene-{split}-{at}"),
        split,
        picture: scene.draw(SIDE_PX),
        short: scene.caption("en", Style::Short),
        long: scene.caption("en", Style::Long),
    };
    seen.chain(unseen).map(item).collect()
}

fn write_tar(path: &Path, items: &[Item]) -> Outcome<()> {
    let mut tar = tar::Builder::new(fs::File::create(path)?);
    for item in items {
        let mut png = std::io::Cursor::new(Vec::new());
        item.picture.write_to(&mut png, image::ImageFormat::Png)?;
        let about = json!({ "split": item.split, "group": item.group }).to_string().into_bytes();
        for (extension, bytes) in [("png", png.into_inner()), ("json", about)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, format!("{}.{extension}", item.key), bytes.as_slice())?;
        }
    }
    Ok(tar.finish()?)
}

/// For the dual encoder, which reads what the facets were made of.
fn write_captions(path: &Path, items: &[&Item]) -> Outcome<()> {
    let row = |item: &&Item| {
        let captions = [&item.short, &item.long].map(|text| json!({ "text": text, "language": "en" }));
        json!({ "id": item.key, "split": item.split, "group": item.group, "captions": captions }).to_string() + "\n"
    };
    Ok(fs::write(path, items.iter().map(row).collect::<String>())?)
}

fn write_facets(out: &Path, items: &[&Item], templates: Option<&Path>) -> Outcome<()> {
    let encoder = |flame: &str, own: &str| {
        let template = templates.map_or_else(|| Template::flame(flame), |file| Template::read(file, own))?;
        let options = Options { template, mode: Mode::Exact, ..Options::flame() };
        FacetEncoder::load(&out.join("decoder"), &options)
    };
    let encoders = [encoder("flame-1", "one")?, encoder("flame-3", "three")?, encoder("flame-7", "seven")?];
    // The drawings of one thing share its texts.
    let mut known: HashMap<(&str, &str), Tensor> = HashMap::new();
    let mut all: HashMap<String, Tensor> = HashMap::new();
    for item in items {
        let texts = (item.short.as_str(), item.long.as_str());
        let rows = match known.entry(texts) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(facet_rows(&encoders, texts)?),
        };
        all.insert(item.key.clone(), rows.clone());
    }
    Ok(candle_core::safetensors::save(&whitened(all, items)?, out.join("facets.safetensors"))?)
}

/// One facet and three of the short text, seven of the long one, as FLAME has them: (11, dim).
fn facet_rows(encoders: &[FacetEncoder; 3], (short, long): (&str, &str)) -> Outcome<Tensor> {
    let mut rows = Vec::new();
    for (encoder, text) in encoders.iter().zip([short, short, long]) {
        rows.extend(encoder.embed(&[text])?.remove(0).facets);
    }
    Ok(Tensor::new(rows, &Device::Cpu)?)
}

/// Each facet made uncorrelated over the training images, and kept near its own axes, so that the mean of several still means
/// something: of this decoder any two captions' facets have a cosine of 0.9996, and what the captions differ by is lost in it.
fn whitened(all: HashMap<String, Tensor>, items: &[&Item]) -> candle_core::Result<HashMap<String, Tensor>> {
    let train: Vec<&Tensor> = items.iter().filter(|item| item.split == "train").map(|item| &all[&item.key]).collect();
    let rows = Tensor::stack(&train, 1)?.to_dtype(DType::F64)?; // (facets, images, dim)
    let mean = rows.mean_keepdim(1)?;
    let apart = rows.broadcast_sub(&mean)?;
    let covariance = (apart.t()?.matmul(&apart)? / rows.dim(1)? as f64)?;
    let (mean, axes) = (mean.squeeze(1)?, inverse_root(&covariance)?);
    let whiten = |facets: &Tensor| {
        let apart = (facets.to_dtype(DType::F64)? - &mean)?;
        apart.unsqueeze(1)?.matmul(&axes)?.squeeze(1)?.to_dtype(DType::F32)
    };
    all.into_iter().map(|(key, facets)| Ok((key, whiten(&facets)?))).collect()
}

/// The symmetric inverse root of each matrix, by the iteration of Newton and Schulz: (n, dim, dim) to the same. A hundredth
/// of a bound of the largest eigenvalue is added to all, so that rare directions are not blown up.
fn inverse_root(matrices: &Tensor) -> candle_core::Result<Tensor> {
    let (n, dim, _) = matrices.dims3()?;
    let one = Tensor::eye(dim, DType::F64, &Device::Cpu)?.broadcast_as((n, dim, dim))?.contiguous()?;
    let bound = matrices.sqr()?.sum_keepdim((1, 2))?.sqrt()?;
    let mut root = (matrices.broadcast_div(&bound)? + (&one * 0.01)?)?;
    let level = 1.01; // the largest that an eigenvalue can be now
    root = (root / level)?;
    let mut inverse = one.clone();
    for _ in 0..40 {
        let step = ((&one * 1.5)? - (inverse.matmul(&root)? * 0.5)?)?;
        (root, inverse) = (root.matmul(&step)?, step.matmul(&inverse)?);
    }
    inverse.broadcast_div(&(bound * level)?.sqrt()?)
}

/// From the format of llama2.c to a folder as Hugging Face has it.
fn convert(file: &[u8], folder: &Path) -> Outcome<()> {
    let words = file.as_chunks::<4>().0;
    let [dim, wide, n_layers, n_heads, n_kv_heads, vocab_size, max_tokens] =
        std::array::from_fn(|i| i32::from_le_bytes(words[i]).unsigned_abs() as usize);
    let mut numbers = words[7..].iter().map(|word| f32::from_le_bytes(*word));
    let mut take = |rows: usize, columns: usize| {
        let values: Vec<f32> = numbers.by_ref().take(rows * columns).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu)
    };
    let kv_dim = dim / n_heads * n_kv_heads;
    let mut tensors = HashMap::from([("model.embed_tokens.weight".to_owned(), take(vocab_size, dim)?)]);
    for (name, rows, columns) in [
        ("input_layernorm", 1, dim),
        ("self_attn.q_proj", dim, dim),
        ("self_attn.k_proj", kv_dim, dim),
        ("self_attn.v_proj", kv_dim, dim),
        ("self_attn.o_proj", dim, dim),
        ("post_attention_layernorm", 1, dim),
        ("mlp.gate_proj", wide, dim),
        ("mlp.down_proj", dim, wide),
        ("mlp.up_proj", wide, dim),
    ] {
        for layer in 0..n_layers {
            let tensor = match name {
                "self_attn.q_proj" => halves_apart(&take(rows, columns)?, n_heads)?,
                "self_attn.k_proj" => halves_apart(&take(rows, columns)?, n_kv_heads)?,
                _ if rows == 1 => take(1, columns)?.squeeze(0)?,
                _ => take(rows, columns)?,
            };
            tensors.insert(format!("model.layers.{layer}.{name}.weight"), tensor);
        }
    }
    tensors.insert("model.norm.weight".to_owned(), take(1, dim)?.squeeze(0)?);
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors"))?;
    let config = json!({
        "model_type": "llama", "hidden_size": dim, "intermediate_size": wide, "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads, "num_key_value_heads": n_kv_heads, "vocab_size": vocab_size,
        // The file says 512, what it was trained with; seven facets need more, and rotation has no end.
        "max_position_embeddings": max_tokens.max(2048), "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    });
    Ok(fs::write(folder.join("config.json"), config.to_string())?)
}

/// llama2.c turns neighbours, transformers turns the halves of a head.
fn halves_apart(rows: &Tensor, n_heads: usize) -> candle_core::Result<Tensor> {
    let (n, dim) = rows.dims2()?;
    let pairs = rows.reshape((n_heads, n / n_heads / 2, 2, dim))?;
    pairs.transpose(1, 2)?.contiguous()?.reshape((n, dim))
}

/// SentencePiece's merges: any two pieces that make a third, the earlier pieces first. Spaces are spaces in this file.
fn tokenizer(mut file: &[u8]) -> Value {
    let mut next = |n: usize| file.split_off(..n).map(<[u8]>::to_vec);
    next(4);
    let mut pieces: Vec<(f32, String)> = Vec::new();
    while let Some(score) = next(4) {
        let score = f32::from_le_bytes([score[0], score[1], score[2], score[3]]);
        let length = next(4).map_or(0, |b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
        pieces.push((score, String::from_utf8_lossy(&next(length).unwrap_or_default()).replace(' ', "▁")));
    }
    // The first three stand as "\n<s>\n" and the like.
    for (piece, name) in pieces.iter_mut().zip(["<unk>", "<s>", "</s>"]) {
        piece.1 = name.to_owned();
    }
    let ids: HashMap<&str, usize> = pieces.iter().enumerate().map(|(id, (_, piece))| (piece.as_str(), id)).collect();
    let mut merges = Vec::new();
    for (id, (score, piece)) in pieces.iter().enumerate().skip(259) {
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) {
                merges.push((*score, id, json!([left, right])));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let merges: Vec<Value> = merges.into_iter().map(|(.., pair)| pair).collect();
    let special = |id: usize| {
        json!({ "id": id, "content": pieces[id].1, "special": true, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false })
    };
    let start = json!({ "SpecialToken": { "id": "<s>", "type_id": 0 } });
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    json!({
        "version": "1.0",
        "added_tokens": [special(0), special(1), special(2)],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" }, { "type": "Replace", "pattern": { "String": " " }, "content": "▁" }] },
        "pre_tokenizer": null,
        "post_processor": { "type": "TemplateProcessing", "single": [start, text], "pair": [start, text],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } } },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" },
            { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 }] },
        "model": { "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": ids, "merges": merges },
    })
}
