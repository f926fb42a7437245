//! `firn query`: asks a collection, in the local data directory or at a server.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use firn_index::{Fields, PointId, Text};

use super::{local, remote, table};
use crate::{
    exit::{Exit, Usage},
    query::{self, Answer, Content, FullText, Limits, Merge, OnFailure, Request, Rerank, Which},
    settings::{self, Settings},
};

/// Find the points nearest to a text, an image, a point or a vector, or whose texts hold words
///
/// Example: firn query photos --text "a red kite over a beach" --limit 5
#[derive(Debug, clap::Args)]
pub struct QueryArgs {
    /// The collection, or an alias
    collection: String,
    #[command(flatten)]
    content: ContentArgs,
    /// Language of --text, such as `de`; kept with the question, never guessed
    #[arg(long, requires = "text", value_name = "TAG")]
    language: Option<String>,
    /// The named vector to search [default: the only one, else image, else text]
    #[arg(long, value_name = "NAME")]
    using: Option<String>,
    /// Named vectors to search together and how much each counts, such as image=1,mirror=0.7 [default: the collection's]
    #[arg(long, value_name = "NAME=WEIGHT,...", value_delimiter = ',', value_parser = super::blend::weight)]
    blend: Vec<(String, f32)>,
    /// Look for words in the texts of points too: these, or those of --text
    #[arg(long, value_name = "WORDS", num_args = 0..=1, default_missing_value = "")]
    words: Option<String>,
    /// How much the words count beside the vectors, above 0, to 1: then only words are looked for
    #[arg(long, value_name = "SHARE", default_value_t = Limits::DEFAULT_WORDS_WEIGHT, requires = "words")]
    words_weight: f32,
    /// How words and vectors are merged: by their ranks, or by their scores
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Merge::default(), requires = "words")]
    words_merge: Merge,
    /// Hits wanted, 1 to 1000
    #[arg(long, default_value_t = 10)]
    limit: usize,
    /// Hits to skip
    #[arg(long, default_value_t = 0)]
    offset: usize,
    /// Candidates retrieved before the best are taken [default: offset + limit; with --words at least 100 of each]
    #[arg(long)]
    candidates: Option<usize>,
    /// Compare with every vector: slow, and right by definition
    #[arg(long)]
    exact: bool,
    /// Candidates the graph search looks at [default: the collection's]
    #[arg(long)]
    ef: Option<usize>,
    /// Leave out hits below this score, which is the cosine, or what a network or words made of it
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    score_threshold: Option<f32>,
    /// The network that re-ranks: active, none, or a version [default: active]
    #[arg(long, value_name = "WHICH", value_parser = which)]
    rerank: Option<Which>,
    /// Candidates that it looks at, 1 to 1000 [default: as many as it was judged with]
    #[arg(long, value_name = "N")]
    rerank_candidates: Option<usize>,
    /// Fail if the answer cannot be re-ranked, instead of answering by cosine
    #[arg(long)]
    rerank_or_fail: bool,
    /// Leave out hits that the network thinks less likely to belong, 0 to 1
    #[arg(long, value_name = "SHARE")]
    min_relevance: Option<f32>,
    /// Show the texts of the hits too
    #[arg(long)]
    with_texts: bool,
    /// Give the vectors of the hits too (JSON only)
    #[arg(long)]
    with_vectors: bool,
    /// Give the tokens of the hits too (JSON only)
    #[arg(long)]
    with_tokens: bool,
    /// Ask this server instead of the local data directory
    #[arg(long, env = "FIRN_SERVER", value_name = "URL")]
    server: Option<String>,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct ContentArgs {
    /// A text in any language
    #[arg(long)]
    text: Option<String>,
    /// A picture file
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// A stored point; digits are a number, and text:7 is the text "7"
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// A file with one vector: a JSON list, .npy, or one number a line
    #[arg(long, value_name = "FILE")]
    vector: Option<PathBuf>,
    /// A JSON file with a vector for each name that is searched
    #[arg(long, value_name = "FILE")]
    vectors: Option<PathBuf>,
}

pub fn run(args: &QueryArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let request = request(args)?;
    request.check()?;
    let answer = match settings.server(args.server.as_deref(), &settings::OF_HERE_AND_MODEL)? {
        Some(server) => remote::query(&server, &request)?,
        None => query::run(&local::existing_engine(settings)?, &request)?,
    };
    if settings.json {
        println!("{}", serde_json::to_string(&answer)?);
    } else {
        print(&answer);
    }
    Ok(Exit::Ok)
}

