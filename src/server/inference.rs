//! The Inference service: the encoders, usable alone.

use std::sync::Arc;

use firn_index::Limits;
use firn_model::{Encoder, Error, Keep, picture};
use firn_proto::v1::{
    self, EmbedError, EmbedInput, EmbedRequest, EmbedResponse, EmbedStreamRequest, EmbedStreamResponse, Embedding,
    InfoRequest, InfoResponse, RerankRequest, RerankResponse, embed_input, embed_stream_response,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    convert, limits, rerank,
    shared::Shared,
    status::{Problem, of_transport, reply_too_large, shutting_down},
    work::{self, Work},
};
use crate::query;

pub struct Inference(pub Arc<Shared>);

type Replies = mpsc::Sender<Result<EmbedStreamResponse, Status>>;

#[tonic::async_trait]
impl v1::inference_server::Inference for Inference {
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let models = self.0.engine()?.models();
        Ok(Response::new(InfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            models: models.iter().map(|encoder| convert::model_out(encoder.info())).collect(),
            limits: Some(self.limits()),
        }))
    }

    async fn embed(&self, request: Request<EmbedRequest>) -> Result<Response<EmbedResponse>, Status> {
        let EmbedRequest { model, inputs, tokens } = request.into_inner();
        let encoder = self.encoder(&model)?;
        let keep = keep(encoder.as_ref(), tokens)?;
        convert::within("inputs", inputs.len(), 1, limits::MAX_EMBED_INPUTS)?;
        let (mut embeddings, mut bytes) = (Vec::with_capacity(inputs.len()), 0);
        let mut inputs = inputs.into_iter().peekable();
        while inputs.peek().is_some() {
            // Pictures are decoded side by side; what then waits for the device goes through it as one batch.
            let started = inputs.by_ref().take(limits::AT_ONCE).map(|input| start(&encoder, Some(input), keep));
            for work in started.collect::<Vec<_>>() {
                let field = format!("inputs[{}]", embeddings.len());
                let embedding = work.answer().await.map_err(|problem| problem.within(&field))?;
                bytes += embedding.encoded_len();
                if bytes > self.0.settings.max_message_bytes {
                    return Err(reply_too_large(self.0.settings.max_message_bytes).into());
                }
                embeddings.push(embedding);
            }
        }
        Ok(Response::new(EmbedResponse { embeddings }))
    }

    async fn rerank(&self, request: Request<RerankRequest>) -> Result<Response<RerankResponse>, Status> {
        let given = rerank::given_in(request.into_inner())?;
        let shared = self.0.clone();
        let scored = work::run(move || Ok(query::score(shared.engine()?, &given)?)).await?;
        Ok(Response::new(rerank::scored_out(scored)))
    }

    type EmbedStreamStream = ReceiverStream<Result<EmbedStreamResponse, Status>>;

    async fn embed_stream(
        &self,
        request: Request<Streaming<EmbedStreamRequest>>,
    ) -> Result<Response<Self::EmbedStreamStream>, Status> {
        let pass = self.0.gate.stream()?;
        let (replies, received) = mpsc::channel(limits::AT_ONCE);
        let (shared, messages) = (self.0.clone(), request.into_inner());
        tokio::spawn(async move {
            let _until_the_end = pass;
            if let Err(status) = session(&shared, messages, &replies).await {
                let _ = replies.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(received)))
    }
}

impl Inference {
    fn encoder(&self, model: &str) -> Result<Arc<dyn Encoder>, Problem> {
        Ok(self.0.engine()?.encoder(Some(model))?)
    }

    fn limits(&self) -> v1::Limits {
        v1::Limits {
            max_message_bytes: self.0.settings.max_message_bytes as u64,
            max_image_pixels: picture::MAX_PIXELS,
            max_points_per_upsert: limits::MAX_POINTS as u32,
            max_queries_per_batch: limits::MAX_QUERIES as u32,
            max_embed_inputs: limits::MAX_EMBED_INPUTS as u32,
            max_rerank_candidates: limits::MAX_RERANK_CANDIDATES as u32,
            max_texts_per_point: Limits::MAX_TEXTS as u32,
            max_text_bytes: Limits::MAX_TEXT_BYTES as u32,
            max_limit: query::Limits::MAX_LIMIT as u32,
        }
    }
}

