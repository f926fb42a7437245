//! The network: two towers of the same kind over patch tokens and over word tokens, forwards and backwards.
//!
//! Every text keeps its own length (no padding), so a batch gives what single calls give.

use std::ops::Range;

use super::{
    layers::{BlockTrace, Normed, Pass, add, dot},
    layout::{Layout, PATCH_PX, STEM_STRIDE_PX, STEM_WINDOW_PX, Sizes, Tower},
    tokens::Tokens,
};

/// Amplitude of the sine waves that tell a text token its place.
const WAVES: f32 = 0.1;

/// Sizes and numbers. The layout says where in `weights` each tensor lies.
#[derive(Clone, Debug)]
pub struct Network {
    pub layout: Layout,
    pub weights: Vec<f32>,
}

/// What a tower's way back needs, and what came out.
pub struct TowerTrace {
    lengths: Vec<usize>,
    blocks: Vec<BlockTrace>,
    normed: Normed,
    pooled: Vec<f32>,
    /// Before it was made unit length.
    lengths_out: Vec<f32>,
    /// (batch, embedding), unit length.
    pub embeddings: Vec<f32>,
}

impl TowerTrace {
    /// Of each image or text, (tokens, dim): after the last norm and before pooling.
    pub fn states(&self) -> impl Iterator<Item = &[f32]> {
        let dim = self.pooled.len() / self.lengths.len().max(1);
        let mut rest = self.normed.output.as_slice();
        self.lengths.iter().map(move |length| {
            let (states, after) = rest.split_at(length * dim);
            rest = after;
            states
        })
    }
}

pub struct ImageTrace {
    columns: Vec<f32>,
    stem: Vec<f32>,
    pub tower: TowerTrace,
}

pub struct TextTrace {
    pub tower: TowerTrace,
}

/// A part of the gradient: where it begins, and its numbers.
pub struct Gradient {
    pub range: Range<usize>,
    pub values: Vec<f32>,
}

impl Network {
    pub fn random(sizes: Sizes, seed: u64) -> Network {
        let layout = Layout::new(sizes);
        Network { weights: layout.random_weights(seed), layout }
    }

    /// Each image is (3, side, side), channel first.
    pub fn images(&self, images: &[&[f32]]) -> ImageTrace {
        let Layout { stem, patch, image, sizes, .. } = &self.layout;
        let columns: Vec<f32> = images.iter().flat_map(|pixels| columns(pixels, sizes.grid)).collect();
        let mut stem_out = stem.forward(&self.weights, &columns);
        stem_out.iter_mut().for_each(|value| *value = value.max(0.0));
        let mut x = patch.forward(&self.weights, &stem_out);
        let n_tokens = sizes.grid * sizes.grid;
        let positions = &self.weights[self.layout.image_positions.clone()];
        x.chunks_exact_mut(positions.len()).for_each(|tokens| add(tokens, positions));
        let tower = self.tower(image, x, vec![n_tokens; images.len()]);
        ImageTrace { columns, stem: stem_out, tower }
    }

    /// No text may be without tokens.
    pub fn texts(&self, texts: &[&Tokens]) -> TextTrace {
        let dim = self.layout.sizes.dim;
        let mut x = Vec::with_capacity(texts.iter().map(|text| text.len()).sum::<usize>() * dim);
        for text in texts {
            for token in 0..text.len() {
                x.extend(self.word(text.rows_of(token), token));
            }
        }
        TextTrace { tower: self.tower(&self.layout.text, x, texts.iter().map(|text| text.len()).collect()) }
    }

    /// (tokens, dim) of each image, after the last norm and before pooling.
    pub fn patch_tokens(&self, images: &[&[f32]]) -> Vec<Vec<f32>> {
        let per_image = self.layout.sizes.grid * self.layout.sizes.grid * self.layout.sizes.dim;
        self.images(images).tower.normed.output.chunks_exact(per_image).map(<[f32]>::to_vec).collect()
    }

    /// Each patch token as it would be embedded alone, not of unit length: (tokens, embedding).
    pub fn patch_embeddings(&self, trace: &ImageTrace) -> Vec<f32> {
        self.layout.image.project.forward(&self.weights, &trace.tower.normed.output)
    }

