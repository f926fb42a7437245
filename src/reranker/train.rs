//! From a collection's own pairs to a network that is kept with it: gather, learn, judge, keep. The same for the terminal and the server.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use firn_index::{Collection, Limits, Reader, Row, Side};
use firn_ingest::makers::vectors_of;
use firn_model::{
    Device,
    fusion::{self, Checkpoint, Ensemble, Items, Kind, MAX_CROWD, MAX_MEMBERS, Mining, Plan, Progress, Scorer, Search},
};
use rayon::prelude::*;

use super::{Error, Gathered, Parting, Reads, Reranker, Verdict, Version, Wanted, judge, now_s};
use crate::{engine::Engine, query::Blend};

/// What a network is to be, and what it learns from.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// Of the first network.
    pub plan: Plan,
    /// Networks of each of these kinds learn in turn, and are asked as one; of none, hubs alone are told.
    pub kinds: Vec<Kind>,
    /// So many of each kind, by other seeds.
    pub n_members: usize,
    /// Most steps of each; none for as many as are usual for its kind.
    pub n_steps: Option<u64>,
    /// The named vector of images that texts are compared with.
    pub using: String,
    /// A named vector of images that is read too, though no text is compared with it.
    pub extra: Option<String>,
    /// Texts and images, so many at most of each, that tell hubs: what lies near to many of them. 0: hubs are not told.
    pub crowd: usize,
    /// Candidates of a question that it is judged with.
    pub candidates: usize,
    pub parting: Parting,
    /// Activate it if it is significantly better than cosine.
    pub activate: bool,
}

