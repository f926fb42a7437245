//! Where points go. This crate writes to an open collection; the command has another sink that writes to a server.

use std::error::Error;

use firn_index::{Collection, Fields, Limits, NewPoint, PointId};

use crate::{ItemError, embed::Input, identity::Key};

/// A point on its way; the number is the pipeline's own.
pub type Ticket = u64;
/// What ends the run: a full disk, a server that is gone.
pub type SinkError = Box<dyn Error + Send + Sync>;

/// How a point ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is on disk.
    Written { truncated_texts: usize },
    /// It will be refused again.
    Refused { reason: String, message: String },
}

impl From<&ItemError> for Outcome {
    fn from(error: &ItemError) -> Self {
        Outcome::Refused { reason: error.reason().to_owned(), message: error.to_string() }
    }
}

/// Writes points. Answers may come later than their batch, in any order; no id stands twice in one run.
pub trait Sink {
    /// Whether points must be embedded before they come here.
    fn needs_vectors(&self) -> bool;

    /// Shows the id of every point that is there.
    fn each_id(&mut self, see: &mut dyn FnMut(&PointId)) -> Result<(), SinkError>;

    /// Says what a point was made from that comes next under this ticket, for a sink that keeps its own book.
    fn announce(&mut self, _ticket: Ticket, _key: Key) {}

    /// Takes a batch (an empty one only asks for answers) and adds the answers that are known to `settled`. They count even
    /// when an error follows.
    fn put(&mut self, batch: Vec<(Ticket, Input)>, settled: &mut Vec<(Ticket, Outcome)>) -> Result<(), SinkError>;

    /// Waits for answers that are missing, and adds at least one. It is called while there are some.
    fn wait(&mut self, settled: &mut Vec<(Ticket, Outcome)>) -> Result<(), SinkError>;

    /// Ends what was begun; every point is settled.
    fn finish(&mut self) -> Result<(), SinkError>;
}

/// Writes to a collection of an open database: a batch is one commit.
pub struct CollectionSink {
    collection: Collection,
}

impl CollectionSink {
    pub fn new(collection: Collection) -> Self {
        CollectionSink { collection }
    }
}

impl Sink for CollectionSink {
    fn needs_vectors(&self) -> bool {
        true
    }

    fn each_id(&mut self, see: &mut dyn FnMut(&PointId)) -> Result<(), SinkError> {
        let reader = self.collection.reader();
        let mut next = Some(0);
        while let Some(from) = next {
            let page = reader.scroll(from, Limits::MAX_LIMIT, Fields::default())?;
            page.points.iter().for_each(|point| see(&point.id));
            next = page.next;
        }
        Ok(())
    }

    fn put(&mut self, batch: Vec<(Ticket, Input)>, settled: &mut Vec<(Ticket, Outcome)>) -> Result<(), SinkError> {
        let mut tickets = Vec::with_capacity(batch.len());
        let mut points = Vec::with_capacity(batch.len());
        for (ticket, Input { id, texts, payload, vectors, tokens, .. }) in batch {
            let point = NewPoint { id, texts, payload, vectors, tokens };
            match self.collection.check(&point) {
                Ok(()) => {
                    tickets.push(ticket);
                    points.push(point);
                }
                Err(error) => settled.push((ticket, Outcome::from(&ItemError::from(error)))),
            }
        }
        if !points.is_empty() {
            self.collection.upsert(points)?;
        }
        settled.extend(tickets.into_iter().map(|ticket| (ticket, Outcome::Written { truncated_texts: 0 })));
        Ok(())
    }

    fn wait(&mut self, _settled: &mut Vec<(Ticket, Outcome)>) -> Result<(), SinkError> {
        unreachable!("`put` answers every point at once")
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}
