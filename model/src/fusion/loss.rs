//! What a list of candidates is to become: the first of each list belongs, the others do not.

use candle_core::{D, Result, Tensor};

/// Weights of the parts of the loss, and how much of the truth is given to the others.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Losses {
    /// Cross-entropy over the list.
    pub contrastive: f64,
    /// Binary cross-entropy of each pair.
    pub matching: f64,
    /// Mean square of what is added to the cosine.
    pub regularisation: f64,
    pub smoothing: f64,
}

impl Default for Losses {
    fn default() -> Losses {
        Losses { contrastive: 1.0, matching: 0.1, regularisation: 0.01, smoothing: 0.03 }
    }
}

impl Losses {
    /// Of logits (lists, length), and what in them was added to the cosine.
    pub(super) fn of(&self, logits: &Tensor, added: &Tensor) -> Result<Tensor> {
        let (_, length) = logits.dims2()?;
        let contrastive = self.listwise(logits)?;

        // Both kinds count the same, however long the list is.
        let positive = binary(&logits.narrow(1, 0, 1)?, 1.0 - self.smoothing)?.mean_all()?;
        let negative = binary(&logits.narrow(1, 1, length - 1)?, self.smoothing)?.mean_all()?;
        let matching = ((positive + negative)? * 0.5)?;
        let all = ((contrastive * self.contrastive)? + (matching * self.matching)?)?;
        all + (added.sqr()?.mean_all()? * self.regularisation)?
    }

    /// Of the same logits with the sides exchanged (images, texts): half of what the list counts.
    pub(super) fn turned(&self, logits: &Tensor) -> Result<Tensor> {
        self.listwise(logits)? * (0.5 * self.contrastive)
    }

    fn listwise(&self, logits: &Tensor) -> Result<Tensor> {
        let highest = logits.max_keepdim(D::Minus1)?.detach();
        let total = (logits.broadcast_sub(&highest)?.exp()?.sum_keepdim(1)?.log()? + highest)?;
        let log_shares = logits.broadcast_sub(&total)?;
        let first = log_shares.narrow(1, 0, 1)?.mean_all()?;
        ((first * (1.0 - self.smoothing))? + (log_shares.mean_all()? * self.smoothing)?)?.neg()
    }
}

/// -y log s(x) - (1 - y) log s(-x), without overflow.
fn binary(x: &Tensor, y: f64) -> Result<Tensor> {
    let soft = (x.abs()?.neg()?.exp()? + 1.0)?.log()?;
    (x.relu()? + soft)? - (x * y)?
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn loss_is_the_formula() {
        let logits = [[2.0f32, -1.0, 0.5], [-40.0, 60.0, 3.0]];
        let added = [[0.5f32, 0.0, -1.0], [2.0, 0.0, 0.0]];
        let losses = Losses { contrastive: 0.7, matching: 0.2, regularisation: 0.3, smoothing: 0.1 };
        let tensor = |rows: &[[f32; 3]; 2]| Tensor::new(rows, &Device::Cpu).unwrap();
        let received = losses.of(&tensor(&logits), &tensor(&added)).unwrap().to_scalar::<f32>().unwrap();
        let (mut contrastive, mut positive, mut negative) = (0.0, 0.0, 0.0);
        for row in logits.map(|row| row.map(f64::from)) {
            let total = row.iter().map(|x| x.exp()).sum::<f64>().ln();
            let mean = row.iter().map(|x| x - total).sum::<f64>() / 3.0;
            contrastive -= (0.9 * (row[0] - total) + 0.1 * mean) / 2.0;
            let binary = |x: f64, y: f64| x.max(0.0) + (-x.abs()).exp().ln_1p() - y * x;
            positive += binary(row[0], 0.9) / 2.0;
            negative += (binary(row[1], 0.1) + binary(row[2], 0.1)) / 4.0;
        }
        let expected = 0.7 * contrastive + 0.2 * (positive + negative) / 2.0 + 0.3 * (0.25 + 1.0 + 4.0) / 6.0;
        assert!((f64::from(received) - expected).abs() < 1e-4, "{received} {expected}");
    }
}