/// How far a run is.
pub enum Stage<'a> {
    /// So many texts of how many are embedded; while points are read none, of so many as were found.
    Texts(usize, usize),
    Gathered(&'a Gathered),
    /// So many steps are the most; of several networks those of all before count as taken.
    Learning(&'a Progress, u64),
    /// So many weights are learnt, the best of the first network after this step.
    Learnt(usize, u64),
    /// So many held-out questions of how many are asked.
    Judging(usize, usize),
}

/// Between the seeds of members, so that runs of neighbouring seeds share none.
const SEED_STEP: u64 = 1_000_003;

/// One over tokens costs ten times what one of an MLP does.
fn usual_steps(kind: Kind) -> u64 {
    if kind.reads_tokens() { 900 } else { 1800 }
}

/// Images to learn from up to which every text is compared with every image; of more, near ones come from the index.
const COMPARED_WITH_ALL: usize = 20_000;
/// Steps that learn from one draw of texts, whose near ones the index is asked for.
const MINED_EVERY: u64 = 200;

/// Is told how far a run is, and may break it off.
pub type Report<'a> = dyn FnMut(Stage) -> ControlFlow<()> + 'a;

impl Training {
    pub fn new(kinds: Vec<Kind>, n_steps: Option<u64>, seed: u64) -> Training {
        let first = kinds.first().copied().unwrap_or(Kind::FacetFusionOneWay);
        Training {
            plan: Plan::new(first, n_steps.unwrap_or(usual_steps(first)), seed),
            kinds,
            n_members: 1,
            n_steps,
            using: "image".to_owned(),
            extra: None,
            crowd: MAX_CROWD,
            candidates: 50,
            parting: Parting::default(),
            activate: false,
        }
    }

    /// Of each network, in the order in which they learn.
    fn plans(&self) -> Vec<Plan> {
        let of = |member: usize, kind: Kind| {
            let mut plan = self.plan.clone();
            plan.kind = kind;
            let usual = Plan::new(kind, self.n_steps.unwrap_or(usual_steps(kind)), 0).recipe;
            (plan.recipe.n_steps, plan.recipe.n_warm_up) = (usual.n_steps, usual.n_warm_up);
            plan.seed = plan.seed.wrapping_add(SEED_STEP.wrapping_mul(member as u64));
            plan
        };
        (0..self.n_members).flat_map(|member| self.kinds.iter().map(move |&kind| of(member, kind))).collect()
    }

    /// Such as "mlp+facet-fusion-1way"; `HUBS` if there is no network.
    pub fn kind(&self) -> String {
        match &self.kinds[..] {
            [] => HUBS.to_owned(),
            kinds => kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join("+"),
        }
    }

    /// `Error::Setting` names what is out of range.
    pub fn check(&self) -> Result<(), Error> {
        let Training { plan, candidates, parting, .. } = self;
        let n = self.kinds.len().saturating_mul(self.n_members);
        let (has_network, members) = (!self.kinds.is_empty(), 1..=MAX_MEMBERS);
        let is_some = members.contains(&self.n_members) && (!has_network || members.contains(&n));
        within("members", self.n_members, is_some, "1 to 32 networks in all")?;
        within("crowd", self.crowd, self.crowd <= MAX_CROWD, "0 to 4096")?;
        within("crowd", self.crowd, self.crowd > 0 || has_network, "1 or more, where there is no network")?;
        let shares = [
            ("joined", plan.joined),
            ("joined-in-part", plan.joined_in_part),
            ("image-to-text", plan.image_to_text),
            ("dropout", f64::from(plan.dropout)),
            ("image-dropout", f64::from(plan.image_dropout)),
            ("smoothing", plan.losses.smoothing),
        ];
        for (field, share) in shares {
            within(field, share, (0.0..1.0).contains(&share), "0 to less than 1")?;
        }
        let rate = plan.recipe.rate;
        within("rate", rate, rate > 0.0 && rate <= 1.0, "more than 0 and at most 1")?;
        let decay = plan.recipe.decay;
        within("decay", decay, (0.0..=1.0).contains(&decay), "0 to 1")?;
        let losses = [plan.losses.contrastive, plan.losses.matching, plan.losses.regularisation];
        let is_weight = losses.iter().all(|weight| (0.0..=1e6).contains(weight));
        within("losses", format!("{losses:?}"), is_weight, "weights of 0 to 1000000")?;
        within("steps", plan.recipe.n_steps, (1..=10_000_000).contains(&plan.recipe.n_steps), "1 to 10000000")?;
        within("lists", plan.n_lists, (1..=4096).contains(&plan.n_lists), "1 to 4096")?;
        within("nearest", plan.n_nearest, (1..=1000).contains(&plan.n_nearest), "1 to 1000")?;
        within("list-length", plan.list_length, (2..=256).contains(&plan.list_length), "2 to 256")?;
        let is_block = plan.block == 0 || (2..=plan.list_length).contains(&plan.block);
        within("block", plan.block, is_block, "0, or 2 to list-length")?;
        let has_tokens = !plan.sizes.tokens_only || self.kinds.iter().all(|kind| kind.reads_tokens());
        within("tokens-only", self.kind(), has_tokens, "a kind that reads tokens")?;
        let every = plan.evaluate_every;
        within("evaluate-every", every, (1..=1_000_000).contains(&every), "1 to 1000000")?;
        within("candidates", *candidates, (2..=1000).contains(candidates), "2 to 1000")?;
        parting.check()?;
        plan.sizes.check().map_err(|detail| Error::Sizes { detail })?;
        let n_bytes = n.saturating_mul(4 * plan.sizes.n_weights());
        let most = Limits::MAX_ATTACHMENT_BYTES;
        let expected = format!("networks that need {} MiB in all, as much as is kept", most >> 20);
        within("members", format!("{} MiB", n_bytes >> 20), n_bytes <= most, &expected)
    }

    /// Whether the collection has what the network is to read.
    pub fn fits(&self, collection: &Collection) -> Result<(), Error> {
        self.reads(collection).map(drop)
    }

    fn reads(&self, collection: &Collection) -> Result<Reads, Error> {
        let config = collection.config();
        let names = || format!("one of {:?}", config.vectors.keys().collect::<Vec<_>>());
        for (field, name) in [("using", Some(&self.using)), ("extra", self.extra.as_ref())] {
            let Some(name) = name else { continue };
            within(field, format!("{name:?}"), config.vectors.contains_key(name), &names())?;
        }
        let texts = vectors_of(config, Side::Text);
        if let Some(extra) = self.extra.as_deref().filter(|extra| texts.contains(extra)) {
            let expected = "a vector of images: what texts say is what is asked".to_owned();
            return Err(Error::Setting { field: "extra", expected, received: format!("{extra:?}, of texts") });
        }
        let tokens = self.kinds.iter().any(|kind| kind.reads_tokens());
        if tokens && !config.tokens.contains_key(&self.using) {
            let (kind, collection) = (self.kind(), collection.name().to_owned());
            return Err(Error::NoTokens { kind, collection, vector: self.using.clone() });
        }
        let model = config.model_of(&self.using).cloned();
        let no_model = || Error::NoModel { collection: collection.name().to_owned(), vector: self.using.clone() };
        Ok(Reads { image: self.using.clone(), extra: self.extra.clone(), tokens, model: model.ok_or_else(no_model)? })
    }
}

/// What is called a kind where there is no network.
const HUBS: &str = "hubs";

/// Kinds with a plus between them, or that of no network.
pub fn kinds_of(names: &str) -> Result<Vec<Kind>, String> {
    if names.trim() == HUBS {
        return Ok(Vec::new());
    }
    names.split('+').map(|name| name.trim().parse()).collect()
}

pub(super) fn within(field: &'static str, received: impl ToString, fits: bool, expected: &str) -> Result<(), Error> {
    match fits {
        true => Ok(()),
        false => Err(Error::Setting { field, expected: expected.to_owned(), received: received.to_string() }),
    }
}

/// Learns a network, judges it on what it has not learnt from, and keeps it as a new version; none if it was broken off before. Nothing of the
/// collection changes but that version.
pub fn train(
    engine: &Engine,
    collection: &Collection,
    training: &Training,
    checkpoint: Option<Checkpoint>,
    report: &mut Report,
) -> Result<Option<Version>, Error> {
    training.check()?;
    // What could not be written in the end is found out at the beginning.
    engine.rerankers().state(collection)?;
    let Training { plan, parting, candidates, .. } = training;
    let (reads, blend) = (training.reads(collection)?, blend_of(collection, &training.using)?);
    let crowd = (training.crowd > 0).then_some((training.crowd, plan.seed));
    let wanted = Wanted { reads: &reads, parting, blend: &blend, only_judged: false, crowd };
    let Some(mut gathered) = Gathered::read(engine, collection, &wanted, report)? else { return Ok(None) };
    if parting.among_group && gathered.judged_groups.is_none() {
        let expected = "two or more points to judge on that have the same group".to_owned();
        return Err(Error::Setting { field: "among-group", expected, received: "none".to_owned() });
    }
    if report(Stage::Gathered(&gathered)).is_break() {
        return Ok(None);
    }
    let hubs = gathered.hubs.take();
    let learnt = match (training.kinds.is_empty(), hubs) {
        (true, Some(hubs)) => Some((Ensemble::of_hubs(hubs), 0)),
        (_, hubs) => learn(collection, &gathered, training, (engine.device(), checkpoint), report)?
            .map(|(network, step)| (network.with_hubs(hubs), step)),
    };
    let Some((network, step)) = learnt else { return Ok(None) };
    if report(Stage::Learnt(network.n_parameters(), step)).is_break() {
        return Ok(None);
    }
    let (scorer, crowds) = (network.scorer()?, network.hubs().and_then(|hubs| hubs.crowds(&blend)));
    let scorer = scorer.as_ref().map(|scorer| scorer.as_ref() as &dyn Scorer);
    let verdict = judge((scorer, crowds.as_ref()), &gathered, *candidates, plan.seed, report)?;
    let Some(verdict) = verdict else { return Ok(None) };
    let version = version(&network, step, training, (reads, blend), (&verdict, collection));
    let weights = network.bytes()?;
    let state = engine.rerankers().change(collection, |state| {
        let state = state.add(collection, version, weights)?;
        match training.activate && verdict.is_better() {
            true => {
                let number = state.newest().number;
                state.activate(collection, number, false)
            }
            false => Ok(state),
        }
    })?;
    if let Some(checkpoint) = checkpoint {
        forget(checkpoint.path, training.plans().len());
    }
    Ok(Some(state.newest().clone()))
}

/// Removes the checkpoints of so many networks that are kept now.
fn forget(checkpoint: &Path, n: usize) {
    for path in (0..n).map(|at| member_path(checkpoint, at)) {
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{} cannot be removed: {error}", path.display());
        }
    }
}

