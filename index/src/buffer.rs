//! Vectors that no segment holds yet; they are searched exactly.
//!
//! Blocks never change once made, so that a generation shares them. Small blocks are merged as they arrive, like carries
//! in a binary counter, so there are few of them and each vector is copied about log(n) times.

use std::sync::Arc;

use crate::Row;

const MAX_BLOCK_VECTORS: usize = 4096;

/// Rows in rising order, and their vectors one after the other.
#[derive(Debug, Default)]
pub struct Block {
    pub rows: Vec<Row>,
    pub numbers: Vec<f32>,
}

#[derive(Clone, Debug, Default)]
pub struct Buffer {
    blocks: Vec<Arc<Block>>,
    len: usize,
}

impl Buffer {
    pub fn len(&self) -> usize {
        self.len
    }

    /// Takes rows above all that are there.
    pub fn append(&mut self, mut block: Block) {
        if block.rows.is_empty() {
            return;
        }
        self.len += block.rows.len();
        while let Some(last) = self.blocks.last()
            && last.rows.len() <= block.rows.len()
            && last.rows.len() + block.rows.len() <= MAX_BLOCK_VECTORS
        {
            block = last.followed_by(&block);
            self.blocks.pop();
        }
        self.blocks.push(Arc::new(block));
    }

    /// Every row and its vector, in rising order of rows.
    pub fn vectors(&self, dim: usize) -> impl Iterator<Item = (Row, &[f32])> {
        self.blocks.iter().flat_map(move |b| b.rows.iter().copied().zip(b.numbers.chunks_exact(dim)))
    }

    /// The same without the rows that `keep` refuses.
    pub fn filtered(&self, dim: usize, keep: impl Fn(Row) -> bool) -> Buffer {
        let mut kept = Buffer::default();
        for block in &self.blocks {
            let mut part = Block::default();
            for (&row, vector) in block.rows.iter().zip(block.numbers.chunks_exact(dim)).filter(|(row, _)| keep(**row))
            {
                part.rows.push(row);
                part.numbers.extend_from_slice(vector);
            }
            kept.append(part);
        }
        kept
    }
}

impl Block {
    fn followed_by(&self, next: &Block) -> Block {
        Block { rows: [&self.rows[..], &next.rows].concat(), numbers: [&self.numbers[..], &next.numbers].concat() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_stay_few_and_in_order() {
        let mut buffer = Buffer::default();
        for row in 0..3000u32 {
            buffer.append(Block { rows: vec![row], numbers: vec![row as f32, 0.0] });
        }
        assert!(buffer.blocks.len() <= 12, "{} blocks", buffer.blocks.len());
        assert_eq!(buffer.len(), 3000);
        assert!(buffer.vectors(2).enumerate().all(|(i, (row, v))| row == i as u32 && v == [i as f32, 0.0]));
        let odd = buffer.filtered(2, |row| row % 2 == 1);
        assert!(odd.vectors(2).map(|(row, _)| row).eq((0..1500).map(|i| i * 2 + 1)));
    }
}
