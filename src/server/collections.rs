//! The Collections service.

use std::sync::Arc;

use firn_index::{CollectionConfig, CollectionInfo, Error};
use firn_proto::v1::{
    self, CollectionExistsRequest, CollectionExistsResponse, CreateCollectionRequest, CreateCollectionResponse,
    DeleteCollectionRequest, DeleteCollectionResponse, GetCollectionRequest, GetCollectionResponse,
    ListCollectionsRequest, ListCollectionsResponse, SetBlendRequest, SetBlendResponse, UpdateAliasesRequest,
    UpdateAliasesResponse,
};
use tonic::{Request, Response, Status};

use super::{convert, limits, shared::Shared, status::Problem, work};
use crate::{
    engine,
    query::{self, Blend},
};

pub struct Collections(pub Arc<Shared>);

#[tonic::async_trait]
impl v1::collections_server::Collections for Collections {
    async fn create(
        &self,
        request: Request<CreateCollectionRequest>,
    ) -> Result<Response<CreateCollectionResponse>, Status> {
        let (shared, request) = (self.0.clone(), request.into_inner());
        let collection = work::run(move || {
            convert::collection_name(&request.collection_name)?;
            let name = request.collection_name.clone();
            let config = config(&shared, request)?;
            let made = shared.engine()?.db().create_collection(&name, config);
            Ok(made.map_err(|error| of_vectors(error, &name))?.info())
        });
        let collection = Some(convert::collection_out(collection.await?, None));
        Ok(Response::new(CreateCollectionResponse { collection }))
    }

    async fn get(&self, request: Request<GetCollectionRequest>) -> Result<Response<GetCollectionResponse>, Status> {
        let name = request.into_inner().collection_name;
        convert::collection_name(&name)?;
        let info = self.0.engine()?.db().collection_info(&name).map_err(Problem::from)?;
        Ok(Response::new(GetCollectionResponse { collection: Some(self.description(info)?) }))
    }

    async fn list(
        &self,
        request: Request<ListCollectionsRequest>,
    ) -> Result<Response<ListCollectionsResponse>, Status> {
        let ListCollectionsRequest { limit, page } = request.into_inner();
        let limit = page_limit(limit)?;
        // The token is the last name of the page before: it stays right when collections come and go.
        let mut after = self.0.engine()?.db().collections();
        after.retain(|info| info.name > page);
        let has_more = after.len() > limit;
        after.truncate(limit);
        let next_page = if has_more { after.last().map(|info| info.name.clone()) } else { None };
        let collections = after.into_iter().map(|info| self.description(info)).collect::<Result<_, Problem>>()?;
        Ok(Response::new(ListCollectionsResponse { collections, next_page: next_page.unwrap_or_default() }))
    }

    async fn delete(
        &self,
        request: Request<DeleteCollectionRequest>,
    ) -> Result<Response<DeleteCollectionResponse>, Status> {
        let (shared, name) = (self.0.clone(), request.into_inner().collection_name);
        convert::collection_name(&name)?;
        let delete = move || {
            let engine = shared.engine()?;
            let info = engine.db().collection_info(&name);
            engine.db().delete_collection(&name)?;
            if let Ok(info) = info {
                engine.rerankers().forget(&info.uuid);
            }
            Ok(())
        };
        work::run(delete).await?;
        Ok(Response::new(DeleteCollectionResponse {}))
    }

    async fn exists(
        &self,
        request: Request<CollectionExistsRequest>,
    ) -> Result<Response<CollectionExistsResponse>, Status> {
        let name = request.into_inner().collection_name;
        convert::collection_name(&name)?;
        let exists = match self.0.engine()?.db().collection_info(&name) {
            Ok(_) => true,
            Err(Error::CollectionNotFound { .. }) => false,
            Err(error) => return Err(Problem::from(error).into()),
        };
        Ok(Response::new(CollectionExistsResponse { exists }))
    }

