//! A data set into a database of its own, which is kept: what was embedded once is there in the next run.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::Context as _;
use firn_eval::{
    dataset::Dataset,
    readers::{self, Options},
    results::Made,
};
use firn_index::{Collection, CollectionConfig, Database, HnswConfig, PointId, VectorConfig};
use firn_ingest::{
    embed::TEXT_VECTOR,
    identity::IdFrom,
    journal::Journal,
    pipeline::{self, Job},
    report::Watch,
    sink::CollectionSink,
    source::{Item, Source, SourceOptions},
};
use firn_model::Grid;

use super::{RunArgs, reuse::Cache};
use crate::{
    cmd::{
        ingest::{self, progress::Bar, signals},
        local,
    },
    engine::{self, Engine, Loading},
    eval::{self, Fill, Items, Lot, Network, Pair, Store, document_items, documents, lots, query_items},
    exit::{GO_ON, Usage},
    query::Blend,
    reranker::Parting,
    settings::Settings,
};

/// A data set that is stored, and the database it is in.
pub struct Filled {
    pub engine: Engine,
    pub data: Dataset,
    pub store: Store,
    /// Embeddings that were made or brought; others were known.
    pub n: usize,
}

/// A published data set, or one's own files.
pub fn of_files(name: &str, args: &RunArgs, network: Option<&Network>, settings: &Settings) -> anyhow::Result<Filled> {
    if let Some(collection) = &args.collection {
        return Err(Usage(format!("--collection {collection}: only `firn eval collection` asks one")).into());
    }
    let path =
        args.data.clone().ok_or_else(|| Usage(format!("{name}: expected --data, where it was downloaded to")))?;
    let mut data = readers::read(
        name,
        &Options {
            data: path.clone(),
            protocol: args.protocol.clone(),
            images: args.images.clone(),
            languages: args.language.clone(),
            joined: args.joined,
            without_pictures: args.document_vectors.is_some(),
        },
    )?;
    if let Some(qrels) = &args.qrels {
        data.judge(qrels)?;
    }
    let vector = documents(&data);
    if let (Some(documents), Some(queries)) = (&args.document_vectors, &args.query_vectors) {
        return of_vectors(data, vector, [documents, queries], args, settings);
    }
    let encoder = firn_model::load(settings.model_or_default(), settings.device)?;
    let info = encoder.info().clone();
    let grid = network.map(|network| grid(network, vector, &info.hash)).transpose()?.flatten();
    let config = |vector: &str| {
        let vectors = BTreeMap::from([(vector.to_owned(), VectorConfig::new(info.dim))]);
        engine::collection_config(&info, vectors, HnswConfig::default(), grid)
    };
    let configs = [config(vector)?, config(TEXT_VECTOR)?];
    let place = place(args, &data, &[&info.hash, &format!("{grid:?}"), &path.canonicalize()?.display().to_string()]);
    let engine = open(&place, vec![encoder], settings)?;
    let cache = Cache::new(engine.db(), &place, format!("{} {grid:?}", info.hash))?;
    let model = engine::model_ref(&info);
    let model = Made { name: info.name.clone(), hash: model.hash };
    let writing = Writing { engine: &engine, folder: &place, settings, model };
    let pairs = vec![Pair { document: vector.to_owned(), query: TEXT_VECTOR.to_owned(), weight: 1.0 }];
    let contents = Contents {
        documents: document_items(&data),
        of_lot: &|places| query_items(&data, places),
        cache: Some(&cache),
    };
    let store = writing.store(&data, configs, contents, pairs)?;
    let n = cache.n_embedded();
    Ok(Filled { engine, data, store, n })
}

