//! The Rerankers service.

use std::{ops::ControlFlow, sync::Arc};

use firn_index::Collection;
use firn_model::fusion::{Direction, Found, Kind, Weight};
use firn_proto::v1::{
    self, ActivateRerankerRequest, ActivateRerankerResponse, CancelJobRequest, CancelJobResponse,
    EvaluateRerankerRequest, EvaluateRerankerResponse, GetJobRequest, GetJobResponse, ListRerankersRequest,
    ListRerankersResponse, RerankerParting, RerankerRecipe, RollbackRerankerRequest, RollbackRerankerResponse,
    TrainRerankerRequest, TrainRerankerResponse,
};
use tonic::{Request, Response, Status};

use super::{shared::Shared, status::Problem, unfinished::Unfinished, work};
use crate::{
    engine::Engine,
    reranker::{self, Error, Judged, Judging, Length, Parting, Reads, Report, Stage, State, Training, Version},
};

pub struct Rerankers(pub Arc<Shared>);

#[tonic::async_trait]
impl v1::rerankers_server::Rerankers for Rerankers {
    async fn train(&self, request: Request<TrainRerankerRequest>) -> Result<Response<TrainRerankerResponse>, Status> {
        let request = request.into_inner();
        let (shared, collection) = (self.0.clone(), self.0.collection(&request.collection_name)?);
        let training = training_in(request)?;
        training.fits(&collection).map_err(Problem::from)?;
        let name = collection.name().to_owned();
        let job = self.0.jobs.add(
            &name,
            &self.0.gate,
            Box::new(move |report| {
                let engine = shared.engine().map_err(|_| Error::Closed)?;
                let unfinished =
                    Unfinished::of(engine, &collection, &training, shared.jobs.closed()).map_err(|error| {
                        let what = engine.db().path().display().to_string();
                        Error::Unreadable { what, detail: error.to_string() }
                    })?;
                let train = |report: &mut Report| {
                    let report = &mut |stage: Stage| while_there(engine, &collection, report(stage));
                    reranker::train(engine, &collection, &training, Some(unfinished.checkpoint()), report)
                };
                let version = match train(report) {
                    // The collection is another since, or the checkpoint is damaged.
                    Err(Error::Model(error)) if unfinished.goes_on() => {
                        tracing::warn!("a training begins anew: {error}");
                        unfinished.remove();
                        train(report)?
                    }
                    trained => trained?,
                };
                described(engine, &collection, version)
            }),
        )?;
        Ok(Response::new(TrainRerankerResponse { job: Some(job) }))
    }

    async fn evaluate(
        &self,
        request: Request<EvaluateRerankerRequest>,
    ) -> Result<Response<EvaluateRerankerResponse>, Status> {
        let EvaluateRerankerRequest { collection_name, version, seed, report_only } = request.into_inner();
        let (shared, collection) = (self.0.clone(), self.0.collection(&collection_name)?);
        let judging = Judging { number: version, seed: seed.unwrap_or(1), keep: !report_only };
        let (name, of) = (collection.name().to_owned(), collection.clone());
        let state = self.0.clone();
        work::run(move || Ok(state.engine()?.rerankers().state(&of)?.version(version).map(drop)?)).await?;
        let job = self.0.jobs.add(
            &name,
            &self.0.gate,
            Box::new(move |report| {
                let engine = shared.engine().map_err(|_| Error::Closed)?;
                let report = &mut |stage: Stage| while_there(engine, &collection, report(stage));
                let judged = reranker::evaluate(engine, &collection, judging, report)?;
                described(engine, &collection, judged)
            }),
        )?;
        Ok(Response::new(EvaluateRerankerResponse { job: Some(job) }))
    }

    async fn get_job(&self, request: Request<GetJobRequest>) -> Result<Response<GetJobResponse>, Status> {
        let job = self.0.jobs.get(&request.into_inner().id)?;
        Ok(Response::new(GetJobResponse { job: Some(job) }))
    }

    async fn cancel_job(&self, request: Request<CancelJobRequest>) -> Result<Response<CancelJobResponse>, Status> {
        let job = self.0.jobs.cancel(&request.into_inner().id)?;
        Ok(Response::new(CancelJobResponse { job: Some(job) }))
    }