/// The networks, and the step that the first of them was taken at. Each has a checkpoint of its own.
fn learn(
    collection: &Collection,
    gathered: &Gathered,
    training: &Training,
    (device, checkpoint): (Device, Option<Checkpoint>),
    report: &mut Report,
) -> Result<Option<(Ensemble, u64)>, Error> {
    let index = Index::new(collection, &training.using, (&gathered.train, &gathered.rows), &gathered.pairs.texts);
    let mining = match gathered.train.len() > COMPARED_WITH_ALL {
        true => Mining::Search { search: &index, every: MINED_EVERY },
        false => Mining::Exact,
    };
    let plans = training.plans();
    let total: u64 = plans.iter().map(|plan| plan.recipe.n_steps).sum();
    let (mut networks, mut steps, mut before) = (Vec::new(), Vec::new(), 0);
    for (at, plan) in plans.iter().enumerate() {
        if checkpoint.and_then(|checkpoint| checkpoint.stop_after).is_some_and(|step| step <= before) {
            return Ok(None);
        }
        let path = checkpoint.map(|checkpoint| member_path(checkpoint.path, at));
        let checkpoint = checkpoint.zip(path.as_deref()).map(|(checkpoint, path)| Checkpoint {
            path,
            resume: path.exists(),
            stop_after: checkpoint.stop_after.map(|step| step - before),
            ..checkpoint
        });
        let (pairs, train, held_out) = (&gathered.pairs, &gathered.train, &gathered.stop);
        let options = fusion::Options { plan, pairs, train, held_out, device, checkpoint, mining };
        let learnt = fusion::train(&options, &mut |progress| {
            let progress = Progress { step: before + progress.step, ..progress.clone() };
            report(Stage::Learning(&progress, total))
        })?;
        let Some((network, step)) = learnt else { return Ok(None) };
        networks.push(network);
        steps.push(step);
        before += plan.recipe.n_steps;
    }
    let ensemble = Ensemble::new(networks).map_err(|detail| Error::Sizes { detail })?;
    Ok(Some((ensemble, steps[0])))
}

