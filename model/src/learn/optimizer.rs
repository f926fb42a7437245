//! AdamW as PyTorch has it, and FLAME's schedule: a linear rise, then half a cosine down to nothing.

use candle_core::{CpuStorage, DType, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};
use rayon::prelude::*;

use super::parameters::Parameter;

/// How weights move. The defaults are those that FLAME was published with.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Recipe {
    /// Learning rate at its highest.
    pub rate: f32,
    pub betas: [f32; 2],
    pub epsilon: f32,
    pub decay: f32,
    pub n_warm_up: u64,
    pub n_steps: u64,
}

impl Recipe {
    pub fn flame(n_steps: u64) -> Recipe {
        Recipe { rate: 5e-4, betas: [0.9, 0.95], epsilon: 1e-8, decay: 0.5, n_warm_up: 2000, n_steps }
    }

    /// `step` counts from 0.
    pub fn rate_at(&self, step: u64) -> f32 {
        if step < self.n_warm_up {
            return self.rate * (step + 1) as f32 / self.n_warm_up as f32;
        }
        let way = (self.n_steps - self.n_warm_up.min(self.n_steps)).max(1) as f64;
        let done = ((step - self.n_warm_up) as f64 / way).min(1.0);
        self.rate * (0.5 * (1.0 + (std::f64::consts::PI * done).cos())) as f32
    }
}

/// Running means of the gradient and of its square, for each parameter in order.
pub(crate) struct AdamW {
    pub moments: Vec<[Tensor; 2]>,
}

impl AdamW {
    pub(crate) fn new(parameters: &[Parameter]) -> Result<AdamW> {
        let zeros = |p: &Parameter| -> Result<[Tensor; 2]> {
            // Each its own memory: they are changed in place.
            let of = || Tensor::zeros(p.var.dims(), DType::F32, p.var.device());
            Ok([of()?, of()?])
        };
        Ok(AdamW { moments: parameters.iter().map(zeros).collect::<Result<_>>()? })
    }

    /// Moves the parameters; those without a gradient stay. `unscale` is what the gradients are multiplied with.
    pub(crate) fn step(
        &mut self,
        parameters: &[Parameter],
        gradients: &[Option<Tensor>],
        recipe: &Recipe,
        step: u64,
        unscale: f32,
    ) -> Result<()> {
        let n = (step + 1).min(1_000_000) as i32;
        let [first, second] = recipe.betas;
        let of_one = |p: &Parameter| Move {
            betas: recipe.betas,
            epsilon: recipe.epsilon,
            rate: recipe.rate_at(step),
            unbias: [1.0 / (1.0 - first.powi(n)), 1.0 / (1.0 - second.powi(n))],
            decay: if p.decays() { recipe.rate_at(step) * recipe.decay } else { 0.0 },
            unscale,
        };
        for ((parameter, gradient), moments) in parameters.iter().zip(gradients).zip(&mut self.moments) {
            match gradient {
                Some(gradient) if gradient.device().is_cpu() => {
                    of_one(parameter).on_cpu(parameter.var.as_tensor(), &gradient.contiguous()?, moments)?;
                }
                Some(gradient) => of_one(parameter).composed(parameter, gradient, moments)?,
                None => {}
            }
        }
        Ok(())
    }
}

/// Brings a running mean of weights nearer to them: it keeps the share `kept` of what it was.
pub(crate) fn follow(mean: &mut Tensor, weights: &Tensor, kept: f32) -> Result<()> {
    if mean.device().is_cpu() {
        return mean.inplace_op2(weights, &Stage::Follow(kept));
    }
    *mean = ((&*mean * f64::from(kept))? + (weights * f64::from(1.0 - kept))?)?;
    Ok(())
}

/// One step of one parameter.
struct Move {
    betas: [f32; 2],
    epsilon: f32,
    rate: f32,
    unbias: [f32; 2],
    decay: f32,
    unscale: f32,
}

/// A part of the step that changes one tensor in place by another.
enum Stage<'a> {
    Mean(&'a Move),
    Square(&'a Move),
    Follow(f32),
}

impl Move {
    fn on_cpu(&self, var: &Tensor, gradient: &Tensor, [mean, square]: &mut [Tensor; 2]) -> Result<()> {
        mean.inplace_op2(gradient, &Stage::Mean(self))?;
        square.inplace_op2(gradient, &Stage::Square(self))?;
        var.inplace_op3(mean, square, self)
    }

    fn composed(&self, parameter: &Parameter, gradient: &Tensor, moments: &mut [Tensor; 2]) -> Result<()> {
        let gradient = (gradient * f64::from(self.unscale))?;
        let mix = |old: &Tensor, new: &Tensor, beta: f32| (old * f64::from(beta))? + (new * f64::from(1.0 - beta))?;
        moments[0] = mix(&moments[0], &gradient, self.betas[0])?;
        moments[1] = mix(&moments[1], &gradient.sqr()?, self.betas[1])?;
        let deviation = ((&moments[1] * f64::from(self.unbias[1]))?.sqrt()? + f64::from(self.epsilon))?;
        let way = ((&moments[0] * f64::from(self.unbias[0] * self.rate))? / deviation)?;
        let kept = (parameter.var.as_tensor() * f64::from(1.0 - self.decay))?;
        parameter.var.set(&(kept - way)?)
    }
}

impl InplaceOp2 for Stage<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, into: &mut CpuStorage, layout: &Layout, from: &CpuStorage, from_layout: &Layout) -> Result<()> {
        let (Some((start, end)), Some((first, last))) = (layout.contiguous_offsets(), from_layout.contiguous_offsets())
        else {
            bail!("expected numbers that lie one after another")
        };
        let CpuStorage::F32(into) = into else { bail!("expected f32") };
        let (into, from) = (&mut into[start..end], &from.as_slice::<f32>()?[first..last]);
        match self {
            Stage::Mean(Move { betas: [beta, _], unscale, .. }) => {
                each(into, from, |mean, g| *mean = beta * *mean + (1.0 - beta) * (g * unscale));
            }
            Stage::Square(Move { betas: [_, beta], unscale, .. }) => {
                each(into, from, |square, g| *square = beta * *square + (1.0 - beta) * (g * unscale) * (g * unscale));
            }
            Stage::Follow(kept) => each(into, from, |mean, weight| *mean = kept * *mean + (1.0 - kept) * weight),
        }
        Ok(())
    }
}

