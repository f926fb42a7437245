//! The networks of a server's collections: the same questions and answers as of the local directory.

use std::time::Duration;

use firn_client::{Client, Error, v1};
use firn_index::ModelRef;
use firn_model::fusion::{Direction, Found, Gain, Weight};
use tonic::Code;

use super::call;
use crate::{
    cmd::reranker::Shown,
    reranker::{Judged, Judging, Length, Reads, Training},
    server::rerankers::{parting, parting_in},
};

/// Between two looks at a job.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// All versions, oldest first, and the number of the active one.
pub fn list(server: &str, collection: &str) -> anyhow::Result<(Vec<Shown>, Option<u32>)> {
    let listed = call(server, async |client| client.rerankers(collection).await)?;
    let active = listed.iter().find(|version| version.active).map(|version| version.version);
    Ok((listed.into_iter().map(shown).collect::<Result<_, Error>>()?, active))
}

pub fn activate(server: &str, collection: &str, number: u32, force: bool) -> anyhow::Result<()> {
    call(server, async |client| client.activate_reranker(collection, number, force).await)
}

/// What is active now.
pub fn roll_back(server: &str, collection: &str) -> anyhow::Result<Option<u32>> {
    call(server, async |client| client.roll_back_reranker(collection).await)
}

/// The version that came of it; none if it was cancelled, here or elsewhere. `look` is told how far it is.
pub fn train(
    server: &str,
    collection: &str,
    training: &Training,
    look: &mut dyn FnMut(&v1::Job),
) -> anyhow::Result<Option<(Shown, bool)>> {
    let request = training_request(collection, training);
    call(server, async |client| {
        let job = client.train_reranker(request).await?;
        follow(&client, job, look).await
    })
}

/// The same, of a judgement.
pub fn evaluate(
    server: &str,
    collection: &str,
    Judging { number, seed, keep }: Judging,
    look: &mut dyn FnMut(&v1::Job),
) -> anyhow::Result<Option<(Shown, bool)>> {
    let request = v1::EvaluateRerankerRequest {
        collection_name: collection.to_owned(),
        version: number,
        seed: Some(seed),
        report_only: !keep,
    };
    call(server, async |client| {
        let job = client.evaluate_reranker(request).await?;
        follow(&client, job, look).await
    })
}

/// Until the job has ended. Ctrl-C cancels it; a second one leaves at once.
async fn follow(
    client: &Client,
    mut job: v1::Job,
    look: &mut dyn FnMut(&v1::Job),
) -> Result<Option<(Shown, bool)>, Error> {
    let (mut interrupt, mut is_cancelled) = (Box::pin(tokio::signal::ctrl_c()), false);
    let mut pause = Duration::ZERO;
    loop {
        // First of all, so that it is listened to before anybody is told of it.
        tokio::select! {
            biased;
            Ok(()) = &mut interrupt => {
                if is_cancelled {
                    std::process::exit(130);
                }
                (interrupt, is_cancelled) = (Box::pin(tokio::signal::ctrl_c()), true);
                job = client.cancel_job(&job.id).await?;
            }
            () = tokio::time::sleep(pause) => job = client.job(&job.id).await.map_err(|error| lost(error, &job.id))?,
        }
        pause = LOOK_EVERY;
        look(&job);
        match job.state() {
            v1::JobState::Done => {
                let description = job.reranker.ok_or_else(|| incomplete("network"))?;
                let is_active = description.active;
                return Ok(Some((shown(description)?, is_active)));
            }
            v1::JobState::Cancelled => return Ok(None),
            v1::JobState::Failed => {
                let (reason, message) = (job.error_reason, job.error_message);
                let code = Code::from(job.error_code);
                return Err(Error { code, reason, message, fields: Vec::new(), retry_after: None });
            }
            _ => {}
        }
    }
}

/// Nobody knows what becomes of the work of a server that does not answer.
fn lost(error: Error, id: &str) -> Error {
    let message = format!("{}; job {id} goes on if the server does, and is gone if it stopped", error.message);
    Error { message, ..error }
}

fn training_request(collection: &str, training: &Training) -> v1::TrainRerankerRequest {
    let plan = &training.plan;
    let size = |number: usize| Some(u32::try_from(number).unwrap_or(u32::MAX));
    v1::TrainRerankerRequest {
        collection_name: collection.to_owned(),
        kind: Some(training.kind()),
        using: Some(training.using.clone()),
        extra: training.extra.clone(),
        seed: Some(plan.seed),
        steps: training.n_steps,
        candidates: size(training.candidates),
        parting: Some(parting(&training.parting)),
        recipe: Some(v1::RerankerRecipe {
            dim: size(plan.sizes.dim),
            layers: size(plan.sizes.n_layers),
            heads: size(plan.sizes.n_heads),
            wide: size(plan.sizes.wide),
            rate: Some(plan.recipe.rate),
            decay: Some(plan.recipe.decay),
            lists: size(plan.n_lists),
            list_length: size(plan.list_length),
            joined: Some(plan.joined),
            image_to_text: Some(plan.image_to_text),
            dropout: Some(plan.dropout),
            image_dropout: Some(plan.image_dropout),
            smoothing: Some(plan.losses.smoothing),
            list_weight: Some(plan.losses.contrastive),
            pair_weight: Some(plan.losses.matching),
            added_weight: Some(plan.losses.regularisation),
            evaluate_every: Some(plan.evaluate_every),
            patience: size(plan.patience),
            nearest: size(plan.n_nearest),
            block: size(plan.block),
            tokens_only: Some(plan.sizes.tokens_only),
            share: Some(plan.sizes.share),
            joined_in_part: Some(plan.joined_in_part),
        }),
        activate: training.activate,
        members: size(training.n_members),
        crowd: size(training.crowd),
    }
}

