//! A run on disk: weights, their running mean, the optimiser's moments, the best so far, and the plan and data it belongs to. What is
//! drawn and dropped follows from seed and step, so a run that goes on is the unbroken one to the bit (on a CPU).

use std::path::Path;

use candle_core::Tensor;

use super::{Plan, trainer::Run};
use crate::{
    Error, Result,
    learn::tensors::{read_tensors, weights, write_tensors},
};

const KEY: &str = "firn.fusion.run";

#[derive(serde::Serialize, serde::Deserialize)]
struct Header {
    plan: Plan,
    /// What the data were.
    data: String,
    step: u64,
    n_worse: usize,
    /// R@1 and step of the best so far.
    best: Option<(f64, u64)>,
}

impl Run {
    pub(super) fn write(&self, path: &Path, plan: &Plan, data: &str) -> Result<()> {
        let mut tensors: Vec<(String, Tensor)> = Vec::new();
        for (at, parameter) in self.network.parameters.iter().enumerate() {
            let mut keep =
                |kind: &str, tensor: &Tensor| tensors.push((format!("{kind}.{}", parameter.name), tensor.clone()));
            keep("weight", parameter.var.as_tensor());
            keep("followed", self.mean.parameters[at].var.as_tensor());
            keep("mean", &self.optimizer.moments[at][0]);
            keep("square", &self.optimizer.moments[at][1]);
            if let Some(best) = self.best.weights.get(at) {
                keep("best", best);
            }
        }
        let best = (!self.best.weights.is_empty()).then_some((self.best.found, self.best.step));
        let header = Header { plan: plan.clone(), data: data.to_owned(), step: self.step, n_worse: self.n_worse, best };
        write_tensors(path, &tensors, (KEY, &serde_json::to_string(&header).expect("plain numbers and names")))
    }

    /// Takes over where the checkpoint stands. One of another plan, or of other data, is refused.
    pub(super) fn read(&mut self, path: &Path, plan: &Plan, data: &str) -> Result<()> {
        let bad = |detail: String| Error::BadFile { file: path.to_owned(), detail };
        let (header, tensors) = read_tensors(path, KEY, self.network.device())?;
        let header: Header = serde_json::from_str(&header).map_err(|e| bad(e.to_string()))?;
        let what = match (header.plan == *plan, header.data == data) {
            (true, true) => None,
            (false, _) => Some("settings"),
            (true, false) => Some("data"),
        };
        if let Some(what) = what {
            return Err(bad(format!("made with other {what}; hint: the same as before, or another checkpoint")));
        }
        for (at, parameter) in self.network.parameters.iter().enumerate() {
            let get = |kind: &str| weights(&tensors, &format!("{kind}.{}", parameter.name), parameter.var.dims(), path);
            parameter.var.set(&get("weight")?)?;
            self.mean.parameters[at].var.set(&get("followed")?)?;
            self.optimizer.moments[at] = [get("mean")?, get("square")?];
            if header.best.is_some() {
                self.best.weights.push(get("best")?);
            }
        }
        (self.step, self.n_worse) = (header.step, header.n_worse);
        (self.best.found, self.best.step) = header.best.unwrap_or((f64::NEG_INFINITY, 0));
        Ok(())
    }
}
