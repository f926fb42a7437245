//! What a `model.toml` names: each side is looked at where it is.

use std::path::Path;

use super::{CheckReport, family::Family, family::Kind};
use crate::{
    decoder::Depth,
    join::{self, ImageKind, Table, TextKind},
    side::Want,
};

impl CheckReport {
    pub(super) fn look_at_join(&mut self, folder: &Path) {
        let Some(table) = self.keep(Table::read(folder)) else { return };
        // Of a block inside the tower, loading says what is wrong.
        match table.image.map(|image| image.kind) {
            Some(ImageKind::Model(name)) => self.look_at_side(&name, folder, Want::Image),
            Some(ImageKind::Checkpoint(file)) => self.look_at_checkpoint(&file, folder, Want::Image),
            None => {}
        }
        match table.text {
            Some(TextKind::Model(name)) => self.look_at_side(&name, folder, Want::Text),
            Some(TextKind::Checkpoint(file)) => self.look_at_checkpoint(&file, folder, Want::Text),
            Some(TextKind::Facets(facets)) => {
                self.keep(facets.template(folder));
                // Of a GGUF file, loading says what is wrong.
                if let Some(decoder) = self.keep(facets.decoder(folder)).filter(|path| path.is_dir()) {
                    self.look_at_depth(&decoder, None, Depth::BlocksBut(facets.blocks_left_out));
                }
            }
            None => {}
        }
        self.family = None;
    }

    fn look_at_checkpoint(&mut self, file: &Path, folder: &Path, want: Want) {
        if let Some(path) = self.keep(join::checkpoint(file, folder)) {
            self.look_at_towers(&path, None, want);
        }
    }

    fn look_at_side(&mut self, name: &str, folder: &Path, want: Want) {
        let Some(place) = self.keep(join::place(name, folder)) else { return };
        match Family::kind_of(&place) {
            Kind::Sentences => self.look_at_sentences(&place, None),
            Kind::Decoder => self.look_at_decoder(&place, None),
            Kind::Pair | Kind::Join => self.look_at_towers(&place, None, want),
        }
    }
}