/// The grid of tokens that a network reads; `Usage` if it was made for something else than this model's embeddings.
fn grid(network: &Network, vector: &str, model_hash: &str) -> anyhow::Result<Option<Grid>> {
    let version = &network.reranker.version;
    let reads = &version.reads;
    let refuse = |detail: String| Usage(format!("--reranker: {}: {detail}", network.made.name));
    if reads.model.hash != model_hash {
        let (name, hash) = (&reads.model.name, &reads.model.hash);
        return Err(refuse(format!("it was made for the model {name} ({hash}), --model is {model_hash}")).into());
    }
    if vector == TEXT_VECTOR {
        return Err(refuse("it re-ranks pictures, and here texts are looked for".to_owned()).into());
    }
    if reads.image != vector || reads.extra.is_some() || version.blend.keys().any(|name| name != vector) {
        let extra = reads.extra.iter().map(|name| format!(" and {name:?}")).collect::<String>();
        let hint = "`firn eval collection` asks a collection that has them";
        return Err(refuse(format!(
            "it reads {:?}{extra}, candidates by {:?}; hint: {hint}",
            reads.image,
            version.blend.keys().collect::<Vec<_>>()
        ))
        .into());
    }
    match (reads.tokens, network.reranker.shape(firn_index::Side::Image).tokens[0]) {
        (false, _) => Ok(None),
        (true, 16) => Ok(Some(Grid::Four)),
        (true, 49) => Ok(Some(Grid::Seven)),
        (true, n) => Err(refuse(format!("it reads {n} tokens of an image, a model makes 16 or 49")).into()),
    }
}

/// Vectors that are brought; a document or query without one is an error, one that is not in the data set is left out.
fn of_vectors(
    mut data: Dataset,
    vector: &str,
    files: [&Path; 2],
    args: &RunArgs,
    settings: &Settings,
) -> anyhow::Result<Filled> {
    if settings.given.contains(&"model") || args.reranker.is_some() {
        return Err(Usage(
            "--document-vectors: vectors of files are asked as they are, without a model or a network".to_owned(),
        )
        .into());
    }
    let read = |file: &Path, vector: &str| -> anyhow::Result<(usize, HashMap<String, Item>)> {
        let source = Source::open(file, &SourceOptions { vector_name: vector.to_owned(), ..SourceOptions::default() })?;
        let dim =
            source.dims.get(vector).copied().ok_or_else(|| Usage(format!("{}: expected .npy", file.display())))?;
        let mut items = HashMap::new();
        for next in source.items {
            let item =
                next.map_err(|skipped| anyhow::anyhow!("{}: {}: {}", file.display(), skipped.name, skipped.fault))?;
            let id = item.id.as_ref().map(PointId::to_string).unwrap_or_default();
            items.insert(id, item);
        }
        Ok((dim, items))
    };
    let [of_documents, of_queries] = files;
    let (dim, mut documents) = read(of_documents, vector)?;
    let (query_dim, mut queries) = read(of_queries, TEXT_VECTOR)?;
    if dim != query_dim {
        return Err(Usage(format!("expected vectors of one space, received {dim} and {query_dim} numbers")).into());
    }
    let n_brought = documents.len() + queries.len();
    let mut taken = Vec::with_capacity(data.documents.len());
    for document in &data.documents {
        let found = documents.remove(&document.id);
        taken.push(found.ok_or_else(|| lacking(of_documents, "document", &document.id))?);
    }
    let mut asked: Vec<Option<Item>> = Vec::with_capacity(data.queries.len());
    for query in &data.queries {
        let found = queries.remove(&query.id);
        asked.push(Some(found.ok_or_else(|| lacking(of_queries, "query", &query.id))?));
    }
    let n = taken.len() + asked.len();
    if n_brought > n {
        data.notes.push(format!("vectors of what is not in the data set were left out: {}", n_brought - n));
    }
    let mut hasher = blake3::Hasher::new();
    files.iter().try_for_each(|file| hasher.update_mmap(file).map(drop)).context("vectors")?;
    let hash = hasher.finalize().to_hex().to_string();
    let place = place(args, &data, &[&hash]);
    let engine = open(&place, Vec::new(), settings)?;
    let config = |vector: &str| CollectionConfig {
        vectors: BTreeMap::from([(vector.to_owned(), VectorConfig::new(dim))]),
        ..CollectionConfig::default()
    };
    let asked = std::cell::RefCell::new(asked);
    let of_lot = |places: &[usize]| -> Items {
        let mut asked = asked.borrow_mut();
        eval::numbered(places.iter().filter_map(|&place| asked[place].take()).collect())
    };
    let names = files.map(|file| file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default());
    let model = Made { name: format!("vectors of {}", names.join(" and ")), hash };
    let writing = Writing { engine: &engine, folder: &place, settings, model };
    let pairs = vec![Pair { document: vector.to_owned(), query: TEXT_VECTOR.to_owned(), weight: 1.0 }];
    let configs = [config(vector), config(TEXT_VECTOR)];
    let store = writing.store(
        &data,
        configs,
        Contents { documents: eval::numbered(taken), of_lot: &of_lot, cache: None },
        pairs,
    )?;
    Ok(Filled { engine, data, store, n })
}

