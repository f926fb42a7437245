//! Pictures that hardly differ: what a cosine cannot tell, and what the builtin fusion network makes of it.

use std::{fs, path::Path};

use anyhow::Context as _;
use firn_index::PointId;
use firn_model::{
    Grid,
    scenes::{FAMILY_SIZE, Scene, family},
};

use super::{ask_of, by_text, print};
use crate::{
    cmd::{ingest, local},
    engine::Engine,
    query::{Answer, Rerank, Which},
    reranker::{BUILTIN, Package},
    settings::Settings,
};

const COLLECTION: &str = "families";
const N_FAMILIES: u64 = 25;
/// None of training, nor of what the network was judged on.
const SEED: u64 = 0xde30;
const SIDE_PX: u32 = 72;

/// Draws families of scenes, none of whose combinations any network has learnt from, ingests them, and asks for each by its sentence.
pub fn show(dir: &Path, settings: &Settings) -> anyhow::Result<()> {
    let scenes: Vec<Scene> = (0..N_FAMILIES).flat_map(|index| family(SEED, index, true)).collect();
    let folder = dir.join("families");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    for (at, scene) in scenes.iter().enumerate() {
        write(at, scene, &folder).with_context(|| folder.display().to_string())?;
    }
    ingest::folder(&folder, COLLECTION, Some(Grid::Four), settings)?;
    let engine = local::existing_engine(settings)?;
    let collection = engine.db().collection(COLLECTION)?;
    if engine.rerankers().state(&collection)?.active.is_none() {
        let version = Package::builtin().add(&engine, &collection, Path::new(BUILTIN))?;
        // What it counts was chosen on other families, so that what is shown here was not.
        engine.rerankers().change(&collection, |state| state.activate(&collection, version.number, true))?;
    }
    ask(&engine, &scenes)?;
    engine.db().close()?;
    Ok(())
}

fn id(at: usize) -> String {
    format!("family-{:02}-{}", at / FAMILY_SIZE, at % FAMILY_SIZE)
}

fn sentence(scene: &Scene) -> String {
    scene.relation("en", 0)
}

fn write(at: usize, scene: &Scene, folder: &Path) -> anyhow::Result<()> {
    let texts = [serde_json::json!({ "text": sentence(scene), "language": "en" })];
    // No network learnt from any of them.
    let (family, split) = (at / FAMILY_SIZE, "unseen");
    let sidecar =
        serde_json::json!({ "id": id(at), "texts": texts, "shows": sentence(scene), "family": family, "split": split });
    fs::write(folder.join(id(at)).with_extension("json"), serde_json::to_vec(&sidecar)?)?;
    scene.draw(SIDE_PX).save(folder.join(id(at)).with_extension("png"))?;
    Ok(())
}

fn ask(engine: &Engine, scenes: &[Scene]) -> anyhow::Result<()> {
    let (mut found, mut shown) = ([0; 2], None);
    for (at, scene) in scenes.iter().enumerate() {
        let ask = |which: Which| {
            let rerank = Rerank { which, ..Rerank::default() };
            ask_of(engine, (COLLECTION, FAMILY_SIZE), by_text(sentence(scene), "en"), rerank)
        };
        let answers = [ask(Which::None)?, ask(Which::Active)?];
        let is_first = |answer: &Answer| answer.hits.first().is_some_and(|hit| hit.id == PointId::Text(id(at)));
        let firsts = answers.each_ref().map(is_first);
        found.iter_mut().zip(firsts).for_each(|(found, is_first)| *found += usize::from(is_first));
        if firsts == [false, true] && shown.is_none() {
            shown = Some((at, answers));
        }
    }
    println!(
        "Pictures that hardly differ: {N_FAMILIES} families of {FAMILY_SIZE} scenes, in which only colours, a count and places are exchanged.\n"
    );
    if let Some((at, answers)) = shown {
        for (way, answer) in ["by cosine", "re-ranked by the builtin fusion network"].into_iter().zip(&answers) {
            print(&format!("\"{}\" {way}", sentence(&scenes[at])), answer, Some(&id(at)));
        }
    }
    let [by_cosine, reranked] = found;
    println!(
        "Of {} sentences, {by_cosine} find their picture first by cosine, {reranked} re-ranked; one in {FAMILY_SIZE} would by chance.\n",
        scenes.len()
    );
    Ok(())
}
