//! A run on disk: weights, their running mean, the optimiser's moments, where in the data it stands, and the plan it
//! belongs to. All of it follows from them, so a run that goes on is the unbroken one to the bit (on a CPU).

use std::{collections::HashMap, path::Path};

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;

use super::{Plan, arrays::bad, feed::Position, trainer::Trainer};
use crate::{Error, Result, train::write_whole};

const KEY: &str = "firn.align";

#[derive(serde::Serialize, serde::Deserialize)]
struct Header {
    step: u64,
    position: Position,
    loss_scale: f32,
    n_good: u64,
    plan: Plan,
}

impl Trainer {
    pub(super) fn write_checkpoint(&self, path: &Path) -> Result<()> {
        let mut tensors = Vec::new();
        for (at, parameter) in self.network.parameters.iter().enumerate() {
            let [mean, square] = &self.optimizer.moments[at];
            let name = |kind: &str| format!("{kind}.{}", parameter.name);
            tensors.push((name("weight"), parameter.var.as_tensor().clone()));
            tensors.push((name("mean"), mean.clone()));
            tensors.push((name("square"), square.clone()));
            tensors.extend(self.followed.get(at).map(|tensor| (name("followed"), tensor.clone())));
        }
        let header = Header {
            step: self.step,
            position: self.feed.position(),
            loss_scale: self.loss_scale,
            n_good: self.n_good,
            plan: self.plan.clone(),
        };
        write_tensors(path, &tensors, (KEY, &serde_json::to_string(&header).map_err(|e| bad(path, e.to_string()))?))
    }

    /// Takes over where the checkpoint stands. One of another plan is refused.
    pub(super) fn read_checkpoint(&mut self, path: &Path) -> Result<()> {
        let (header, tensors) = read_tensors(path, KEY, self.network.device())?;
        let header: Header = serde_json::from_str(&header).map_err(|e| bad(path, e.to_string()))?;
        if header.plan != self.plan {
            let detail = format!("made with other settings: expected {:?}, received {:?}", self.plan, header.plan);
            return Err(bad(path, detail));
        }
        for (at, parameter) in self.network.parameters.iter().enumerate() {
            let get = |kind: &str| take(&tensors, &format!("{kind}.{}", parameter.name), parameter.var.dims(), path);
            parameter.var.set(&get("weight")?)?;
            self.optimizer.moments[at] = [get("mean")?, get("square")?];
            if let Some(followed) = self.followed.get_mut(at) {
                *followed = get("followed")?;
            }
        }
        (self.step, self.loss_scale, self.n_good) = (header.step, header.loss_scale, header.n_good);
        self.feed.skip_to(header.position)
    }
}

/// Named tensors with a word about them, in one go: a crash leaves the old file or the new one.
pub(super) fn write_tensors(path: &Path, tensors: &[(String, Tensor)], (key, word): (&str, &str)) -> Result<()> {
    let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    let metadata = HashMap::from([(key.to_owned(), word.to_owned())]);
    let bytes = safetensors::serialize(named, Some(metadata)).map_err(|e| bad(path, e.to_string()))?;
    write_whole(path, &bytes)
}

pub(super) fn read_tensors(path: &Path, key: &str, device: &Device) -> Result<(String, HashMap<String, Tensor>)> {
    let bytes = std::fs::read(path).map_err(|error| Error::Io { path: path.to_owned(), error })?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| bad(path, e.to_string()))?;
    let word = metadata.metadata().as_ref().and_then(|entries| entries.get(key)).cloned();
    let word = word.ok_or_else(|| bad(path, format!("expected a file of `firn train align` with {key:?}")))?;
    Ok((word, candle_core::safetensors::load_buffer(&bytes, device)?))
}

/// A tensor of this shape.
pub(super) fn take(tensors: &HashMap<String, Tensor>, name: &str, shape: &[usize], path: &Path) -> Result<Tensor> {
    let wrong = |received: String| Error::WrongTensor {
        file: path.to_owned(),
        tensor: name.to_owned(),
        expected: format!("{shape:?}"),
        received,
    };
    match tensors.get(name) {
        None => Err(wrong("no such tensor".to_owned())),
        Some(tensor) if tensor.dims() != shape => Err(wrong(format!("{:?}", tensor.dims()))),
        Some(tensor) => Ok(tensor.clone()),
    }
}
