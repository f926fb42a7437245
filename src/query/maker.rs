//! Which encoder makes what a network reads, and whether tokens are what it reads.

use std::sync::Arc;

use firn_index::{Collection, Side, TokenConfig, Tokens};
use firn_ingest::makers::vectors_of;
use firn_model::{Encoder, Grid, Keep, TokenShape};

use super::Error;
use crate::{engine::Engine, reranker::Reranker};

/// What makes that vector of an image, or of a text that is compared with it, and what is to be kept beside it.
/// `Error::NotReranked` says what no model makes.
pub fn maker(
    engine: &Engine,
    collection: &Collection,
    reranker: &Reranker,
    side: Side,
    name: &str,
) -> Result<(Arc<dyn Encoder>, Keep), Error> {
    let config = collection.config();
    // Points may bring what no model makes.
    let is_made = side == Side::Text || vectors_of(config, Side::Image).contains(&name);
    let dim = config.vectors.get(name).map(|vector| vector.dim);
    let encoder = engine.encoder_for(config, name).map_err(|error| Error::not_reranked(error.to_string()))?;
    let encoder = encoder.filter(|encoder| is_made && Some(encoder.info().dim) == dim);
    let Some(encoder) = encoder else {
        return Err(Error::not_reranked(format!("no model makes the vector {name:?} of {}", in_words(side))));
    };
    let keep =
        if name == reranker.version.reads.image { keep(reranker, side, encoder.as_ref())? } else { Keep::Nothing };
    Ok((encoder, keep))
}

fn keep(reranker: &Reranker, side: Side, encoder: &dyn Encoder) -> Result<Keep, Error> {
    let [n, dim] = reranker.shape(side).tokens;
    let info = encoder.info();
    let makes = |grid: &Grid| match side {
        Side::Image => info.token_shapes(*grid).image == Some(TokenShape { n, dim }),
        Side::Text => info.text_tokens == Some(TokenShape { n, dim }),
    };
    match Grid::ALL.into_iter().find(makes) {
        _ if n == 0 => Ok(Keep::Nothing),
        Some(grid) => Ok(Keep::Tokens(grid)),
        None => {
            let (of, model) = (in_words(side), &info.name);
            Err(Error::not_reranked(format!("it reads {n} x {dim} tokens of {of}, which {model:?} does not make")))
        }
    }
}

/// Tokens as the network reads them: `WrongTokens` if their shape is another.
pub fn fitting(reranker: &Reranker, side: Side, tokens: &Tokens) -> Result<Tokens, firn_index::Error> {
    let [n, dim] = reranker.shape(side).tokens;
    if [tokens.n, tokens.dim, tokens.values.len()] == [n, dim, n * dim] {
        return Ok(tokens.clone());
    }
    let received = format!("{} x {}", tokens.n, tokens.dim);
    let of = reranker.version.reads.image.clone();
    Err(firn_index::Error::WrongTokens { tokens: of, expected: TokenConfig { n, dim }, received })
}

fn in_words(side: Side) -> &'static str {
    match side {
        Side::Image => "an image",
        Side::Text => "a text",
    }
}