fn shown(version: v1::RerankerDescription) -> Result<Shown, Error> {
    let v1::RerankerReads { vector, tokens, extra, model, model_hash } =
        version.reads.ok_or_else(|| incomplete("word of what a network reads"))?;
    let model = ModelRef { name: model, hash: model_hash };
    Ok(Shown {
        number: version.version,
        kind: version.kind,
        members: version.members,
        parameters: version.parameters,
        seed: version.seed,
        steps: version.steps,
        made_at: version.made_at,
        reads: Reads { image: vector, extra, tokens, model },
        blend: version.blend.into_iter().collect(),
        weights: [version.text_to_image_weight, version.image_to_text_weight].map(weight),
        parting: parting_in(version.parting),
        candidates: version.candidates as usize,
        calibration_error: version.calibration_error,
        judged: version.gains.into_iter().map(judged).collect(),
        judged_elsewhere: version.judged_elsewhere,
    })
}

fn judged(gain: v1::RerankGain) -> Judged {
    let direction = match gain.direction() {
        v1::RerankDirection::ImageToText => Direction::ImageToText,
        _ => Direction::TextToImage,
    };
    let found = |quality: Option<v1::RetrievalQuality>| {
        let v1::RetrievalQuality { recall_at_1, recall_at_5, recall_at_10, mrr, ndcg_at_10 } =
            quality.unwrap_or_default();
        Found { at_1: recall_at_1, at_5: recall_at_5, at_10: recall_at_10, mrr, ndcg: ndcg_at_10 }
    };
    Judged {
        direction,
        language: gain.language,
        length: if gain.joined { Length::Joined } else { Length::Single },
        gain: Gain {
            n_questions: gain.questions_count as usize,
            n_images: gain.images_count as usize,
            cosine: found(gain.cosine),
            without_logit: found(gain.without_logit),
            reranked: found(gain.reranked),
            interval: [gain.interval_low, gain.interval_high],
            interval_of_logit: [gain.logit_interval_low, gain.logit_interval_high],
            p: gain.p,
            weights: gain.fold_weights.into_iter().map(|of| weight(Some(of))).collect(),
        },
    }
}

fn weight(weight: Option<v1::RerankWeight>) -> Weight {
    let v1::RerankWeight { logit, hubness } = weight.unwrap_or_default();
    Weight { logit, hubness }
}

fn incomplete(what: &str) -> Error {
    let (reason, message) = ("INCOMPLETE_REPLY".to_owned(), format!("the server's reply has no {what}"));
    Error { code: Code::Internal, reason, message, fields: Vec::new(), retry_after: None }
}

#[cfg(test)]
mod tests {
    use firn_model::fusion::Kind;

    use super::*;
    use crate::{reranker::Parting, server::rerankers::training_in};

    /// A server learns as the terminal would: nothing that can be said is lost on the way, and every default is the same.
    #[test]
    fn a_server_is_asked_for_the_same_training() {
        let check = |training: &Training| {
            let received = training_in(training_request("c", training)).unwrap_or_else(|_| panic!("was refused"));
            assert_eq!(&received, training);
        };
        check(&Training::new(vec![Kind::FacetFusionOneWay], None, 1));
        let mut training = Training::new(vec![Kind::Mlp, Kind::MaxSim], Some(30), 7);
        (training.n_members, training.candidates, training.activate) = (3, 20, true);
        training.crowd = 99;
        (training.using, training.extra) = ("left".to_owned(), Some("raw".to_owned()));
        let group = Some("family".to_owned());
        training.parting =
            Parting { split: "part".into(), group, held_out: 0.2, among_group: true, ..Parting::default() };
        let plan = &mut training.plan;
        (plan.sizes.dim, plan.sizes.n_layers, plan.sizes.n_heads, plan.sizes.wide) = (64, 3, 2, 96);
        (plan.sizes.share, plan.recipe.rate, plan.recipe.decay) = (0.7, 2e-3, 0.01);
        (plan.n_lists, plan.list_length, plan.n_nearest, plan.block) = (12, 9, 40, 5);
        (plan.joined, plan.joined_in_part, plan.image_to_text) = (0.1, 0.3, 0.25);
        (plan.dropout, plan.image_dropout, plan.losses.smoothing) = (0.15, 0.35, 0.02);
        (plan.losses.contrastive, plan.losses.matching, plan.losses.regularisation) = (2.0, 0.5, 0.04);
        (plan.evaluate_every, plan.patience) = (33, 4);
        check(&training);
        check(&Training::new(Vec::new(), None, 1));
    }
}
