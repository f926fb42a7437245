//! The Rerankers service.

use std::sync::Arc;

use firn_model::fusion::{Direction, Found};
use firn_proto::v1::{
    self, ActivateRerankerRequest, ActivateRerankerResponse, ListRerankersRequest, ListRerankersResponse,
    RollbackRerankerRequest, RollbackRerankerResponse,
};
use tonic::{Request, Response, Status};

use super::{shared::Shared, status::Problem, work};
use crate::reranker::{Error, Judged, Length, State, Version};

pub struct Rerankers(pub Arc<Shared>);

#[tonic::async_trait]
impl v1::rerankers_server::Rerankers for Rerankers {
    async fn list(&self, request: Request<ListRerankersRequest>) -> Result<Response<ListRerankersResponse>, Status> {
        let name = request.into_inner().collection_name;
        let (shared, collection) = (self.0.clone(), self.0.collection(&name)?);
        let state = work::run(move || Ok(shared.engine()?.rerankers().state(&collection)?)).await?;
        let of = |version: &Version| description(version, state.active);
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
        change: impl FnOnce(State, &firn_index::Collection) -> Result<State, Error> + Send + 'static,
    ) -> Result<State, Problem> {
        let (shared, collection) = (self.0.clone(), self.0.collection(name)?);
        work::run(move || Ok(shared.engine()?.rerankers().change(&collection, |state| change(state, &collection))?))
            .await
    }
}

fn description(version: &Version, active: Option<u32>) -> v1::RerankerDescription {
    v1::RerankerDescription {
        version: version.number,
        kind: version.kind.clone(),
        parameters: version.parameters,
        seed: version.seed,
        steps: version.steps,
        made_at: version.made_at,
        active: active == Some(version.number),
        blend: version.blend.clone().into_iter().collect(),
        candidates: version.candidates as u32,
        gains: version.judged.iter().map(gain).collect(),
        calibration_error: version.calibration.as_ref().map(|calibration| calibration.error),
    }
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
    }
}

fn quality(found: &Found) -> v1::RetrievalQuality {
    let Found { at_1, at_5, at_10, mrr, ndcg } = *found;
    v1::RetrievalQuality { recall_at_1: at_1, recall_at_5: at_5, recall_at_10: at_10, mrr, ndcg_at_10: ndcg }
}