    /// Gradients of the image half, from those of the embeddings and, if any, of `patch_embeddings`.
    pub fn images_backward(&self, trace: &ImageTrace, dembeddings: &[f32], dpatches: &[f32]) -> Gradient {
        let Layout { stem, patch, image, image_positions, .. } = &self.layout;
        let range = 0..image.range.end;
        let mut pass = Pass { weights: &self.weights, gradients: vec![0.0; range.len()], offset: 0 };
        let dx = self.tower_backward(image, &mut pass, &trace.tower, dembeddings, dpatches);
        for tokens in dx.chunks_exact(image_positions.len()) {
            add(&mut pass.gradients[image_positions.clone()], tokens);
        }
        patch.learn(&mut pass.gradients, 0, &trace.stem, &dx);
        let mut dstem = patch.backward(&self.weights, &dx);
        let open = dstem.iter_mut().zip(&trace.stem);
        open.for_each(|(gradient, &value)| *gradient = if value > 0.0 { *gradient } else { 0.0 });
        stem.learn(&mut pass.gradients, 0, &trace.columns, &dstem);
        Gradient { range, values: pass.gradients }
    }

    /// Gradients of the text tower, and those of each token as it entered, for `learn_words`.
    pub fn texts_backward(&self, trace: &TextTrace, dembeddings: &[f32]) -> (Gradient, Vec<f32>) {
        let tower = &self.layout.text;
        let (range, offset) = (tower.range.clone(), tower.range.start);
        let mut pass = Pass { weights: &self.weights, gradients: vec![0.0; range.len()], offset };
        let dx = self.tower_backward(tower, &mut pass, &trace.tower, dembeddings, &[]);
        (Gradient { range, values: pass.gradients }, dx)
    }

    /// Adds the gradient of tokens to the rows of the table they came from.
    pub fn learn_words(&self, dtable: &mut [f32], texts: &[&Tokens], dx: &[f32]) {
        let dim = self.layout.sizes.dim;
        let tokens = texts.iter().flat_map(|text| (0..text.len()).map(|token| text.rows_of(token)));
        for (rows, dx) in tokens.zip(dx.chunks_exact(dim)) {
            let share = 1.0 / (rows.len() as f32).sqrt();
            for &row in rows {
                let row = &mut dtable[row as usize * dim..][..dim];
                row.iter_mut().zip(dx).for_each(|(to, from)| *to += from * share);
            }
        }
    }

    fn word(&self, rows: &[u32], place: usize) -> Vec<f32> {
        let dim = self.layout.sizes.dim;
        let table = &self.weights[self.layout.table.clone()];
        let mut sum = vec![0.0; dim];
        rows.iter().for_each(|&row| add(&mut sum, &table[row as usize * dim..][..dim]));
        let share = 1.0 / (rows.len() as f32).sqrt();
        let wave = |i: usize| {
            let angle = place as f32 / 500f32.powf((i / 2) as f32 / (dim / 2) as f32);
            WAVES * if i.is_multiple_of(2) { angle.sin() } else { angle.cos() }
        };
        sum.iter_mut().enumerate().for_each(|(i, value)| *value = *value * share + wave(i));
        sum
    }

    fn tower(&self, tower: &Tower, mut x: Vec<f32>, lengths: Vec<usize>) -> TowerTrace {
        let Sizes { dim, heads, embedding, .. } = self.layout.sizes;
        let run = |block: &super::layout::Block, x: &mut Vec<f32>| block.forward(&self.weights, heads, &lengths, x);
        let blocks = tower.blocks.iter().map(|block| run(block, &mut x)).collect();
        let normed = tower.norm.forward(&self.weights, &x);
        let mut pooled = vec![0.0; lengths.len() * dim];
        let mut tokens = normed.output.chunks_exact(dim);
        for (pooled, &n) in pooled.chunks_exact_mut(dim).zip(&lengths) {
            tokens.by_ref().take(n).for_each(|token| add(pooled, token));
            pooled.iter_mut().for_each(|value| *value /= n as f32);
        }
        let mut embeddings = tower.project.forward(&self.weights, &pooled);
        let lengths_out = embeddings.chunks_exact_mut(embedding).map(make_unit).collect();
        TowerTrace { lengths, blocks, normed, pooled, lengths_out, embeddings }
    }

