//! Who asks, as the network that re-ranks reads it: a text, or an image.

use firn_index::{CollectionConfig, Fields, PointId, Reader, Side};
use firn_model::fusion::{Direction, Items};

use super::{
    Content, Error, Named,
    encode::{Embeds, by_image, by_text, says_nothing},
    maker::{fitting, maker},
    rerank::Ranker,
    using::Using,
};
use crate::reranker::Reranker;

/// The one that asks, or why it cannot be read.
pub type Asker = Result<Items, String>;

/// Each model sees it once: what is embedded here is there for the search too.
pub fn asker(
    embeds: &mut Embeds,
    reader: &Reader,
    content: &Content,
    (using, ranker): (&Using, &Ranker),
) -> Result<Asker, Error> {
    let Ranker { reranker, reads, .. } = ranker;
    let asker = match (ranker.direction, content) {
        (Direction::TextToImage, Content::Text(text)) => by_pass(embeds, reranker, Raw::Text(&text.text)),
        (Direction::ImageToText, Content::Image(bytes)) => by_pass(embeds, reranker, Raw::Image(bytes)),
        (Direction::ImageToText, Content::Id(id)) => stored(reader, id, using, reranker),
        (Direction::ImageToText, Content::Vectors(named)) => {
            let config = embeds.collection.config();
            alike(config, named, [&reads.image, &reranker.version.reads.image])
                .and_then(|()| given(config, reranker, Side::Image, named))
        }
        _ => Err(Error::not_reranked("nobody asks whom it reads")),
    };
    match asker {
        Ok(asker) => Ok(Ok(asker)),
        Err(Error::NotReranked { reason }) => Ok(Err(reason)),
        Err(error @ Error::Lacking { .. }) => Ok(Err(error.to_string())),
        Err(error) if says_nothing(&error) => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

enum Raw<'a> {
    Text(&'a str),
    Image(&'a [u8]),
}

fn by_pass(embeds: &mut Embeds, reranker: &Reranker, raw: Raw) -> Result<Items, Error> {
    let side = match raw {
        Raw::Text(_) => Side::Text,
        Raw::Image(_) => Side::Image,
    };
    let reads = reranker.reads(side, &reranker.version.reads.image);
    let mut named = Named::default();
    for name in std::iter::once(&reads.image).chain(&reads.extra) {
        let (_, keep) = maker(embeds.engine, embeds.collection, reranker, side, name)?;
        let embedded = embeds.once(name, |encoder| match raw {
            Raw::Text(text) => by_text(encoder, text, keep),
            Raw::Image(bytes) => by_image(encoder, bytes, keep),
        })?;
        named.vectors.insert(name.clone(), embedded.vector);
        if let Some(tokens) = embedded.tokens.filter(|_| *name == reads.image) {
            named.tokens.insert(name.clone(), tokens);
        }
    }
    let mut items = Items::default();
    reads.add_named(&named.vectors, &mut named.tokens, &mut items).map_err(|what| Error::Lacking { what })?;
    Ok(items)
}

/// The image of a point. A point that has a vector of its own of those that are searched asks with its texts.
fn stored(reader: &Reader, id: &PointId, using: &Using, reranker: &Reranker) -> Result<Items, Error> {
    let reads = &reranker.version.reads;
    let fields = Fields { vectors: true, tokens: reads.tokens, ..Fields::default() };
    let point = reader.get(std::slice::from_ref(id), fields)?.pop();
    let mut point = point.ok_or_else(|| firn_index::Error::PointNotFound { id: id.clone() })?;
    if let Some((own, _)) = using.weights.iter().find(|(name, _)| point.vectors.contains_key(name)) {
        return Err(Error::not_reranked(format!("point {id} asks with its own vector {own:?}, which is of texts")));
    }
    let mut items = Items::default();
    reads.add(&mut point, &mut items).map_err(|what| Error::Lacking { what: format!("{what} of point {id}") })?;
    Ok(items)
}

/// What is searched has to be the image's own vector: else a text may ask.
fn alike(config: &CollectionConfig, named: &Named, names: [&String; 2]) -> Result<(), Error> {
    const LEAST: f32 = 0.9999;
    let [Some(searched), Some(image)] = names.map(|name| named.vectors.get(name)) else {
        return Err(Error::Lacking { what: format!("a vector {:?}", names[1]) });
    };
    let (searched, image) = (config.to_unit(names[0], searched)?, config.to_unit(names[1], image)?);
    let cosine: f32 = searched.iter().zip(&image).map(|(x, y)| x * y).sum();
    if cosine < LEAST {
        return Err(Error::not_reranked(format!("the vectors {:?} and {:?} are not of one image", names[0], names[1])));
    }
    Ok(())
}

/// An image, or a text, by its vectors and tokens. Those of a text are named as what they are compared with.
pub fn given(config: &CollectionConfig, reranker: &Reranker, side: Side, named: &Named) -> Result<Items, Error> {
    let reads = reranker.reads(side, &reranker.version.reads.image);
    let mut units = Named::default();
    for name in std::iter::once(&reads.image).chain(&reads.extra) {
        if let Some(vector) = named.vectors.get(name) {
            units.vectors.insert(name.clone(), config.to_unit(name, vector)?);
        }
    }
    if let Some(tokens) = named.tokens.get(&reads.image).filter(|_| reads.tokens) {
        units.tokens.insert(reads.image.clone(), fitting(reranker, side, tokens)?);
    }
    let mut items = Items::default();
    reads.add_named(&units.vectors, &mut units.tokens, &mut items).map_err(|what| Error::Lacking { what })?;
    Ok(items)
}
