//! A training run on disk: weights, the optimiser's means, the step, and the plan it belongs to.
//!
//! Since a step's pairs follow from seed and step alone, the step is also the position of the random numbers.

use std::{collections::HashMap, fs, path::Path};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::{Plan, optimizer::AdamW};
use crate::{Error, Result};

const KEY: &str = "firn.train";

/// Everything that the next step depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Steps done.
    pub step: u64,
    pub weights: Vec<f32>,
    pub optimizer: AdamW,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Header {
    step: u64,
    plan: Plan,
}

impl State {
    /// Written beside, then moved over the old one: a crash leaves one or the other.
    pub fn write(&self, path: &Path, plan: &Plan) -> Result<()> {
        let parts = [("weights", &self.weights), ("mean", &self.optimizer.mean), ("square", &self.optimizer.square)];
        let mut views = Vec::new();
        for (name, values) in parts {
            let view = TensorView::new(Dtype::F32, vec![values.len()], bytemuck::cast_slice(values))
                .map_err(|fault| bad(path, fault))?;
            views.push((name, view));
        }
        let header =
            serde_json::to_string(&Header { step: self.step, plan: plan.clone() }).map_err(|fault| bad(path, fault))?;
        let bytes = safetensors::serialize(views, Some(HashMap::from([(KEY.to_owned(), header)])))
            .map_err(|fault| bad(path, fault))?;
        write_whole(path, &bytes)
    }

    /// Refuses a checkpoint of another plan.
    pub fn read(path: &Path, plan: &Plan) -> Result<State> {
        let bytes = fs::read(path).map_err(|error| Error::Io { path: path.to_owned(), error })?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|fault| bad(path, fault))?;
        let header = metadata.metadata().as_ref().and_then(|entries| entries.get(KEY));
        let header = header.ok_or_else(|| bad(path, "expected a checkpoint of `firn train`"))?;
        let header: Header = serde_json::from_str(header).map_err(|fault| bad(path, fault))?;
        let agrees = header.plan.schedule.agrees_until(&plan.schedule, header.step);
        if !agrees || (Plan { schedule: plan.schedule, ..header.plan.clone() }) != *plan {
            let detail = format!("made with other settings: expected {plan:?}, received {:?}", header.plan);
            return Err(bad(path, detail));
        }
        let tensors = SafeTensors::deserialize(&bytes).map_err(|fault| bad(path, fault))?;
        let values = |name: &str| -> Result<Vec<f32>> {
            let tensor = tensors.tensor(name).map_err(|fault| bad(path, fault))?;
            Ok(bytemuck::pod_collect_to_vec(tensor.data()))
        };
        let optimizer = AdamW { mean: values("mean")?, square: values("square")? };
        let state = State { step: header.step, weights: values("weights")?, optimizer };
        let expected = crate::builtin::layout::Layout::new(plan.sizes).len();
        for received in [state.weights.len(), state.optimizer.mean.len(), state.optimizer.square.len()] {
            if received != expected {
                return Err(bad(path, format!("expected {expected} numbers, received {received}")));
            }
        }
        Ok(state)
    }
}

/// Through a neighbouring file, synced, so that the name never stands for half a file.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = path.with_extension("partial");
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&beside)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|error| Error::Io { path: path.to_owned(), error })
}

fn bad(path: &Path, detail: impl ToString) -> Error {
    Error::BadFile { file: path.to_owned(), detail: detail.to_string() }
}
