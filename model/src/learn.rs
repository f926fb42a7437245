//! What is learnt with candle's gradients is made of these: parameters with names, layers, operations with fast gradients,
//! AdamW. `align` trains encoders with them, `fusion` re-rankers.

pub(crate) mod layers;
pub(crate) mod noise;
pub(crate) mod ops;
pub(crate) mod optimizer;
pub(crate) mod parameters;
pub(crate) mod tensors;
