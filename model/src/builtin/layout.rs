//! Which numbers the network has, and where each lies in one flat vector.
//!
//! The word table comes last, so that everything before it can be handled as one dense block.

use std::ops::Range;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Sizes of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sizes {
    pub dim: usize,
    pub heads: usize,
    /// Width of the perceptron in a block.
    pub hidden: usize,
    pub image_blocks: usize,
    pub text_blocks: usize,
    /// Patch tokens along a side; a token covers 9 pixels.
    pub grid: usize,
    /// Channels of the first convolution.
    pub channels: usize,
    pub table_rows: usize,
    pub max_text_tokens: usize,
    pub embedding: usize,
}

/// The bundled model.
pub const BUILTIN: Sizes = Sizes {
    dim: 128,
    heads: 4,
    hidden: 256,
    image_blocks: 3,
    text_blocks: 2,
    grid: 8,
    channels: 48,
    table_rows: 24_576,
    max_text_tokens: 256,
    embedding: 192,
};

/// Pixels along a side of one patch token, and of one step of the first convolution.
pub const PATCH_PX: usize = 9;
pub const STEM_STRIDE_PX: usize = 3;
/// The first convolution sees 5 x 5 pixels.
pub const STEM_WINDOW_PX: usize = 5;
/// Start of the temperature: exp of this is what cosines are multiplied with.
const LOG_SCALE: f32 = 2.3;
const SIGMOID_BIAS: f32 = -10.0;

impl Sizes {
    /// Refuses sizes of a damaged file before anything is made from them.
    pub fn check(&self) -> Result<(), String> {
        let Sizes { dim, heads, hidden, image_blocks, text_blocks, grid, channels, table_rows, .. } = *self;
        let small =
            [dim, heads, hidden, image_blocks, text_blocks, grid, channels, self.max_text_tokens, self.embedding];
        let fits = small.iter().all(|size| (1..=4096).contains(size)) && (1..=1 << 20).contains(&table_rows);
        if fits && dim % heads == 0 { Ok(()) } else { Err(format!("expected sizes in range, received {self:?}")) }
    }

    pub fn side_px(&self) -> usize {
        self.grid * PATCH_PX
    }

    /// What so many images take on their way: the windows of the first convolution, what it makes of them, and about as much as
    /// each block keeps of its states.
    pub fn batch_bytes(&self, n_images: usize) -> u64 {
        let Sizes { dim, hidden, grid, channels, .. } = *self;
        let windows = (self.side_px() / STEM_STRIDE_PX).pow(2) * (STEM_WINDOW_PX * STEM_WINDOW_PX * 3 + channels);
        let states = self.image_blocks * grid * grid * (10 * dim + 2 * hidden);
        4 * (n_images * (windows + states)) as u64
    }
}

#[derive(Clone, Debug)]
pub struct Linear {
    /// (inputs, outputs), row after row.
    pub weight: Range<usize>,
    pub bias: Range<usize>,
    pub n_in: usize,
    pub n_out: usize,
}

#[derive(Clone, Debug)]
pub struct Norm {
    pub gain: Range<usize>,
    pub bias: Range<usize>,
}

#[derive(Clone, Debug)]
pub struct Block {
    pub before_attention: Norm,
    pub qkv: Linear,
    pub attention_out: Linear,
    pub before_perceptron: Norm,
    pub up: Linear,
    pub down: Linear,
}

#[derive(Clone, Debug)]
pub struct Tower {
    pub blocks: Vec<Block>,
    pub norm: Norm,
    pub project: Linear,
    /// Where all its numbers lie.
    pub range: Range<usize>,
}

#[derive(Clone, Debug)]
pub struct Layout {
    pub sizes: Sizes,
    pub stem: Linear,
    pub patch: Linear,
    pub image_positions: Range<usize>,
    pub image: Tower,
    pub text: Tower,
    /// Logarithm of the scale, and the bias of the sigmoid loss.
    pub scale: usize,
    pub bias: usize,
    pub table: Range<usize>,
    /// (name, place, shape), in order.
    pub tensors: Vec<(String, Range<usize>, Vec<usize>)>,
}