    async fn update_aliases(
        &self,
        request: Request<UpdateAliasesRequest>,
    ) -> Result<Response<UpdateAliasesResponse>, Status> {
        let (shared, changes) = (self.0.clone(), request.into_inner().changes);
        convert::within("changes", changes.len(), 1, limits::MAX_ALIAS_CHANGES)?;
        let change = |(at, change)| convert::alias_change_in(change, &format!("changes[{at}]"));
        let changes = changes.into_iter().enumerate().map(change).collect::<Result<Vec<_>, Problem>>()?;
        work::run(move || Ok(shared.engine()?.db().update_aliases(&changes)?)).await?;
        Ok(Response::new(UpdateAliasesResponse {}))
    }

    async fn set_blend(&self, request: Request<SetBlendRequest>) -> Result<Response<SetBlendResponse>, Status> {
        let SetBlendRequest { collection_name, weights } = request.into_inner();
        let collection = self.0.collection(&collection_name)?;
        let set = move || {
            match weights.is_empty() {
                true => Blend::clear(&collection)?,
                false => Blend::new(weights.into_iter().collect()).write(&collection)?,
            }
            Ok(collection.info())
        };
        let info = work::run(move || set().map_err(|problem: query::Error| of_weights(problem.into()))).await?;
        Ok(Response::new(SetBlendResponse { collection: Some(self.description(info)?) }))
    }
}

impl Collections {
    /// A collection with its blend; one that is quarantined, or whose blend is damaged, is described without.
    fn description(&self, info: CollectionInfo) -> Result<v1::CollectionDescription, Problem> {
        let collection = self.0.engine()?.db().collection(&info.name);
        let blend = collection.ok().and_then(|collection| Blend::read(&collection).ok().flatten());
        Ok(convert::collection_out(info, blend))
    }
}

/// The index checks vector names as it checks the collection's: which of them was wrong is seen by the name.
fn of_vectors(error: Error, collection: &str) -> Problem {
    let is_of_vector = matches!(&error, Error::InvalidName { name } if name != collection);
    let problem = Problem::from(error);
    if is_of_vector { Problem { field: "vectors".to_owned(), ..problem } } else { problem }
}

/// A query calls them its blend.
fn of_weights(problem: Problem) -> Problem {
    if problem.field == "blend" { Problem { field: "weights".to_owned(), ..problem } } else { problem }
}

/// The size of a page that was asked for.
pub fn page_limit(limit: u32) -> Result<usize, Problem> {
    if limit == 0 {
        return Ok(limits::DEFAULT_PAGE);
    }
    convert::within("limit", limit as usize, 1, limits::MAX_PAGE)?;
    Ok(limit as usize)
}

/// A named model, or the server's own when nothing is said of vectors; else none.
fn config(shared: &Shared, request: CreateCollectionRequest) -> Result<CollectionConfig, Problem> {
    let grid = convert::grid_in(request.token_grid, "token_grid")?;
    let (hnsw, tokens) = (convert::hnsw_in(request.hnsw), convert::token_shapes_in(request.tokens));
    if grid.is_some() && !tokens.is_empty() {
        return Err(Problem::invalid("token_grid", "INVALID_SETTING", "expected tokens or token_grid, received both"));
    }
    if request.model.is_empty() && !request.vectors.is_empty() {
        if grid.is_some() {
            return Err(Problem::invalid("token_grid", "NO_MODEL", "expected a model that makes the tokens"));
        }
        let vectors = convert::vectors_in(request.vectors, None, shared.engine()?)?;
        return Ok(CollectionConfig { model: None, vectors, hnsw, tokens });
    }
    let encoder = shared.engine()?.encoder(Some(&request.model))?;
    let vectors = convert::vectors_in(request.vectors, Some(encoder.as_ref()), shared.engine()?)?;
    let config = engine::collection_config(encoder.info(), vectors, hnsw, grid)?;
    if grid.is_some() {
        return Ok(config);
    }
    convert::check_token_shapes(&tokens, encoder.info())?;
    Ok(CollectionConfig { tokens, ..config })
}