/// The collection's index, asked with texts that have learnt nothing of their images.
struct Index<'a> {
    reader: Reader,
    using: &'a str,
    texts: &'a Items,
    place_of: HashMap<Row, usize>,
    /// Points in the collection for one to learn from.
    points_per_image: usize,
}

impl<'a> Index<'a> {
    /// Images to learn from by their places, and the row of every image.
    fn new(collection: &Collection, using: &'a str, (learnt, rows): (&[usize], &[Row]), texts: &'a Items) -> Index<'a> {
        let reader = collection.reader();
        let place_of: HashMap<Row, usize> = learnt.iter().map(|&place| (rows[place], place)).collect();
        let points_per_image = (reader.count() as usize).div_ceil(place_of.len().max(1));
        Index { reader, using, texts, place_of, points_per_image }
    }
}

impl Search for Index<'_> {
    fn images_of(&self, texts: &[usize], n: usize) -> firn_model::Result<Vec<Vec<usize>>> {
        let limit = n.saturating_mul(self.points_per_image).min(firn_index::Limits::MAX_LIMIT);
        let find = |&text: &usize| {
            let vector = &self.texts.vectors[text * self.texts.dim..][..self.texts.dim];
            // A text without a word that is known lies nowhere.
            if vector.iter().all(|&x| x == 0.0) {
                return Ok(Vec::new());
            }
            let search = firn_index::Search { vector, using: self.using, limit, ef: None, exact: false };
            let found = self.reader.search(&search);
            let found = found.map_err(|error| firn_model::Error::BadPairs { detail: error.to_string() })?;
            Ok(found.iter().filter_map(|candidate| self.place_of.get(&candidate.row).copied()).collect())
        };
        texts.par_iter().map(find).collect()
    }
}

/// The first network's is the one that is named.
fn member_path(path: &Path, at: usize) -> PathBuf {
    match at {
        0 => path.to_owned(),
        at => {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{at}"));
            name.into()
        }
    }
}

/// How a version is judged anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judging {
    pub number: u32,
    /// Of the folds.
    pub seed: u64,
    /// The verdict, with its weights and relevance, takes the place of the one before, also of the active version; else it is only told.
    pub keep: bool,
}