fn request(args: &QueryArgs) -> anyhow::Result<Request> {
    Ok(Request {
        collection: args.collection.clone(),
        content: content(args)?,
        using: args.using.clone(),
        blend: (!args.blend.is_empty()).then(|| super::blend::weights(&args.blend)).transpose()?,
        full_text: args.words.as_ref().map(|words| FullText {
            text: (!words.is_empty()).then(|| words.clone()),
            weight: args.words_weight,
            merge: args.words_merge,
        }),
        limit: Some(args.limit),
        offset: args.offset,
        candidates: args.candidates,
        ef: args.ef,
        exact: args.exact,
        fields: Fields { payload: true, texts: args.with_texts, vectors: args.with_vectors, tokens: args.with_tokens },
        score_threshold: args.score_threshold,
        rerank: Rerank {
            which: args.rerank.unwrap_or_default(),
            candidates: args.rerank_candidates,
            on_failure: if args.rerank_or_fail { OnFailure::Error } else { OnFailure::Skip },
            min_relevance: args.min_relevance,
        },
        deadline: None,
        max_bytes: usize::MAX,
    })
}

fn which(text: &str) -> Result<Which, String> {
    match (text, text.parse()) {
        ("active", _) => Ok(Which::Active),
        ("none", _) => Ok(Which::None),
        (_, Ok(version)) => Ok(Which::Version(version)),
        _ => Err("expected active, none or the number of a version".to_owned()),
    }
}

fn content(args: &QueryArgs) -> anyhow::Result<Content> {
    let given = &args.content;
    if let Some(text) = &given.text {
        let language = args.language.clone().unwrap_or_default();
        return Ok(Content::Text(Text { text: text.clone(), language }));
    }
    if let Some(path) = &given.image {
        return Ok(Content::Image(read(path)?));
    }
    if let Some(id) = &given.id {
        return Ok(Content::Id(point_id(id)));
    }
    if let Some(path) = &given.vectors {
        let vectors = serde_json::from_slice::<BTreeMap<String, Vec<f32>>>(&read(path)?);
        let vectors = vectors.map_err(|error| Usage(format!("{}: {error}", path.display())))?;
        return Ok(Content::Vectors(vectors.into()));
    }
    let path = given.vector.as_ref().expect("clap asks for one of the five");
    let vector = super::vector_file::parse(&read(path)?);
    Ok(Content::Vector(vector.map_err(|error| Usage(format!("{}: {error:#}", path.display())))?))
}

/// An id at the terminal: digits are a number, anything else, or digits after `text:`, a string.
pub fn point_id(id: &str) -> PointId {
    match (id.strip_prefix("text:"), id.parse()) {
        (Some(text), _) => PointId::Text(text.to_owned()),
        (None, Ok(num)) => PointId::Num(num),
        (None, Err(_)) => PointId::Text(id.to_owned()),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    Ok(std::fs::read(path).map_err(|error| Usage(format!("{}: {error}", path.display())))?)
}

fn print(answer: &Answer) {
    let row = |(rank, hit): (usize, &query::Hit)| {
        let mut about = table::payload_line(&hit.payload);
        for text in &hit.texts {
            let language = if text.language.is_empty() { String::new() } else { format!("[{}] ", text.language) };
            about.push_str(&format!("  {language}{}", table::shorten(&text.text, 120)));
        }
        let cosines = hit.cosines.iter().map(|(name, cosine)| format!("{name} {cosine:.4}")).collect::<Vec<_>>();
        let words = hit.bm25.map(|bm25| format!("cosine {:.4}, words {bm25:.2}", hit.cosine));
        let parts: Vec<String> = cosines.into_iter().chain(words).collect();
        let score = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
        if let Some(relevance) = hit.relevance {
            about = format!("{:.0} % relevant  {about}", 100.0 * relevance);
        }
        vec![(rank + 1).to_string(), format!("{:.4}{score}", hit.score), hit.id.to_string(), about]
    };
    let rows: Vec<_> = answer.hits.iter().enumerate().map(row).collect();
    table::print(&["#", "score", "id", "payload"], &rows);
    if let Some(cut) = answer.truncation {
        eprintln!("note: the text was cut: {} tokens read, {} left out", cut.tokens_used, cut.tokens_cut);
    }
    match (answer.reranker, &answer.rerank_skipped) {
        (Some(version), _) => eprintln!("re-ranked by version {version}"),
        (None, Some(reason)) => eprintln!("note: not re-ranked: {}", table::printable(reason)),
        _ => {}
    }
    eprintln!("{}", table::timings_line(answer));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_at_the_terminal() {
        let cases = [("7", PointId::Num(7)), ("text:7", "7".into()), ("a-7", "a-7".into()), ("-7", "-7".into())];
        for (input, expected) in cases {
            assert_eq!(point_id(input), expected);
        }
    }
}