fn lacking(file: &Path, what: &str, id: &str) -> Usage {
    let hint = "hint: rows are called by the lines of FILE.ids.txt, or by FILE.ids.json";
    Usage(format!("{}: expected a vector of the {what} {id:?}, received none; {hint}", file.display()))
}

/// The points of a collection that no network learns from.
pub fn of_collection(args: &RunArgs, network: Option<&Network>, settings: &Settings) -> anyhow::Result<Filled> {
    let name = args.collection.as_deref().ok_or_else(|| Usage("collection: expected --collection NAME".to_owned()))?;
    for (flag, is_given) in [
        ("--data", args.data.is_some()),
        ("--protocol", args.protocol.is_some()),
        ("--images", args.images.is_some()),
        ("--language", !args.language.is_empty()),
        ("--qrels", args.qrels.is_some()),
        ("--document-vectors", args.document_vectors.is_some()),
    ] {
        Usage::unless(!is_given, || format!("{flag} says nothing to `firn eval collection`"))?;
    }
    let own = local::existing_engine(settings)?;
    let collection = own.db().collection(name)?;
    let blend = match (network, Blend::read(&collection)?) {
        (Some(network), _) => network.reranker.version.blend.clone(),
        (None, Some(blend)) => blend.weights.into_iter().filter(|(_, weight)| *weight > 0.0).collect(),
        (None, None) => BTreeMap::from([("image".to_owned(), 1.0)]),
    };
    if let Some(network) = network {
        let is_for = network.reranker.is_for(collection.config());
        Usage::unless(is_for, || format!("--reranker: {} was made for another model", network.made.name))?;
    }
    let bar = indicatif::ProgressBar::new(0);
    let parting = match (network, &args.split) {
        (None, split) => Parting { split: split.clone().unwrap_or(Parting::default().split), ..Parting::default() },
        (Some(network), split) => {
            let parting = network.reranker.version.parting.clone();
            let is_its = split.as_ref().is_none_or(|split| *split == parting.split);
            let its = &parting.split;
            Usage::unless(is_its, || format!("--split: {} was parted by the field {its:?}", network.made.name))?;
            parting
        }
    };
    let asked = eval::of_collection(
        &own,
        &eval::Own {
            collection: &collection,
            parting: &parting,
            blend: &blend,
            reads: network.map(|network| &network.reranker.version.reads),
            joined: args.joined,
        },
        &mut |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        },
    )?;
    bar.finish_and_clear();
    let eval::Asked { mut data, documents: (of_documents, documents), queries: (of_queries, queries), pairs } = asked;
    if let Some(network) = network {
        let name = &network.made.name;
        data.notes.push(match network.reranker.version.is_judged_in(&collection) {
            true => format!(
                "what a logit of {name} counts, and its relevance, were fitted on held-out points such as these: `firn reranker show` has \
                 figures for which they were chosen on other points"
            ),
            false => format!("what a logit of {name} counts, and its relevance, were fitted in another collection"),
        });
    }
    let place = place(args, &data, &[collection.uuid(), &format!("{pairs:?}")]);
    let engine = open(&place, Vec::new(), settings)?;
    let of_lot =
        |places: &[usize]| -> Items { eval::numbered(places.iter().map(|&place| queries[place].clone()).collect()) };
    let writing = Writing { engine: &engine, folder: &place, settings, model: models(&collection, &blend) };
    let n = data.documents.len() + data.queries.len();
    let contents = Contents { documents: eval::numbered(documents), of_lot: &of_lot, cache: None };
    let store = writing.store(&data, [of_documents, of_queries], contents, pairs)?;
    own.db().close()?;
    Ok(Filled { engine, data, store, n })
}

/// What made the vectors of a blend, and how much each counts.
fn models(collection: &Collection, blend: &BTreeMap<String, f32>) -> Made {
    let model = |name: &String| collection.config().model_of(name);
    let part = |(name, weight): (&String, &f32)| {
        let model = model(name).map_or("vectors that points bring", |model| model.name.as_str());
        let folder = Path::new(model).file_name().map_or(model.into(), |name| name.to_string_lossy());
        format!("{weight} of {name:?} by {folder}")
    };
    let hashes: Vec<&str> = blend.keys().filter_map(model).map(|model| model.hash.as_str()).collect();
    Made { name: blend.iter().map(part).collect::<Vec<_>>().join(" + "), hash: hashes.join("+") }
}