/// Numbers that one thread takes at a time.
const AT_ONCE: usize = 1 << 15;

fn each(into: &mut [f32], from: &[f32], change: impl Fn(&mut f32, f32) + Sync) {
    into.par_chunks_mut(AT_ONCE).zip(from.par_chunks(AT_ONCE)).for_each(|(into, from)| {
        into.iter_mut().zip(from).for_each(|(into, &from)| change(into, from));
    });
}

/// The weights, by the means and the squares.
impl InplaceOp3 for Move {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        weights: &mut CpuStorage,
        layout: &Layout,
        means: &CpuStorage,
        of_means: &Layout,
        squares: &CpuStorage,
        of_squares: &Layout,
    ) -> Result<()> {
        let places = [layout, of_means, of_squares].map(Layout::contiguous_offsets);
        let [Some((start, end)), Some((first, last)), Some((from, to))] = places else {
            bail!("expected numbers that lie one after another")
        };
        let CpuStorage::F32(weights) = weights else { bail!("expected f32") };
        let (means, squares) = (&means.as_slice::<f32>()?[first..last], &squares.as_slice::<f32>()?[from..to]);
        let moments = means.par_chunks(AT_ONCE).zip(squares.par_chunks(AT_ONCE));
        weights[start..end].par_chunks_mut(AT_ONCE).zip(moments).for_each(|(weights, (means, squares))| {
            for (weight, (mean, square)) in weights.iter_mut().zip(means.iter().zip(squares)) {
                let way = mean * self.unbias[0] / ((square * self.unbias[1]).sqrt() + self.epsilon);
                *weight -= self.rate * way + self.decay * *weight;
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn rates_rise_and_fall_to_nothing() {
        let recipe = Recipe { rate: 1.0, n_warm_up: 10, ..Recipe::flame(110) };
        let check = |step, expected: f32| assert!((recipe.rate_at(step) - expected).abs() < 1e-6, "{step}");
        check(0, 0.1);
        check(9, 1.0);
        check(10, 1.0);
        check(60, 0.5);
        check(110, 0.0);
    }

    /// The same by candle's own AdamW, and by the way that a card takes.
    #[test]
    fn steps_are_those_of_candle() {
        use candle_nn::{AdamW as Judge, Optimizer, ParamsAdamW};
        let first = [0.5f32, -1.0, 2.0, 0.0, 3.0, -0.25];
        let start = || Var::from_tensor(&Tensor::from_slice(&first, (2, 3), &Device::Cpu).unwrap()).unwrap();
        let recipe = Recipe { rate: 0.1, n_warm_up: 0, decay: 0.3, ..Recipe::flame(1_000_000_000) };
        let [ours, composed] = [start(), start()].map(|var| vec![Parameter { name: "w".to_owned(), var }]);
        let judged = start();
        let settings = ParamsAdamW { lr: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.3 };
        let mut judge = Judge::new(vec![judged.clone()], settings).unwrap();
        let (mut optimizer, mut slow) = (AdamW::new(&ours).unwrap(), AdamW::new(&composed).unwrap());
        for step in 0..5u64 {
            let slope: Vec<f32> = (0..6).map(|i| ((i * 7 + step as usize * 3) % 5) as f32 - 1.7).collect();
            let slope = Tensor::from_vec(slope, (2, 3), &Device::Cpu).unwrap();
            optimizer.step(&ours, &[Some((&slope * 4.0).unwrap())], &recipe, step, 0.25).unwrap();
            let of_card = Move {
                betas: recipe.betas,
                epsilon: 1e-8,
                rate: 0.1,
                unbias: [1.0 / (1.0 - 0.9f32.powi(step as i32 + 1)), 1.0 / (1.0 - 0.95f32.powi(step as i32 + 1))],
                decay: 0.03,
                unscale: 1.0,
            };
            of_card.composed(&composed[0], &slope, &mut slow.moments[0]).unwrap();
            let loss = (judged.as_tensor() * &slope).unwrap().sum_all().unwrap();
            judge.backward_step(&loss).unwrap();
        }
        let flat = |var: &Var| var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for other in [flat(&ours[0].var), flat(&composed[0].var)] {
            assert!(other.iter().zip(flat(&judged)).all(|(a, b)| (a - b).abs() < 1e-5), "{other:?}");
        }
    }

    #[test]
    fn norms_biases_and_scales_do_not_decay() {
        let parameter = |name: &str, shape: &[usize]| {
            let var = Var::zeros(shape, DType::F32, &Device::Cpu).unwrap();
            Parameter { name: name.to_owned(), var }.decays()
        };
        assert!(parameter("visual.conv1.weight", &[2, 3, 4, 4]));
        assert!(parameter("mm.0.weight", &[2, 3]));
        for (name, shape) in
            [("mm.0.bias", vec![2]), ("ln_pre.weight", vec![2]), ("logit_scale", vec![]), ("a.ln_x", vec![2, 2])]
        {
            assert!(!parameter(name, &shape), "{name}");
        }
    }
}
