//! One connection to a server, and a method for every call.

use std::{collections::HashMap, time::Duration};

use firn_proto::v1::{
    ActivateRerankerRequest, AliasChange, CancelJobRequest, CollectionDescription, CollectionExistsRequest,
    CountRequest, CreateCollectionRequest, DeleteCollectionRequest, DeleteRequest, DeleteResponse, EmbedInput,
    EmbedRequest, Embedding, EvaluateRerankerRequest, GetCollectionRequest, GetJobRequest, GetRequest, Include,
    InfoRequest, InfoResponse, Job, ListCollectionsRequest, ListRerankersRequest, Point, PointId, PointInput,
    QueryBatchRequest, QueryRequest, QueryResponse, QueryResult, RerankRequest, RerankResponse, RerankerDescription,
    RollbackRerankerRequest, ScrollRequest, ScrollResponse, SetBlendRequest, SetPayloadRequest, SetPayloadResponse,
    TokenGrid, TrainRerankerRequest, UpdateAliasesRequest, UpsertRequest, UpsertResponse,
    collections_client::CollectionsClient, inference_client::InferenceClient, points_client::PointsClient,
    rerankers_client::RerankersClient,
};
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

use crate::Error;

/// A connection to one server. Clones share it, and calls may run at the same time.
#[derive(Clone, Debug)]
pub struct Client {
    collections: CollectionsClient<Channel>,
    points: PointsClient<Channel>,
    inference: InferenceClient<Channel>,
    rerankers: RerankersClient<Channel>,
    timeout: Option<Duration>,
}

/// How a client connects and calls.
#[derive(Clone, Debug)]
pub struct Options {
    pub connect_timeout: Duration,
    /// The deadline of each call but the streams; none by default.
    pub timeout: Option<Duration>,
    /// Largest message that is sent or received. The server has a limit of its own: see `InfoResponse.limits`.
    pub max_message_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { connect_timeout: Duration::from_secs(10), timeout: None, max_message_bytes: 64 << 20 }
    }
}

impl Client {
    /// Connects to an address such as `http://127.0.0.1:50051`, or the same without `http://`.
    pub async fn connect(address: &str) -> Result<Self, Error> {
        Client::connect_with(address, Options::default()).await
    }

    pub async fn connect_with(address: &str, options: Options) -> Result<Self, Error> {
        let endpoint = endpoint(address)?
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            // A server that vanished without a word is noticed within half a minute.
            .http2_keep_alive_interval(Duration::from_secs(15))
            .keep_alive_timeout(Duration::from_secs(15));
        // The timeout of the endpoint covers only TCP; a peer that accepts and is silent must not hold us.
        let connected = tokio::time::timeout(options.connect_timeout, endpoint.connect()).await;
        let channel = match connected {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(Error::not_connected(address, chain(&error))),
            Err(_) => return Err(Error::not_connected(address, "no answer in time")),
        };
        Ok(Client::over(channel, &options))
    }

    fn over(channel: Channel, options: &Options) -> Self {
        let max = options.max_message_bytes;
        Client {
            collections: CollectionsClient::new(channel.clone())
                .max_decoding_message_size(max)
                .max_encoding_message_size(max),
            points: PointsClient::new(channel.clone()).max_decoding_message_size(max).max_encoding_message_size(max),
            inference: InferenceClient::new(channel.clone())
                .max_decoding_message_size(max)
                .max_encoding_message_size(max),
            rerankers: RerankersClient::new(channel).max_decoding_message_size(max).max_encoding_message_size(max),
            timeout: options.timeout,
        }
    }

    /// The generated client, for calls as the protocol has them.
    pub fn collections_service(&self) -> CollectionsClient<Channel> {
        self.collections.clone()
    }

    /// The generated client, for calls as the protocol has them; `upsert_stream` is one.
    pub fn points_service(&self) -> PointsClient<Channel> {
        self.points.clone()
    }

    /// The generated client, for calls as the protocol has them; `embed_stream` is one.
    pub fn rerankers_service(&self) -> RerankersClient<Channel> {
        self.rerankers.clone()
    }

    pub fn inference_service(&self) -> InferenceClient<Channel> {
        self.inference.clone()
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        request
    }
}

/// Collections.
impl Client {
    pub async fn create_collection(&self, request: CreateCollectionRequest) -> Result<CollectionDescription, Error> {
        let reply = self.collections_service().create(self.request(request)).await?.into_inner();
        reply.collection.ok_or_else(|| Error::incomplete("collection"))
    }

