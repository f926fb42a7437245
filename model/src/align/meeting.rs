//! Where texts and frozen images meet, whatever folder brings them there: what `align` learnt, a ridge, or a stack of both.

use std::path::Path;

use super::{
    Aligned, FoundRow, FrozenImages,
    captions::{self, Caption},
    evaluate, ridge,
};
use crate::{Device, Embedding, Error, Keep, Result, encoder, join};

/// Share of groups that are held out, where no split is given.
const HELD_OUT: f64 = 0.02;
const TEXTS_AT_ONCE: usize = 256;

/// Frozen images in the space of the texts of a folder, row by row. `Error::BadData` if they are not of the shape that was trained on.
pub fn project(folder: &Path, images: &FrozenImages, device: Device) -> Result<Vec<Embedding>> {
    if join::is_in(folder) {
        return stacked(folder, images, device);
    }
    match ridge::is_in(folder) {
        true => ridge::Ridge::read(folder)?.project(images),
        false => Aligned::read(folder, device)?.project(images),
    }
}

fn stacked(folder: &Path, images: &FrozenImages, device: Device) -> Result<Vec<Embedding>> {
    let Some(join::TextKind::Stack(stack)) = join::Table::read(folder)?.text else {
        let detail = "expected a stack of texts that were trained against frozen images".to_owned();
        return Err(Error::BadFile { file: folder.join(join::FILE), detail });
    };
    let mut all = vec![Vec::new(); images.ids().len()];
    for (name, scale) in stack.models.iter().zip(stack.scales()) {
        let part = project(&join::place(name, folder)?, images, device)?;
        all.iter_mut().zip(part).for_each(|(row, part)| row.extend(part.iter().map(|x| x * scale)));
    }
    Ok(all)
}

/// Captions that are held out beside their images, language by language, by the model of a folder: those of a split other than train, or a
/// fiftieth of the groups where no split is given.
pub fn measure_texts(folder: &Path, images: &FrozenImages, captions: &Path, device: Device) -> Result<Vec<FoundRow>> {
    let name = folder.display().to_string();
    let texts = encoder::load(&name, device)?;
    let all = captions::read(captions)?;
    let projected = project(folder, images, device)?;
    let (mut gallery, mut asked): (Vec<Embedding>, Vec<(usize, &Caption)>) = (Vec::new(), Vec::new());
    for (at, id) in images.ids().iter().enumerate() {
        let Some(described) = all.get(id) else { continue };
        if described.belonging.is_held_out(id, HELD_OUT) {
            asked.extend(described.captions.iter().map(|caption| (gallery.len(), caption)));
            gallery.push(projected[at].clone());
        }
    }
    let mut languages: Vec<&str> = asked.iter().map(|(_, caption)| caption.language.as_str()).collect();
    languages.sort_unstable();
    languages.dedup();
    let mut rows = Vec::new();
    for language in languages {
        let own: Vec<_> = asked.iter().filter(|(_, caption)| caption.language == language).collect();
        let (mut owners, mut embeddings) = (Vec::new(), Vec::new());
        for piece in own.chunks(TEXTS_AT_ONCE) {
            let of = piece.iter().map(|(_, caption)| caption.text.as_str()).collect::<Vec<_>>();
            embeddings.extend(texts.embed_texts(&of, Keep::Nothing)?.into_iter().map(|text| text.embedding));
            owners.extend(piece.iter().map(|(owner, _)| *owner));
        }
        let name = if language.is_empty() { "all" } else { language };
        rows.push(evaluate::both_ways(&gallery, &embeddings, &owners, name));
    }
    Ok(rows)
}