    async fn list(&self, request: Request<ListRerankersRequest>) -> Result<Response<ListRerankersResponse>, Status> {
        let name = request.into_inner().collection_name;
        let (shared, collection) = (self.0.clone(), self.0.collection(&name)?);
        let of = collection.clone();
        let state = work::run(move || Ok(shared.engine()?.rerankers().state(&of)?)).await?;
        let of = |version: &Version| description(version, (&state, &collection));
        Ok(Response::new(ListRerankersResponse { rerankers: state.versions.iter().map(of).collect() }))
    }

    async fn activate(
        &self,
        request: Request<ActivateRerankerRequest>,
    ) -> Result<Response<ActivateRerankerResponse>, Status> {
        let ActivateRerankerRequest { collection_name, version, force } = request.into_inner();
        self.change(&collection_name, move |state, collection| state.activate(collection, version, force)).await?;
        Ok(Response::new(ActivateRerankerResponse {}))
    }

    async fn rollback(
        &self,
        request: Request<RollbackRerankerRequest>,
    ) -> Result<Response<RollbackRerankerResponse>, Status> {
        let name = request.into_inner().collection_name;
        let state = self.change(&name, State::roll_back).await?;
        Ok(Response::new(RollbackRerankerResponse { version: state.active }))
    }
}

impl Rerankers {
    async fn change(
        &self,
        name: &str,
        change: impl FnOnce(State, &Collection) -> Result<State, Error> + Send + 'static,
    ) -> Result<State, Problem> {
        let (shared, collection) = (self.0.clone(), self.0.collection(name)?);
        work::run(move || Ok(shared.engine()?.rerankers().change(&collection, |state| change(state, &collection))?))
            .await
    }
}

pub fn training_in(request: TrainRerankerRequest) -> Result<Training, Problem> {
    let TrainRerankerRequest {
        kind,
        members,
        using,
        extra,
        crowd,
        seed,
        steps,
        candidates,
        parting,
        recipe,
        activate,
        ..
    } = request;
    let kinds = match kind {
        Some(names) => {
            reranker::kinds_of(&names).map_err(|message| Problem::invalid("kind", "UNKNOWN_KIND", message))?
        }
        None => vec![Kind::FacetFusionOneWay],
    };
    let mut training = Training::new(kinds, steps, seed.unwrap_or(1));
    set(&mut training.n_members, members.map(|n| n as usize));
    set(&mut training.crowd, crowd.map(|n| n as usize));
    set(&mut training.using, using);
    set(&mut training.candidates, candidates.map(|n| n as usize));
    (training.extra, training.activate, training.parting) = (extra, activate, parting_in(parting));
    recipe_in(recipe.unwrap_or_default(), &mut training);
    training.check()?;
    Ok(training)
}

pub fn parting_in(parting: Option<RerankerParting>) -> Parting {
    let mut said = Parting::default();
    let RerankerParting { split_field, group_field, held_out, among_group } = parting.unwrap_or_default();
    set(&mut said.split, split_field);
    set(&mut said.held_out, held_out);
    Parting { group: group_field, among_group, ..said }
}

fn recipe_in(recipe: RerankerRecipe, training: &mut Training) {
    let plan = &mut training.plan;
    let size = |number: Option<u32>| number.map(|number| number as usize);
    set(&mut plan.sizes.dim, size(recipe.dim));
    set(&mut plan.sizes.n_layers, size(recipe.layers));
    set(&mut plan.sizes.n_heads, size(recipe.heads));
    set(&mut plan.sizes.wide, size(recipe.wide));
    set(&mut plan.sizes.tokens_only, recipe.tokens_only);
    set(&mut plan.sizes.share, recipe.share);
    set(&mut plan.recipe.rate, recipe.rate);
    set(&mut plan.recipe.decay, recipe.decay);
    set(&mut plan.n_lists, size(recipe.lists));
    set(&mut plan.list_length, size(recipe.list_length));
    set(&mut plan.n_nearest, size(recipe.nearest));
    set(&mut plan.block, size(recipe.block));
    plan.n_nearest = plan.n_nearest.max(plan.least_near());
    set(&mut plan.joined, recipe.joined);
    set(&mut plan.joined_in_part, recipe.joined_in_part);
    set(&mut plan.image_to_text, recipe.image_to_text);
    set(&mut plan.dropout, recipe.dropout);
    set(&mut plan.image_dropout, recipe.image_dropout);
    set(&mut plan.losses.smoothing, recipe.smoothing);
    set(&mut plan.losses.contrastive, recipe.list_weight);
    set(&mut plan.losses.matching, recipe.pair_weight);
    set(&mut plan.losses.regularisation, recipe.added_weight);
    set(&mut plan.evaluate_every, recipe.evaluate_every);
    set(&mut plan.patience, size(recipe.patience));
}