/// Judges a version anew, on the points that it has not learnt from as they are now; none if it was broken off before. `Error::UnknownVersion`.
pub fn evaluate(
    engine: &Engine,
    collection: &Collection,
    Judging { number, seed, keep }: Judging,
    report: &mut Report,
) -> Result<Option<Version>, Error> {
    let state = engine.rerankers().state(collection)?;
    let reranker = Reranker::open(collection, state.version(number)?, engine.device())?;
    let Version { reads, parting, .. } = &reranker.version;
    let blend = blend_of(collection, &reads.image)?;
    let wanted = Wanted { reads, parting, blend: &blend, only_judged: true, crowd: None };
    let Some(gathered) = Gathered::read(engine, collection, &wanted, report)? else { return Ok(None) };
    if report(Stage::Gathered(&gathered)).is_break() {
        return Ok(None);
    }
    if parting.among_group && gathered.judged_groups.is_none() {
        tracing::warn!("no two points to judge on have the same {:?}: each text looks among all", parting.group);
    }
    let crowds = reranker.crowds(&blend);
    if crowds.is_none() && reranker.has_hubs() {
        let names: Vec<&String> = blend.keys().collect();
        tracing::warn!(
            "version {number} cannot tell hubs by {names:?}: it learnt from other vectors; hint: train anew"
        );
    }
    let (scorer, candidates) = (reranker.scorer(), reranker.version.candidates);
    let verdict = judge((scorer, crowds.as_ref()), &gathered, candidates, seed, report)?;
    let Some(verdict) = verdict else { return Ok(None) };
    if !keep {
        return Ok(Some(reranker.version.clone().judged(collection, blend, verdict)));
    }
    let state = engine.rerankers().change(collection, |state| state.judge(collection, number, blend, verdict))?;
    Ok(Some(state.version(number)?.clone()))
}

/// The cosines that candidates come by: those that the collection keeps weights for, else the one that is read.
fn blend_of(collection: &Collection, using: &str) -> Result<BTreeMap<String, f32>, Error> {
    Ok(match Blend::read(collection)? {
        Some(blend) => blend.weights.into_iter().filter(|(_, weight)| *weight > 0.0).collect(),
        None => BTreeMap::from([(using.to_owned(), 1.0)]),
    })
}

fn version(
    network: &Ensemble,
    step: u64,
    training: &Training,
    (reads, blend): (Reads, BTreeMap<String, f32>),
    (verdict, collection): (&Verdict, &Collection),
) -> Version {
    Version {
        number: 0,
        kind: training.kind(),
        members: training.n_members as u32,
        parameters: network.n_parameters() as u64,
        seed: training.plan.seed,
        steps: step,
        made_at: now_s(),
        reads,
        blend,
        weights: verdict.weights,
        parting: training.parting.clone(),
        candidates: training.candidates,
        calibration: verdict.calibration.clone(),
        judged: verdict.judged.clone(),
        judged_in: collection.uuid().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use firn_index::{CollectionConfig, Database, NewPoint, Options, Payload, PointId, VectorConfig};

    /// What the index finds for texts are the nearest images to learn from, whatever else the collection holds.
    #[test]
    fn near_images_come_from_the_index() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { min_free_bytes: 0, buffer_limit: 40, ..Options::default() };
        let db = Database::open(dir.path(), options).unwrap();
        let vectors = BTreeMap::from([("image".to_owned(), VectorConfig::new(3))]);
        let config = CollectionConfig { vectors, ..CollectionConfig::default() };
        let collection = db.create_collection("c", config).unwrap();
        let vector = |at: u64| {
            let raw = [(at * 37 % 101) as f32 - 50.0, (at * 53 % 97) as f32 - 48.5, (at * 11 % 89) as f32 - 44.3];
            let length = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
            raw.map(|x| x / length)
        };
        let point = |at: u64| {
            let (texts, payload, tokens) = (Vec::new(), Payload::new(), BTreeMap::new());
            let vectors = BTreeMap::from([("image".to_owned(), vector(at).to_vec())]);
            NewPoint { id: PointId::Num(at), texts, payload, vectors, tokens }
        };
        collection.upsert((0..120).map(point).collect()).unwrap();
        let reader = collection.reader();
        let items = Items { dim: 3, vectors: (0..120).flat_map(vector).collect(), ..Items::default() };
        let rows: Vec<Row> = (0..120).map(|at| reader.row(&PointId::Num(at)).unwrap().unwrap()).collect();
        let learnt: Vec<usize> = (0..120).filter(|at| at % 3 > 0).collect();
        let index = Index::new(&collection, "image", (&learnt, &rows), &items);
        let texts = [0, 7, 64];
        for (found, text) in index.images_of(&texts, 10).unwrap().into_iter().zip(texts) {
            let cosine = |at: usize| -> f32 {
                let of = |at: usize| &items.vectors[3 * at..][..3];
                of(text).iter().zip(of(at)).map(|(x, y)| x * y).sum()
            };
            let mut expected = learnt.clone();
            expected.sort_by(|&a, &b| cosine(b).total_cmp(&cosine(a)));
            assert!(found.len() >= 10, "{}", found.len());
            assert_eq!(found, expected[..found.len()]);
        }
    }
}