    /// By name or alias.
    pub async fn get_collection(&self, name: &str) -> Result<CollectionDescription, Error> {
        let request = GetCollectionRequest { collection_name: name.to_owned() };
        let reply = self.collections_service().get(self.request(request)).await?.into_inner();
        reply.collection.ok_or_else(|| Error::incomplete("collection"))
    }

    /// Every collection, page by page, in the order of their names.
    pub async fn list_collections(&self) -> Result<Vec<CollectionDescription>, Error> {
        let mut service = self.collections_service();
        let mut collections = Vec::new();
        let mut page = String::new();
        loop {
            let request = ListCollectionsRequest { limit: 1000, page };
            let reply = service.list(self.request(request)).await?.into_inner();
            collections.extend(reply.collections);
            page = reply.next_page;
            if page.is_empty() {
                return Ok(collections);
            }
        }
    }

    pub async fn delete_collection(&self, name: &str) -> Result<(), Error> {
        let request = DeleteCollectionRequest { collection_name: name.to_owned() };
        self.collections_service().delete(self.request(request)).await?;
        Ok(())
    }

    pub async fn collection_exists(&self, name: &str) -> Result<bool, Error> {
        let request = CollectionExistsRequest { collection_name: name.to_owned() };
        Ok(self.collections_service().exists(self.request(request)).await?.into_inner().exists)
    }

    pub async fn update_aliases(&self, changes: Vec<AliasChange>) -> Result<(), Error> {
        self.collections_service().update_aliases(self.request(UpdateAliasesRequest { changes })).await?;
        Ok(())
    }

    /// Sets the weights by which queries are answered that name no vector; none: removes them.
    pub async fn set_blend(
        &self,
        collection: &str,
        weights: HashMap<String, f32>,
    ) -> Result<CollectionDescription, Error> {
        let request = SetBlendRequest { collection_name: collection.to_owned(), weights };
        let reply = self.collections_service().set_blend(self.request(request)).await?.into_inner();
        reply.collection.ok_or_else(|| Error::incomplete("collection"))
    }
}

/// Points.
impl Client {
    /// Writes up to 1000 points, all or none, and returns when they are on disk.
    pub async fn upsert(&self, collection: &str, points: Vec<PointInput>) -> Result<UpsertResponse, Error> {
        let request = UpsertRequest { collection_name: collection.to_owned(), points, no_wait: false };
        Ok(self.points_service().upsert(self.request(request)).await?.into_inner())
    }

    pub async fn delete(&self, collection: &str, ids: Vec<PointId>) -> Result<DeleteResponse, Error> {
        let request = DeleteRequest { collection_name: collection.to_owned(), ids };
        Ok(self.points_service().delete(self.request(request)).await?.into_inner())
    }

    /// In the order asked for; ids that do not exist are left out.
    pub async fn get(&self, collection: &str, ids: Vec<PointId>, include: Include) -> Result<Vec<Point>, Error> {
        let request = GetRequest { collection_name: collection.to_owned(), ids, include: Some(include) };
        Ok(self.points_service().get(self.request(request)).await?.into_inner().points)
    }

    pub async fn set_payload(&self, request: SetPayloadRequest) -> Result<SetPayloadResponse, Error> {
        Ok(self.points_service().set_payload(self.request(request)).await?.into_inner())
    }

    pub async fn query(&self, request: QueryRequest) -> Result<QueryResponse, Error> {
        Ok(self.points_service().query(self.request(request)).await?.into_inner())
    }

    /// One result or error for each query, in order.
    pub async fn query_batch(&self, queries: Vec<QueryRequest>) -> Result<Vec<QueryResult>, Error> {
        let request = self.request(QueryBatchRequest { queries });
        Ok(self.points_service().query_batch(request).await?.into_inner().results)
    }

    pub async fn scroll(&self, request: ScrollRequest) -> Result<ScrollResponse, Error> {
        Ok(self.points_service().scroll(self.request(request)).await?.into_inner())
    }

    pub async fn count(&self, collection: &str) -> Result<u64, Error> {
        let request = CountRequest { collection_name: collection.to_owned() };
        Ok(self.points_service().count(self.request(request)).await?.into_inner().count)
    }
}

/// Inference.
impl Client {
    pub async fn info(&self) -> Result<InfoResponse, Error> {
        Ok(self.inference_service().info(self.request(InfoRequest {})).await?.into_inner())
    }

