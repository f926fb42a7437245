//! What a `model.toml` names: each side is looked at where it is.

use std::path::Path;

use candle_core::DType;

use super::{CheckReport, Memory};
use crate::{
    Error,
    decoder::{Depth, LoneBlock, Store},
    join::{self, ImageKind, Table, TextKind},
    kind::Kind,
    pair::{FrozenBlock, n_numbers},
    side::Want,
};

impl CheckReport {
    pub(super) fn look_at_join(&mut self, folder: &Path) {
        let Some(table) = self.keep(Table::read(folder)) else { return };
        let (image, block) = table.image.map(|image| (image.kind, image.block)).unzip();
        if let Some(block) = block.flatten().and_then(|block| self.keep(block.found(folder))) {
            self.look_at_block(&block);
        }
        match image {
            Some(ImageKind::Model(name)) => self.look_at_side(&name, folder, Want::Image),
            Some(ImageKind::Checkpoint(file)) => self.look_at_checkpoint(&file, folder, Want::Image),
            None => {}
        }
        match table.text {
            Some(TextKind::Model(name)) => self.look_at_side(&name, folder, Want::Text),
            Some(TextKind::Checkpoint(file)) => self.look_at_checkpoint(&file, folder, Want::Text),
            Some(TextKind::Stack(stack)) => {
                stack.models.iter().for_each(|name| self.look_at_side(name, folder, Want::Text));
            }
            Some(TextKind::Facets(facets)) => {
                self.keep(facets.template(folder));
                if let Some(decoder) = self.keep(facets.decoder(folder)) {
                    self.look_at_depth(&decoder, None, Depth::BlocksBut(facets.blocks_left_out));
                }
            }
            None => {}
        }
        self.family = None;
    }

    /// Of the shapes of the mappers, loading says what is wrong.
    pub(super) fn look_at_block(&mut self, block: &FrozenBlock) {
        if !block.mappers.is_file() {
            self.keep_missing(&block.mappers);
        }
        let Some(store) = self.keep(Store::open(&block.decoder)) else { return };
        let Some(config) = self.keep(store.config(&block.decoder)) else { return };
        let bad = |detail| Error::BadFile { file: block.decoder.clone(), detail };
        let Some(needed) = self.keep(LoneBlock::tensors(&config, block.index, block.norm).map_err(bad)) else { return };
        let parameters = needed.iter().map(n_numbers).sum();
        let weights_bytes = store.n_bytes(&needed, DType::F32);
        let memory = |device| Memory { device, dtype: "f32", weights_bytes, batch_bytes: 0 };
        self.add(parameters, ["cpu", "cuda"].map(memory).to_vec());
        self.look_at_store(&store, &config, &needed);
    }

    fn look_at_checkpoint(&mut self, file: &Path, folder: &Path, want: Want) {
        if let Some(path) = self.keep(join::checkpoint(file, folder)) {
            self.look_at_towers(&path, None, want);
        }
    }

    fn look_at_side(&mut self, name: &str, folder: &Path, want: Want) {
        let Some(place) = self.keep(join::place(name, folder)) else { return };
        match Kind::of(&place) {
            Kind::Sentences => self.look_at_sentences(&place, None),
            Kind::Decoder => self.look_at_decoder(&place, None),
            Kind::Aligned => self.look_at_aligned(&place),
            Kind::Ridge => self.look_at_ridge(&place),
            Kind::Pair | Kind::Join => self.look_at_towers(&place, None, want),
        }
    }
}
