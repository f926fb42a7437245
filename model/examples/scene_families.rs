//! Families of scenes that differ only in binding, count or position, as a folder for `firn ingest`:
//!
//!     cargo run --release -p firn-model --example scene_families -- OUT N_SEEN N_UNSEEN [LANGUAGES]
//!
//! Pictures with a sidecar each that says its family, what it differs by, whether training may see it, and two captions in each
//! language. LANGUAGES, such as en,de,zh, are all ten if they are not said.

use std::{error::Error, fs, path::PathBuf};

use firn_model::scenes::{Exchanged, LANGUAGES, Scene, family};
use serde_json::json;

const SIDE_PX: u32 = 72;
const SEED: u64 = 0xfa01;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (out, n_seen, n_unseen, languages) = match &arguments[..] {
        [out, n_seen, n_unseen] => (out, n_seen, n_unseen, LANGUAGES.to_vec()),
        [out, n_seen, n_unseen, languages] => (out, n_seen, n_unseen, languages.split(',').collect()),
        _ => return Err("expected OUT N_SEEN N_UNSEEN [LANGUAGES]".into()),
    };
    let out = PathBuf::from(out);
    fs::create_dir_all(&out)?;
    for (split, is_unseen, n) in [("train", false, n_seen.parse::<u64>()?), ("val", true, n_unseen.parse()?)] {
        for index in 0..n {
            for (member, scene) in family(SEED, index, is_unseen).iter().enumerate() {
                write(scene, &format!("{split}-{index:05}"), member, split, (&out, &languages))?;
            }
        }
    }
    Ok(())
}

fn write(
    scene: &Scene,
    family: &str,
    member: usize,
    split: &str,
    (out, languages): (&PathBuf, &[&str]),
) -> Result<(), Box<dyn Error>> {
    let Exchanged { binding, count, position } = Exchanged::of(member);
    let texts: Vec<_> = languages
        .iter()
        .flat_map(|language| {
            [0, 1].map(|variant| json!({ "text": scene.relation(language, variant), "language": language }))
        })
        .collect();
    let id = format!("{family}-{member}");
    let about = json!({
        "id": id, "texts": texts, "split": split, "family": family,
        "binding": binding, "count": count, "position": position,
    });
    fs::write(out.join(&id).with_extension("json"), serde_json::to_vec(&about)?)?;
    scene.draw(SIDE_PX).save(out.join(&id).with_extension("png"))?;
    Ok(())
}