    /// Embeds up to 256 inputs, all or none. An empty `model` is the server's own.
    pub async fn embed(&self, model: &str, inputs: Vec<EmbedInput>) -> Result<Vec<Embedding>, Error> {
        self.embed_with_tokens(model, inputs, TokenGrid::Unspecified).await
    }

    /// The same, each with its tokens, those of images in this grid.
    pub async fn embed_with_tokens(
        &self,
        model: &str,
        inputs: Vec<EmbedInput>,
        grid: TokenGrid,
    ) -> Result<Vec<Embedding>, Error> {
        let request = EmbedRequest { model: model.to_owned(), inputs, tokens: grid.into() };
        Ok(self.inference_service().embed(self.request(request)).await?.into_inner().embeddings)
    }
}

/// Rerankers.
impl Client {
    /// Starts to train a network.
    pub async fn train_reranker(&self, request: TrainRerankerRequest) -> Result<Job, Error> {
        job(self.rerankers_service().train(self.request(request)).await?.into_inner().job)
    }

    /// Starts to judge a version anew.
    pub async fn evaluate_reranker(&self, request: EvaluateRerankerRequest) -> Result<Job, Error> {
        job(self.rerankers_service().evaluate(self.request(request)).await?.into_inner().job)
    }

    /// How far a job is.
    pub async fn job(&self, id: &str) -> Result<Job, Error> {
        job(self.rerankers_service().get_job(self.request(GetJobRequest { id: id.to_owned() })).await?.into_inner().job)
    }

    /// Ends a job before its next step.
    pub async fn cancel_job(&self, id: &str) -> Result<Job, Error> {
        let request = CancelJobRequest { id: id.to_owned() };
        job(self.rerankers_service().cancel_job(self.request(request)).await?.into_inner().job)
    }

    /// How well given candidates belong to a text or an image, best first, without a search.
    pub async fn rerank(&self, request: RerankRequest) -> Result<RerankResponse, Error> {
        Ok(self.inference_service().rerank(self.request(request)).await?.into_inner())
    }

    /// The networks of a collection, oldest first.
    pub async fn rerankers(&self, collection: &str) -> Result<Vec<RerankerDescription>, Error> {
        let request = ListRerankersRequest { collection_name: collection.to_owned() };
        Ok(self.rerankers_service().list(self.request(request)).await?.into_inner().rerankers)
    }

    /// Lets queries use a network; `force` takes one that is not significantly better than cosine.
    pub async fn activate_reranker(&self, collection: &str, version: u32, force: bool) -> Result<(), Error> {
        let request = ActivateRerankerRequest { collection_name: collection.to_owned(), version, force };
        self.rerankers_service().activate(self.request(request)).await?;
        Ok(())
    }

    /// Lets queries use what they used before; the version that is active now, if one is.
    pub async fn roll_back_reranker(&self, collection: &str) -> Result<Option<u32>, Error> {
        let request = RollbackRerankerRequest { collection_name: collection.to_owned() };
        Ok(self.rerankers_service().rollback(self.request(request)).await?.into_inner().version)
    }
}

fn job(job: Option<Job>) -> Result<Job, Error> {
    job.ok_or_else(|| Error::incomplete("job"))
}

fn endpoint(address: &str) -> Result<Endpoint, Error> {
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    Endpoint::from_shared(url).map_err(|error| Error::not_connected(address, chain(&error)))
}

/// An error with its causes: the outermost alone says only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_there_is_said_with_the_address() {
        // Bound and dropped: nobody listens there now.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        for address in [address.as_str(), "not an address"] {
            let error = Client::connect(address).await.unwrap_err();
            assert_eq!((error.code, error.reason.as_str()), (tonic::Code::Unavailable, "NOT_CONNECTED"));
            assert!(error.message.contains(address), "{error}");
        }
    }

    #[tokio::test]
    async fn a_silent_peer_is_given_up() {
        // It accepts (the kernel does), and never says a word of HTTP/2.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let options = Options {
            connect_timeout: Duration::from_secs(5),
            timeout: Some(Duration::from_millis(50)),
            ..Default::default()
        };
        // HTTP/2 lets a client speak first, so connecting may succeed; the call then meets its deadline.
        let error = match Client::connect_with(&address, options).await {
            Ok(client) => client.info().await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.code, tonic::Code::DeadlineExceeded, "{error:?}");
    }
}
