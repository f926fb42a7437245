//! What a call of Rerank says, as plain types and back.

use firn_model::fusion::Direction;
use firn_proto::v1::{
    self, RerankDirection, RerankItem, RerankRequest, RerankResponse, RerankScore, RerankTruncation, rerank_item::Kind,
};

use super::{convert, limits, status::Problem};
use crate::query::{Given, Item, Scored};

type Result<T> = std::result::Result<T, Problem>;

pub fn given_in(request: RerankRequest) -> Result<Given> {
    let RerankRequest { collection_name, query, candidates, direction, version } = request;
    convert::collection_name(&collection_name)?;
    convert::within("candidates", candidates.len(), 1, limits::MAX_RERANK_CANDIDATES)?;
    let is_raw = |item: &&RerankItem| matches!(item.kind, Some(Kind::Text(_) | Kind::Image(_)));
    let n_raw = candidates.iter().filter(is_raw).count();
    if n_raw > limits::MAX_EMBED_INPUTS {
        let message = format!("expected at most {} texts and images, received {n_raw}", limits::MAX_EMBED_INPUTS);
        return Err(Problem::invalid("candidates", "OUT_OF_RANGE", message));
    }
    let asker = item_in(query.unwrap_or_default(), "query")?;
    let direction = direction_in(direction, &asker)?;
    check_side(direction, true, &asker, "query")?;
    let candidate = |(at, candidate)| {
        let field = format!("candidates[{at}]");
        let candidate = item_in(candidate, &field)?;
        check_side(direction, false, &candidate, &field)?;
        Ok(candidate)
    };
    let candidates = candidates.into_iter().enumerate().map(candidate).collect::<Result<_>>()?;
    Ok(Given { collection: collection_name, direction, asker, candidates, version })
}

fn item_in(item: RerankItem, field: &str) -> Result<Item> {
    let of = |kind: &str| format!("{field}.{kind}");
    Ok(match item.kind {
        None => return Err(convert::missing(field, "a text, an image, an id or vectors")),
        Some(Kind::Text(text)) => {
            convert::check_text(&text, &of("text"))?;
            Item::Text(text)
        }
        Some(Kind::Image(bytes)) if bytes.is_empty() => {
            return Err(convert::missing(&of("image"), "an encoded picture"));
        }
        Some(Kind::Image(bytes)) => Item::Image(bytes.into()),
        Some(Kind::Id(id)) => Item::Id(convert::id_in(Some(id), &of("id"))?),
        Some(Kind::Vectors(vectors)) => Item::Vectors(convert::named_in(vectors, &of("vectors"))?),
    })
}

/// As it is said, else as a text or an image that asks says it.
fn direction_in(direction: i32, asker: &Item) -> Result<Direction> {
    match (RerankDirection::try_from(direction), asker) {
        (Ok(RerankDirection::TextToImage), _) => Ok(Direction::TextToImage),
        (Ok(RerankDirection::ImageToText), _) => Ok(Direction::ImageToText),
        (Ok(RerankDirection::Unspecified), Item::Text(_)) => Ok(Direction::TextToImage),
        (Ok(RerankDirection::Unspecified), Item::Image(_)) => Ok(Direction::ImageToText),
        (Ok(RerankDirection::Unspecified), Item::Id(_) | Item::Vectors(_)) => {
            Err(convert::missing("direction", "whether an image or a text asks, which an id or vectors do not say"))
        }
        (Err(_), _) => {
            Err(Problem::invalid("direction", "OUT_OF_RANGE", format!("expected 0 to 2, received {direction}")))
        }
    }
}

fn check_side(direction: Direction, asks: bool, item: &Item, field: &str) -> Result<()> {
    let is_text = asks == (direction == Direction::TextToImage);
    match item {
        Item::Text(_) if !is_text => {
            Err(Problem::invalid(format!("{field}.text"), "WRONG_SIDE", "expected an image, received a text"))
        }
        Item::Image(_) if is_text => {
            Err(Problem::invalid(format!("{field}.image"), "WRONG_SIDE", "expected a text, received an image"))
        }
        _ => Ok(()),
    }
}

pub fn scored_out(scored: Scored) -> RerankResponse {
    let score = |score: crate::query::Score| RerankScore {
        index: score.index as u32,
        score: score.score,
        cosine: score.cosine,
        logit: score.logit,
        hubness: score.hubness,
        relevance: score.relevance,
    };
    let truncation = |(candidate, cut): (Option<usize>, crate::query::Truncation)| RerankTruncation {
        candidate: candidate.map(|at| at as u32),
        tokens_used: cut.tokens_used as u32,
        tokens_cut: cut.tokens_cut as u32,
    };
    let timings: v1::Timings = convert::timings_out(scored.timings);
    RerankResponse {
        scores: scored.scores.into_iter().map(score).collect(),
        reranker: scored.version,
        truncations: scored.truncations.into_iter().map(truncation).collect(),
        timings: Some(timings),
    }
}