impl Layout {
    pub fn new(sizes: Sizes) -> Layout {
        let mut plan = Plan { tensors: Vec::new(), next: 0 };
        let Sizes { dim, grid, channels, .. } = sizes;
        let stem = plan.linear("image.stem", STEM_WINDOW_PX * STEM_WINDOW_PX * 3, channels);
        let per_side = PATCH_PX / STEM_STRIDE_PX;
        let patch = plan.linear("image.patch", per_side * per_side * channels, dim);
        let image_positions = plan.add("image.positions", &[grid * grid, dim]);
        let image = plan.tower("image", sizes.image_blocks, &sizes, 0);
        let text = plan.tower("text", sizes.text_blocks, &sizes, plan.next);
        let scale = plan.add("scale", &[1]).start;
        let bias = plan.add("bias", &[1]).start;
        let table = plan.add("text.table", &[sizes.table_rows, dim]);
        Layout { sizes, stem, patch, image_positions, image, text, scale, bias, table, tensors: plan.tensors }
    }

    pub fn len(&self) -> usize {
        self.table.end
    }

    /// Uniform, by the count of inputs; the same for a seed on every platform.
    pub fn random_weights(&self, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut weights = vec![0.0; self.len()];
        for (name, range, shape) in &self.tensors {
            let reach = match name.rsplit('.').next() {
                Some("gain") => {
                    weights[range.clone()].fill(1.0);
                    continue;
                }
                Some("scale") => {
                    weights[range.start] = LOG_SCALE;
                    continue;
                }
                Some("bias") if shape[0] == 1 && !name.contains('.') => {
                    weights[range.start] = SIGMOID_BIAS;
                    continue;
                }
                Some("bias") => continue,
                Some("positions") => 0.1,
                Some("table") => 0.35,
                _ => (3.0 / shape[0] as f32).sqrt(),
            };
            weights[range.clone()].iter_mut().for_each(|weight| *weight = rng.random_range(-reach..reach));
        }
        weights
    }

    /// Whether weight decay applies: to matrices, not to biases, gains, positions, the table or the scale.
    pub fn decays(&self, name: &str) -> bool {
        name.ends_with("weight")
    }
}

struct Plan {
    tensors: Vec<(String, Range<usize>, Vec<usize>)>,
    next: usize,
}

impl Plan {
    fn add(&mut self, name: &str, shape: &[usize]) -> Range<usize> {
        let range = self.next..self.next + shape.iter().product::<usize>();
        self.next = range.end;
        self.tensors.push((name.to_owned(), range.clone(), shape.to_vec()));
        range
    }

    fn linear(&mut self, name: &str, n_in: usize, n_out: usize) -> Linear {
        let weight = self.add(&format!("{name}.weight"), &[n_in, n_out]);
        let bias = self.add(&format!("{name}.bias"), &[n_out]);
        Linear { weight, bias, n_in, n_out }
    }

    fn norm(&mut self, name: &str, dim: usize) -> Norm {
        Norm { gain: self.add(&format!("{name}.gain"), &[dim]), bias: self.add(&format!("{name}.bias"), &[dim]) }
    }

    fn tower(&mut self, name: &str, n_blocks: usize, sizes: &Sizes, start: usize) -> Tower {
        let dim = sizes.dim;
        let block = |plan: &mut Plan, name: String| Block {
            before_attention: plan.norm(&format!("{name}.before_attention"), dim),
            qkv: plan.linear(&format!("{name}.qkv"), dim, 3 * dim),
            attention_out: plan.linear(&format!("{name}.attention_out"), dim, dim),
            before_perceptron: plan.norm(&format!("{name}.before_perceptron"), dim),
            up: plan.linear(&format!("{name}.up"), dim, sizes.hidden),
            down: plan.linear(&format!("{name}.down"), sizes.hidden, dim),
        };
        let blocks = (0..n_blocks).map(|n| block(self, format!("{name}.{n}"))).collect();
        let norm = self.norm(&format!("{name}.norm"), dim);
        let project = self.linear(&format!("{name}.project"), dim, sizes.embedding);
        Tower { blocks, norm, project, range: start..self.next }
    }
}
