//! Where texts and frozen images meet, whatever folder brings them there: what `align` learnt, a ridge, or a stack of both.

use std::path::Path;

use super::{
    Aligned, FoundRow, FrozenImages,
    captions::{self, Caption},
    evaluate, ridge,
};
use crate::{Device, Embedding, Encoder, Error, Keep, Result, encoder, join, kind::Kind};

const TEXTS_AT_ONCE: usize = 256;

/// Frozen images in the space of the texts of a folder, row by row. `Error::BadData` if they are not of the shape that was trained on.
pub fn project(folder: &Path, images: &FrozenImages, device: Device) -> Result<Vec<Embedding>> {
    match Kind::of(folder) {
        Kind::Join => stacked(folder, images, device),
        Kind::Aligned => Aligned::read(folder, device)?.project(images),
        Kind::Ridge => ridge::Ridge::read(folder)?.project(images),
        _ if folder.is_dir() => {
            let detail =
                "expected what `firn train align` or `firn train ridge` wrote: no other model takes frozen images";
            Err(Error::BadFile { file: folder.to_owned(), detail: detail.to_owned() })
        }
        _ => Err(Error::UnknownModel { name: folder.display().to_string() }),
    }
}

/// Share of groups that was held out where no split is given: the least of all parts, so that none has learnt from what is measured.
fn held_out(folder: &Path, device: Device) -> Result<f64> {
    if let Some(join::TextKind::Stack(stack)) =
        join::is_in(folder).then(|| join::Table::read(folder)).transpose()?.and_then(|table| table.text)
    {
        let of = |name: &String| held_out(&join::place(name, folder)?, device);
        return stack.models.iter().map(of).try_fold(1.0, |least: f64, share| Ok(least.min(share?)));
    }
    match Kind::of(folder) {
        Kind::Aligned => Ok(Aligned::read(folder, device)?.plan().held_out),
        _ => Ok(ridge::Ridge::read(folder)?.plan().held_out),
    }
}

/// Of a caption without a word there is none.
fn embedded(texts: &dyn Encoder, captions: &[&Caption]) -> Result<Vec<Option<Embedding>>> {
    let embed = |of: &[&str]| -> Result<Vec<Embedding>> {
        Ok(texts.embed_texts(of, Keep::Nothing)?.into_iter().map(|text| text.embedding).collect())
    };
    match embed(&captions.iter().map(|caption| caption.text.as_str()).collect::<Vec<_>>()) {
        Err(Error::EmptyText) if captions.len() == 1 => Ok(vec![None]),
        Err(Error::EmptyText) => captions
            .iter()
            .map(|caption| embedded(texts, &[*caption]).map(|one| one.into_iter().next().flatten()))
            .collect(),
        found => Ok(found?.into_iter().map(Some).collect()),
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

/// Captions that are held out beside their images, language by language, by the model of a folder: those of a split other than train, or the
/// groups that the training held out where no split is given.
pub fn measure_texts(folder: &Path, images: &FrozenImages, captions: &Path, device: Device) -> Result<Vec<FoundRow>> {
    let name = folder.display().to_string();
    let texts = encoder::load(&name, device)?;
    let all = captions::read_whole_groups(captions)?;
    let projected = project(folder, images, device)?;
    let share = held_out(folder, device)?;
    let (mut gallery, mut asked): (Vec<Embedding>, Vec<(usize, &Caption)>) = (Vec::new(), Vec::new());
    for (at, id) in images.ids().iter().enumerate() {
        let Some(described) = all.get(id) else { continue };
        if described.belonging.is_held_out(id, share) {
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
            let captions: Vec<&Caption> = piece.iter().map(|(_, caption)| *caption).collect();
            for ((owner, _), embedding) in piece.iter().zip(embedded(texts.as_ref(), &captions)?) {
                let Some(embedding) = embedding else { continue };
                embeddings.push(embedding);
                owners.push(*owner);
            }
        }
        if owners.is_empty() {
            continue;
        }
        let name = if language.is_empty() { "all" } else { language };
        rows.push(evaluate::both_ways(&gallery, &embeddings, &owners, name));
    }
    Ok(rows)
}
