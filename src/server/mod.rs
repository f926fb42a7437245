//! The network: a thin skin that converts in, asks, and converts out.

pub mod settings;