/// Where a data set of that kind is kept: other embeddings, another place.
fn place(args: &RunArgs, data: &Dataset, parts: &[&str]) -> std::path::PathBuf {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    let hash = hasher.finalize().to_hex();
    args.cache.join(super::slug(&format!("{}-{}-{}", data.name, data.protocol, &hash[..12])))
}

fn open(place: &Path, encoders: Vec<Arc<dyn firn_model::Encoder>>, settings: &Settings) -> anyhow::Result<Engine> {
    std::fs::create_dir_all(place).with_context(|| place.display().to_string())?;
    let db = Database::open(&place.join("data"), firn_index::Options::default())?;
    Ok(Engine::new(db, encoders, Loading::OnDemand(settings.device)))
}

/// What is written: all documents, and the queries at some places.
struct Contents<'a> {
    documents: Items,
    of_lot: &'a dyn Fn(&[usize]) -> Items,
    /// Where embeddings may be known already; none if they are brought.
    cache: Option<&'a Cache>,
}

/// Writes collections as `firn ingest` does.
struct Writing<'a> {
    engine: &'a Engine,
    folder: &'a Path,
    settings: &'a Settings,
    /// What made the embeddings.
    model: Made,
}

impl Writing<'_> {
    fn store(
        &self,
        data: &Dataset,
        [of_documents, of_queries]: [CollectionConfig; 2],
        Contents { documents, of_lot, cache }: Contents,
        pairs: Vec<Pair>,
    ) -> anyhow::Result<Store> {
        let fill = |name: &str, config: CollectionConfig, items: Items, n: usize| {
            let items = match cache {
                Some(cache) => cache.missing(name, &config, items)?,
                None => items,
            };
            eval::fill(self.engine, Fill { name, config, items, n }, &mut |collection, items, n| {
                self.write(collection, items, n)
            })
        };
        let documents = fill("documents", of_documents, documents, data.documents.len())?;
        let mut stored = Vec::new();
        for (language, is_joined, queries) in lots(data) {
            // By the language, so that what is asked in others, or not, changes nothing of what is kept.
            let hash = blake3::hash(language.as_bytes()).to_hex();
            let name = format!("queries-{}{}", &hash[..12], if is_joined { "-joined" } else { "" });
            let collection = fill(&name, of_queries.clone(), of_lot(&queries), queries.len())?;
            stored.push(Lot { language, is_joined, queries, collection });
        }
        Ok(Store { documents, lots: stored, pairs, model: self.model.clone() })
    }

    fn write(&self, collection: &Collection, items: Items, n: usize) -> anyhow::Result<()> {
        let mut journal = Journal::lock(&self.folder.join(format!("{}.journal", collection.name())))?;
        let written = journal.load(collection.uuid())?;
        let source = Source::given(self.folder.join(collection.name()), n, items);
        let job = Job {
            collection: collection.name().to_owned(),
            config: collection.config().clone(),
            watch: Watch::new(vec![source.progress.clone()]),
            sources: vec![source],
            encoders: self.engine.encoders_for(collection.config(), |_| true)?,
            journal_path: journal.path().to_owned(),
            journal,
            written,
            id_from: IdFrom::Content,
            batch: pipeline::DEFAULT_BATCH,
            bytes_in_flight: pipeline::DEFAULT_BYTES_IN_FLIGHT,
            stop: Arc::new(AtomicBool::new(false)),
        };
        let bar = Bar::new(self.settings.json);
        let _signals = signals::stop(job.stop.clone(), &bar);
        let (report, result) = ingest::watched(job, &bar, &mut CollectionSink::new(collection.clone()));
        result.map_err(ingest::into_error)?;
        if report.interrupted {
            anyhow::bail!("stopped; hint: {GO_ON}");
        }
        if let Some(first) = report.skipped_items.first() {
            let (n, name, message) = (report.skipped, &first.item, &first.message);
            anyhow::bail!("{n} of {} could not be embedded, such as {name}: {message}", report.read);
        }
        Ok(())
    }
}