    fn tower_backward(
        &self,
        tower: &Tower,
        pass: &mut Pass,
        trace: &TowerTrace,
        dembeddings: &[f32],
        dtokens_alone: &[f32],
    ) -> Vec<f32> {
        let Sizes { dim, heads, embedding, .. } = self.layout.sizes;
        let mut draw = dembeddings.to_vec();
        let rows = draw.chunks_exact_mut(embedding).zip(trace.embeddings.chunks_exact(embedding));
        for ((draw, unit), length) in rows.zip(&trace.lengths_out) {
            let along = dot(draw, unit);
            draw.iter_mut().zip(unit).for_each(|(d, unit)| *d = (*d - unit * along) / length);
        }
        tower.project.learn(&mut pass.gradients, pass.offset, &trace.pooled, &draw);
        let dpooled = tower.project.backward(&self.weights, &draw);
        let mut dtokens = Vec::with_capacity(trace.normed.output.len());
        for (dpooled, &n) in dpooled.chunks_exact(dim).zip(&trace.lengths) {
            (0..n).for_each(|_| dtokens.extend(dpooled.iter().map(|value| value / n as f32)));
        }
        if !dtokens_alone.is_empty() {
            tower.project.learn(&mut pass.gradients, pass.offset, &trace.normed.output, dtokens_alone);
            add(&mut dtokens, &tower.project.backward(&self.weights, dtokens_alone));
        }
        let mut dx = tower.norm.backward(&self.weights, &mut pass.gradients, pass.offset, &trace.normed, &dtokens);
        for (block, trace_of) in tower.blocks.iter().zip(&trace.blocks).rev() {
            block.backward(pass, heads, &trace.lengths, trace_of, &mut dx);
        }
        dx
    }
}

/// Scales to unit length; gives the length it had.
fn make_unit(vector: &mut [f32]) -> f32 {
    let length = dot(vector, vector).sqrt().max(1e-12);
    vector.iter_mut().for_each(|value| *value /= length);
    length
}

/// The 5 x 5 windows of the first convolution, those of one patch side by side: (patches * 9, 75).
fn columns(pixels: &[f32], grid: usize) -> Vec<f32> {
    let (side, steps) = (grid * PATCH_PX, PATCH_PX / STEM_STRIDE_PX);
    let mut columns = Vec::with_capacity(grid * grid * steps * steps * STEM_WINDOW_PX * STEM_WINDOW_PX * 3);
    let places = (0..grid * grid).flat_map(|patch| (0..steps * steps).map(move |step| (patch, step)));
    for (patch, step) in places {
        // The window reaches one pixel beyond its step on either side; beyond the picture all is zero.
        let y = patch / grid * PATCH_PX + step / steps * STEM_STRIDE_PX;
        let x = patch % grid * PATCH_PX + step % steps * STEM_STRIDE_PX;
        for plane in pixels.chunks_exact(side * side) {
            for y in y..y + STEM_WINDOW_PX {
                for x in x..x + STEM_WINDOW_PX {
                    let is_inside = (1..=side).contains(&y) && (1..=side).contains(&x);
                    columns.push(if is_inside { plane[(y - 1) * side + x - 1] } else { 0.0 });
                }
            }
        }
    }
    columns
}

