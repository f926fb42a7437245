//! A run on disk: weights, their running mean, the optimiser's moments, where in the data it stands, and the plan it
//! belongs to. All of it follows from them, so a run that goes on is the unbroken one to the bit (on a CPU).

use std::path::Path;

use serde_json::Value;

use super::{Plan, arrays::bad, feed::Position, trainer::Trainer};
use crate::{
    Result,
    learn::tensors::{read_tensors, weights, write_tensors},
};

const KEY: &str = "firn.align";

#[derive(serde::Serialize, serde::Deserialize)]
struct Header {
    step: u64,
    position: Position,
    loss_scale: f32,
    n_good: u64,
    plan: Plan,
    /// What the data were.
    data: String,
}

impl Trainer {
    pub(super) fn write_checkpoint(&self, path: &Path, data: &str) -> Result<()> {
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
            data: data.to_owned(),
        };
        write_tensors(path, &tensors, (KEY, &serde_json::to_string(&header).map_err(|e| bad(path, e.to_string()))?))
    }

    /// Takes over where the checkpoint stands. One of another plan, or of other data, is refused.
    pub(super) fn read_checkpoint(&mut self, path: &Path, data: &str) -> Result<()> {
        let (header, tensors) = read_tensors(path, KEY, self.network.device())?;
        let header: Header = serde_json::from_str(&header).map_err(|e| bad(path, e.to_string()))?;
        if header.plan != self.plan {
            let differing = differing(&header.plan, &self.plan).join(", ");
            let detail =
                format!("made with other settings: {differing}; hint: the same flags as before, or another --out");
            return Err(bad(path, detail));
        }
        if header.data != data {
            let detail = "made with other data; hint: the same files as before, or another --out";
            return Err(bad(path, detail.to_owned()));
        }
        for (at, parameter) in self.network.parameters.iter().enumerate() {
            let get = |kind: &str| weights(&tensors, &format!("{kind}.{}", parameter.name), parameter.var.dims(), path);
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

/// `seed: expected 1, received 2` of every setting that is another now.
fn differing(made: &Plan, asked: &Plan) -> Vec<String> {
    let json = |plan: &Plan| serde_json::to_value(plan).expect("a plan is plain numbers and words");
    let mut found = Vec::new();
    compare("", &json(made), &json(asked), &mut found);
    found
}

fn compare(name: &str, made: &Value, asked: &Value, found: &mut Vec<String>) {
    match (made, asked) {
        (Value::Object(made), Value::Object(asked)) if made.keys().eq(asked.keys()) => {
            let within = |key: &String| if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            made.iter().for_each(|(key, value)| compare(&within(key), value, &asked[key], found));
        }
        _ if made != asked => found.push(format!("{name}: expected {made}, received {asked}")),
        _ => {}
    }
}