/// What is not said stays as it is.
fn set<T>(to: &mut T, said: Option<T>) {
    if let Some(said) = said {
        *to = said;
    }
}

fn described(
    engine: &Engine,
    collection: &Collection,
    version: Option<Version>,
) -> Result<Option<v1::RerankerDescription>, Error> {
    let Some(version) = version else {
        return match is_there(engine, collection) {
            true => Ok(None),
            false => Err(firn_index::Error::CollectionNotFound { name: collection.name().to_owned() }.into()),
        };
    };
    Ok(Some(description(&version, (&engine.rerankers().state(collection)?, collection))))
}

/// Nobody learns for a collection that is gone.
fn while_there(engine: &Engine, collection: &Collection, said: ControlFlow<()>) -> ControlFlow<()> {
    if is_there(engine, collection) { said } else { ControlFlow::Break(()) }
}

fn is_there(engine: &Engine, collection: &Collection) -> bool {
    engine.db().collection(collection.name()).is_ok_and(|now| now.uuid() == collection.uuid())
}

fn description(version: &Version, (state, collection): (&State, &Collection)) -> v1::RerankerDescription {
    v1::RerankerDescription {
        version: version.number,
        kind: version.kind.clone(),
        members: version.members,
        parameters: version.parameters,
        seed: version.seed,
        steps: version.steps,
        made_at: version.made_at,
        active: state.active == Some(version.number),
        blend: version.blend.clone().into_iter().collect(),
        candidates: version.candidates as u32,
        gains: version.judged.iter().map(gain).collect(),
        calibration_error: version.calibration.as_ref().map(|calibration| calibration.error),
        reads: Some(reads(&version.reads)),
        text_to_image_weight: Some(weight(&version.weight(Direction::TextToImage))),
        image_to_text_weight: Some(weight(&version.weight(Direction::ImageToText))),
        parting: Some(parting(&version.parting)),
        judged_elsewhere: !version.is_judged_in(collection),
    }
}

fn reads(reads: &Reads) -> v1::RerankerReads {
    let Reads { image, extra, tokens, model } = reads.clone();
    v1::RerankerReads { vector: image, tokens, extra, model: model.name, model_hash: model.hash }
}

/// The other way of `parting_in`.
pub fn parting(parting: &Parting) -> RerankerParting {
    let Parting { split, group, held_out, among_group, .. } = parting.clone();
    RerankerParting { split_field: Some(split), group_field: group, held_out: Some(held_out), among_group }
}

fn gain(judged: &Judged) -> v1::RerankGain {
    let Judged { direction, language, length, gain } = judged;
    let direction = match direction {
        Direction::TextToImage => v1::RerankDirection::TextToImage,
        Direction::ImageToText => v1::RerankDirection::ImageToText,
    };
    v1::RerankGain {
        direction: direction.into(),
        language: language.clone(),
        joined: *length == Length::Joined,
        questions_count: gain.n_questions as u64,
        images_count: gain.n_images as u64,
        cosine: Some(quality(&gain.cosine)),
        reranked: Some(quality(&gain.reranked)),
        interval_low: gain.interval[0],
        interval_high: gain.interval[1],
        p: gain.p,
        fold_weights: gain.weights.iter().map(weight).collect(),
        without_logit: Some(quality(&gain.without_logit)),
        logit_interval_low: gain.interval_of_logit[0],
        logit_interval_high: gain.interval_of_logit[1],
    }
}

fn weight(weight: &Weight) -> v1::RerankWeight {
    v1::RerankWeight { logit: weight.logit, hubness: weight.hubness }
}

fn quality(found: &Found) -> v1::RetrievalQuality {
    let Found { at_1, at_5, at_10, mrr, ndcg } = *found;
    v1::RetrievalQuality { recall_at_1: at_1, recall_at_5: at_5, recall_at_10: at_10, mrr, ndcg_at_10: ndcg }
}
