//! From a collection's own pairs to a network that is kept with it: gather, learn, judge, keep. The same for the terminal and the server.

use std::{collections::BTreeMap, ops::ControlFlow};

use firn_index::Collection;
use firn_model::{
    Device,
    fusion::{self, Checkpoint, Kind, Network, Plan, Progress},
};

use super::{Error, Gathered, Parting, Reads, Reranker, Verdict, Version, Wanted, judge, now_s};
use crate::{engine::Engine, query::Blend};

/// What a network is to be, and what it learns from.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    pub plan: Plan,
    /// The named vector of images that texts are compared with.
    pub using: String,
    /// A named vector of images that is read too, though no text is compared with it.
    pub extra: Option<String>,
    /// Candidates of a question that it is judged with.
    pub candidates: usize,
    pub parting: Parting,
    /// Activate it if it is significantly better than cosine.
    pub activate: bool,
}

/// How far a run is.
pub enum Stage<'a> {
    /// So many texts of how many are embedded.
    Texts(usize, usize),
    Gathered(&'a Gathered),
    /// So many steps are the most.
    Learning(&'a Progress, u64),
    /// So many weights are learnt, the best after this step.
    Learnt(usize, u64),
}

/// Is told how far a run is, and may break it off.
pub type Report<'a> = dyn FnMut(Stage) -> ControlFlow<()> + 'a;

impl Training {
    /// As many steps as are usual for the kind: one over tokens costs ten times what one of an MLP does.
    pub fn new(kind: Kind, n_steps: Option<u64>, seed: u64) -> Training {
        let usual = if kind.reads_tokens() { 900 } else { 1800 };
        Training {
            plan: Plan::new(kind, n_steps.unwrap_or(usual), seed),
            using: "image".to_owned(),
            extra: None,
            candidates: 50,
            parting: Parting::default(),
            activate: false,
        }
    }

    /// `Error::Setting` names what is out of range.
    pub fn check(&self) -> Result<(), Error> {
        let Training { plan, candidates, parting, .. } = self;
        let shares = [
            ("joined", plan.joined),
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
        within("list-length", plan.list_length, (2..=256).contains(&plan.list_length), "2 to 256")?;
        let every = plan.evaluate_every;
        within("evaluate-every", every, (1..=1_000_000).contains(&every), "1 to 1000000")?;
        within("candidates", *candidates, (2..=1000).contains(candidates), "2 to 1000")?;
        parting.check()?;
        plan.sizes.check().map_err(|detail| Error::Sizes { detail })
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
        let tokens = self.plan.kind.reads_tokens();
        if tokens && !config.tokens.contains_key(&self.using) {
            let (kind, collection) = (self.plan.kind.name(), collection.name().to_owned());
            return Err(Error::NoTokens { kind, collection, vector: self.using.clone() });
        }
        let model = config.model_of(&self.using).cloned();
        let no_model = || Error::NoModel { collection: collection.name().to_owned(), vector: self.using.clone() };
        Ok(Reads { image: self.using.clone(), extra: self.extra.clone(), tokens, model: model.ok_or_else(no_model)? })
    }
}

impl Parting {
    pub fn check(&self) -> Result<(), Error> {
        let held_out = self.held_out;
        within("held-out", held_out, held_out > 0.0 && held_out <= 0.5, "more than 0 and at most 0.5")
    }
}

fn within(field: &'static str, received: impl ToString, fits: bool, expected: &str) -> Result<(), Error> {
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
    (device, checkpoint): (Device, Option<Checkpoint>),
    report: &mut Report,
) -> Result<Option<Version>, Error> {
    training.check()?;
    let Training { plan, parting, candidates, .. } = training;
    let (reads, blend) = (training.reads(collection)?, blend_of(collection, &training.using)?);
    let wanted = Wanted { reads: &reads, parting, blend: &blend, only_judged: false };
    let Some(gathered) = Gathered::read(engine, collection, &wanted, report)? else { return Ok(None) };
    if report(Stage::Gathered(&gathered)).is_break() {
        return Ok(None);
    }
    let options = fusion::Options {
        plan,
        pairs: &gathered.pairs,
        train: &gathered.train,
        held_out: &gathered.stop,
        device,
        checkpoint,
    };
    let learnt = fusion::train(&options, &mut |progress| report(Stage::Learning(progress, plan.recipe.n_steps)))?;
    let Some((network, step)) = learnt else { return Ok(None) };
    if report(Stage::Learnt(network.n_parameters(), step)).is_break() {
        return Ok(None);
    }
    let verdict = judge(network.scorer()?.as_ref(), &gathered, *candidates, plan.seed)?;
    let version = version(&network, step, training, (reads, blend), &verdict);
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
    Ok(Some(state.newest().clone()))
}

/// Judges a version anew, on the points that it has not learnt from as they are now; none if it was broken off before. `Error::UnknownVersion`.
pub fn evaluate(
    engine: &Engine,
    collection: &Collection,
    (number, parting, seed): (u32, &Parting, u64),
    device: Device,
    report: &mut Report,
) -> Result<Option<Version>, Error> {
    parting.check()?;
    let state = engine.rerankers().state(collection)?;
    let reranker = Reranker::open(collection, state.version(number)?, device)?;
    let reads = &reranker.version.reads;
    let blend = blend_of(collection, &reads.image)?;
    let wanted = Wanted { reads, parting, blend: &blend, only_judged: true };
    let Some(gathered) = Gathered::read(engine, collection, &wanted, report)? else { return Ok(None) };
    if report(Stage::Gathered(&gathered)).is_break() {
        return Ok(None);
    }
    let verdict = judge(reranker.scorer(), &gathered, reranker.version.candidates, seed)?;
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
    network: &Network,
    step: u64,
    training: &Training,
    (reads, blend): (Reads, BTreeMap<String, f32>),
    verdict: &Verdict,
) -> Version {
    Version {
        number: 0,
        kind: network.kind().name().to_owned(),
        parameters: network.n_parameters() as u64,
        seed: training.plan.seed,
        steps: step,
        made_at: now_s(),
        reads,
        blend,
        weights: verdict.weights,
        candidates: training.candidates,
        calibration: verdict.calibration.clone(),
        judged: verdict.judged.clone(),
    }
}
