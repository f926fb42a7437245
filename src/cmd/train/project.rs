//! `firn train project`: images that another encoder embedded, in the space that a text tower learnt beside them.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use firn_model::align::{self, FrozenImages};
use half::f16;

use super::frozen_images::FrozenImageArgs;
use crate::{exit::Usage, settings::Settings};

/// Bring images that another encoder embedded to where `firn train align` or `firn train ridge` brings texts
///
/// Writes FILE.npy with FILE.ids.txt and, if there are any, FILE.tokens.npy beside it, as `firn ingest` reads them.
///
/// Example: firn train project --aligned aligned --embeddings photos.npy --out found.npy
#[derive(Debug, clap::Args)]
pub(super) struct ProjectArgs {
    /// The folder that the training wrote, or one whose model.toml stacks several
    #[arg(long, value_name = "DIR")]
    aligned: PathBuf,
    #[command(flatten)]
    images: FrozenImageArgs,
    /// Where the vectors go
    #[arg(long, value_name = "FILE.npy")]
    out: PathBuf,
}

pub(super) fn run(args: &ProjectArgs, settings: &Settings) -> anyhow::Result<()> {
    let is_npy = args.out.extension().is_some_and(|extension| extension == "npy");
    Usage::unless(is_npy, || format!("--out: expected a .npy file, received {}", args.out.display()))?;
    let [ids, tokens] = ["ids.txt", "tokens.npy"].map(|extension| args.out.with_extension(extension));
    for (flag, input) in args.images.files() {
        let is_written = [&args.out, &ids, &tokens].into_iter().any(|output| is_same(output, &input));
        Usage::unless(!is_written, || format!("--out: expected another file than {flag}"))?;
    }
    let images = args.images.read()?.ok_or_else(|| Usage("--embeddings is missing".to_owned()))?;
    if let Some(id) = images.ids().iter().find(|id| id.contains('\n')) {
        return Err(Usage(format!("id {id:?}: expected one without line breaks, to stand in a line of its own")).into());
    }
    Usage::unless(images.tokens().is_some() || !tokens.exists(), || {
        format!("--out: {} is there already, and would be taken for the tokens of these", tokens.display())
    })?;
    let vectors = align::project(&args.aligned, &images, settings.device)?;
    check(&images, &vectors)?;
    write(&args.out, &images, &vectors).with_context(|| format!("--out {}", args.out.display()))?;
    let dim = vectors.first().map_or(0, Vec::len);
    match settings.json {
        true => println!("{}", serde_json::json!({ "images": vectors.len(), "dim": dim, "embeddings": args.out })),
        false => println!("{} images of {dim} numbers in {}", vectors.len(), args.out.display()),
    }
    Ok(())
}

/// Whether all can be ingested: vectors of some length, tokens that half precision holds.
fn check(images: &FrozenImages, vectors: &[Vec<f32>]) -> Result<(), Usage> {
    for (id, vector) in images.ids().iter().zip(vectors) {
        Usage::unless(vector.iter().all(|x| x.is_finite()), || {
            format!("image {id:?}: its numbers are too large to be projected")
        })?;
        Usage::unless(vector.iter().any(|&x| x != 0.0), || {
            format!("image {id:?}: expected a vector of some length, received zeros alone")
        })?;
    }
    let Some(tokens) = images.tokens() else { return Ok(()) };
    if let Some(at) = tokens.iter().position(|&x| !f16::from_f32(x).is_finite()) {
        let id = &images.ids()[at / (tokens.len() / images.ids().len())];
        let received = tokens[at];
        return Err(Usage(format!("tokens of image {id:?}: expected numbers of at most 65504, received {received}")));
    }
    Ok(())
}

/// Whether both lead to one file that is there, however they are spelled.
fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn write(out: &Path, images: &FrozenImages, vectors: &[Vec<f32>]) -> std::io::Result<()> {
    let (n, dim) = (vectors.len(), vectors.first().map_or(0, Vec::len));
    let numbers = vectors.iter().flatten().flat_map(|number| number.to_le_bytes());
    write_npy(out, "<f4", &[n, dim], numbers)?;
    if let Some(tokens) = images.tokens() {
        let (_, n_tokens, token_dim) = images.shape();
        let numbers = tokens.iter().flat_map(|&number| f16::from_f32(number).to_le_bytes());
        write_npy(&out.with_extension("tokens.npy"), "<f2", &[n, n_tokens, token_dim], numbers)?;
    }
    std::fs::write(out.with_extension("ids.txt"), images.ids().join("\n"))
}

/// NumPy's format, version 1: the header ends at a multiple of 64 bytes.
fn write_npy(path: &Path, kind: &str, shape: &[usize], numbers: impl Iterator<Item = u8>) -> std::io::Result<()> {
    let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({}), }}", shape.join(", "));
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    // Beside it first: what was there may be an input under another name.
    let partial = path.with_extension("partial");
    let mut file = BufWriter::new(File::create(&partial)?);
    file.write_all(b"\x93NUMPY\x01\x00")?;
    file.write_all(&(header.len() as u16).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for byte in numbers {
        file.write_all(&[byte])?;
    }
    file.flush()?;
    drop(file);
    std::fs::rename(&partial, path)
}