#[cfg(test)]
pub mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    pub const TINY: Sizes = Sizes {
        dim: 8,
        heads: 2,
        hidden: 12,
        image_blocks: 2,
        text_blocks: 1,
        grid: 2,
        channels: 4,
        table_rows: 64,
        max_text_tokens: 16,
        embedding: 6,
    };

    fn inputs() -> (Vec<Vec<f32>>, Vec<Tokens>) {
        let side = TINY.side_px();
        let image = |seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            (0..3 * side * side).map(|_| rng.random_range(-1.0..1.0)).collect()
        };
        let texts = ["red star", "three blue houses above a tree", "星"];
        (vec![image(0), image(3), image(8)], texts.map(|text| Tokens::read(text, TINY.table_rows, 16)).to_vec())
    }

    /// Any smooth function of the embeddings will do.
    fn loss(network: &Network, images: &[&[f32]], texts: &[&Tokens]) -> f32 {
        let (images, texts) = (network.images(images), network.texts(texts));
        let patches: f32 =
            network.patch_embeddings(&images).iter().enumerate().map(|(i, value)| (i % 3) as f32 * value).sum();
        let all = images.tower.embeddings.iter().chain(&texts.tower.embeddings);
        patches * 0.1
            + all
                .enumerate()
                .map(|(i, value)| ((i % 5) as f32 - 1.7) * value + value * value * (i % 3) as f32)
                .sum::<f32>()
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let mut network = Network::random(TINY, 5);
        let (images, texts) = inputs();
        let images: Vec<&[f32]> = images.iter().map(Vec::as_slice).collect();
        let texts: Vec<&Tokens> = texts.iter().collect();
        let (image, text) = (network.images(&images), network.texts(&texts));
        let n = image.tower.embeddings.len();
        let slope = |(i, value): (usize, &f32)| (i % 5) as f32 - 1.7 + 2.0 * value * (i % 3) as f32;
        let slopes: Vec<f32> =
            image.tower.embeddings.iter().chain(&text.tower.embeddings).enumerate().map(slope).collect();
        let n_patches = network.patch_embeddings(&image).len();
        let patch_slopes: Vec<f32> = (0..n_patches).map(|i| (i % 3) as f32 * 0.1).collect();
        let mut gradients = vec![0.0; network.layout.len()];
        let of_image = network.images_backward(&image, &slopes[..n], &patch_slopes);
        add(&mut gradients[of_image.range], &of_image.values);
        let (of_text, dwords) = network.texts_backward(&text, &slopes[n..]);
        add(&mut gradients[of_text.range], &of_text.values);
        network.learn_words(&mut gradients[network.layout.table.clone()], &texts, &dwords);

        for (name, range, _) in network.layout.tensors.clone() {
            let (mut n_checked, mut n_kinks) = (0, 0);
            for at in range.clone().step_by((range.len() / 12).max(1)) {
                let kept = network.weights[at];
                let mut loss_at = |offset: f32| {
                    network.weights[at] = kept + offset;
                    let value = loss(&network, &images, &texts);
                    network.weights[at] = kept;
                    value
                };
                let mut slope = |step: f32| (loss_at(step) - loss_at(-step)) / (2.0 * step);
                let (near, far) = (slope(1e-3), slope(3e-3));
                let close = |a: f32, b: f32| (a - b).abs() <= 0.02 + 0.04 * a.abs();
                // Where a rectifier opens within reach, the two steps disagree and neither is the slope.
                if close(near, far) {
                    assert!(close(near, gradients[at]), "{name} at {at}: expected {near}, received {}", gradients[at]);
                    n_checked += 1;
                } else {
                    n_kinks += 1;
                }
            }
            assert!(n_checked > 2 * n_kinks, "{name}: {n_checked} checked, {n_kinks} kinks");
        }
    }

    #[test]
    fn a_batch_gives_what_single_calls_give() {
        let network = Network::random(TINY, 1);
        let (images, texts) = inputs();
        let views: Vec<&[f32]> = images.iter().map(Vec::as_slice).collect();
        let together = network.images(&views).tower.embeddings;
        let alone: Vec<f32> = views.iter().flat_map(|&view| network.images(&[view]).tower.embeddings).collect();
        assert!(together.iter().zip(&alone).all(|(a, b)| (a - b).abs() <= 1e-5));
        let together = network.texts(&texts.iter().collect::<Vec<_>>()).tower.embeddings;
        let alone: Vec<f32> = texts.iter().flat_map(|text| network.texts(&[text]).tower.embeddings).collect();
        assert!(together.iter().zip(&alone).all(|(a, b)| (a - b).abs() <= 1e-5));
    }
}
