//! Learned fusion: networks that look at a text and an image together and say how well they belong together, over stored
//! vectors and tokens alone (FrEVL, arXiv 2508.04469; tokens, null key and the one-way variant are ours).
//!
//! A network never starts from nothing: its score is a multiple of the cosine plus what it has learnt to add, which is
//! little at first. [`train`] learns from pairs with hard negatives, [`Reranking`] says what the order is worth on held-out ones.

mod calibration;
mod checkpoint;
mod data;
mod draws;
mod ensemble;
mod folded;
mod half_dense;
mod hubs;
mod lists;
mod looking;
mod loss;
mod matrix;
mod network;
mod rerank;
mod side;
#[cfg(test)]
mod tests;
mod trainer;
mod weights;

pub use self::{
    calibration::Calibration,
    data::{Items, Pairs},
    ensemble::{Ensemble, MAX_MEMBERS},
    hubs::{Crowd, Crowds, Hubs, MAX_CROWD, Telling},
    lists::Search,
    loss::Losses,
    network::{Kind, Network, Shape, SideShape, Sizes},
    rerank::{Chosen, Cosines, Direction, Found, Gain, Reranking, Scorer},
    trainer::{Checkpoint, Mining, Options, Plan, Progress, train},
    weights::{LEAST_OF_LOT, Weight, Weights},
};