/// Reads inputs and answers them in order; up to AT_ONCE are in work.
async fn session(
    shared: &Arc<Shared>,
    messages: Streaming<EmbedStreamRequest>,
    replies: &Replies,
) -> Result<(), Status> {
    let (jobs, mut taken) = mpsc::channel::<Work<Embedding>>(limits::AT_ONCE);
    let answers = replies.clone();
    let answering = tokio::spawn(async move {
        while let Some(work) = taken.recv().await {
            let reply = reply(work.answer().await);
            if answers.send(Ok(reply)).await.is_err() {
                return;
            }
        }
    });
    let end = read_all(shared, messages, jobs).await;
    let _ = answering.await;
    end
}

async fn read_all(
    shared: &Shared,
    mut messages: Streaming<EmbedStreamRequest>,
    jobs: mpsc::Sender<Work<Embedding>>,
) -> Result<(), Status> {
    let mut stopping = shared.stopping.subscribe();
    let mut encoder: Option<(Arc<dyn Encoder>, Keep)> = None;
    loop {
        let message = tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => return Err(shutting_down().into()),
            () = jobs.closed() => return Ok(()),
            message = messages.message() => message.map_err(of_transport)?,
        };
        let Some(EmbedStreamRequest { model, input, tokens }) = message else { return Ok(()) };
        let (encoder, keep) = match &encoder {
            Some(encoder) => encoder,
            None => {
                let found = shared.engine()?.encoder(Some(&model)).map_err(Problem::from)?;
                let keep = keep(found.as_ref(), tokens)?;
                encoder.insert((found, keep))
            }
        };
        if jobs.send(start(encoder, input, *keep)).await.is_err() {
            return Ok(());
        }
    }
}

fn start(encoder: &Arc<dyn Encoder>, input: Option<EmbedInput>, keep: Keep) -> Work<Embedding> {
    let encoder = encoder.clone();
    work::start(move || embed(encoder.as_ref(), input, keep))
}

/// What the request wants beside embeddings, if the model has it.
fn keep(encoder: &dyn Encoder, grid: i32) -> Result<Keep, Problem> {
    let Some(grid) = convert::grid_in(grid, "tokens")? else { return Ok(Keep::Nothing) };
    let shapes = encoder.info().token_shapes(grid);
    if shapes.image.or(shapes.text).is_none() {
        let message = format!("the model {:?} keeps no tokens", encoder.info().name);
        return Err(Problem::invalid("tokens", "NO_TOKENS", message));
    }
    Ok(Keep::Tokens(grid))
}

fn embed(encoder: &dyn Encoder, input: Option<EmbedInput>, keep: Keep) -> Result<Embedding, Problem> {
    const ONE: &str = "an encoder gives one embedding an input";
    match input.and_then(|input| input.kind) {
        None => Err(Problem::invalid("", "MISSING_FIELD", "expected a text or an image, received nothing")),
        Some(embed_input::Kind::Text(text)) => {
            convert::within("text", text.len(), 0, Limits::MAX_TEXT_BYTES)?;
            if text.trim().is_empty() {
                return Err(Error::EmptyText.into());
            }
            let embedded = encoder.embed_texts(&[&text], keep)?.pop().expect(ONE);
            Ok(Embedding {
                vector: Some(convert::vector_out(&embedded.embedding)),
                tokens_used: embedded.tokens_used as u32,
                tokens_cut: embedded.tokens_cut as u32,
                tokens: convert::fusion_tokens_out(embedded.fusion_tokens),
            })
        }
        Some(embed_input::Kind::Image(bytes)) => {
            let pixels = encoder.preprocess(&picture::decode(&bytes)?.rgb)?;
            let embedded = encoder.embed_images(&[pixels], keep)?.pop().expect(ONE);
            Ok(Embedding {
                vector: Some(convert::vector_out(&embedded.embedding)),
                tokens: convert::fusion_tokens_out(embedded.fusion_tokens),
                ..Embedding::default()
            })
        }
    }
}

fn reply(result: Result<Embedding, Problem>) -> EmbedStreamResponse {
    let result = match result {
        Ok(embedding) => embed_stream_response::Result::Embedding(embedding),
        Err(problem) => embed_stream_response::Result::Error(EmbedError {
            code: problem.code as i32,
            reason: problem.reason.to_owned(),
            message: problem.text(),
        }),
    };
    EmbedStreamResponse { result: Some(result) }
}
