//! The names of OpenAI's CLIP, which OpenCLIP, Long-CLIP and FLAME kept, under those of transformers: where a tensor comes from, and
//! which of its rows it is.

use std::ops::Range;

use candle_core::Tensor;

/// Places of a Long-CLIP text that come from the table of the CLIP it was made of; the others from the one that was trained.
const N_OLD_PLACES: usize = 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    Transformers,
    OpenClip {
        /// Before the names of the text tower: nothing, or `text.` where it is a module of its own.
        text: &'static str,
        /// Whether there is a second table of places.
        long: bool,
    },
}

/// A tensor of the files that another is made of, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub name: String,
    /// In the file.
    pub shape: Vec<usize>,
    part: Part,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    /// Rows for columns.
    Turned,
    Rows(Range<usize>),
}

impl Naming {
    pub(super) fn of(has: impl Fn(&str) -> bool) -> Naming {
        if !has("visual.conv1.weight") && !has("token_embedding.weight") {
            return Naming::Transformers;
        }
        let text = if has("text.token_embedding.weight") { "text." } else { "" };
        Naming::OpenClip { text, long: has(&format!("{text}positional_embedding_res")) }
    }

    /// What a tensor of this name and shape is made of; of several, one stands below the other.
    pub(super) fn origins(&self, name: &str, shape: &[usize]) -> Vec<Origin> {
        let whole = |name: String| vec![Origin { name, shape: shape.to_vec(), part: Part::Whole }];
        let turned = |name: String| {
            let shape = shape.iter().rev().copied().collect();
            vec![Origin { name, shape, part: Part::Turned }]
        };
        let Naming::OpenClip { text, long } = self else { return whole(name.to_owned()) };
        match name {
            "visual_projection.weight" => turned("visual.proj".to_owned()),
            "text_projection.weight" => turned(format!("{text}text_projection")),
            "text_model.embeddings.position_embedding.weight" if *long => long_places(text, shape),
            _ => match name.split_once(".encoder.layers.") {
                Some((tower, rest)) => self.of_layer(tower, rest, shape),
                None => whole(self.plain(name)),
            },
        }
    }

    fn plain(&self, name: &str) -> String {
        let Naming::OpenClip { text, .. } = self else { return name.to_owned() };
        for (ours, theirs) in [
            ("vision_model.embeddings.patch_embedding", "visual.conv1"),
            ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
            ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
            ("vision_model.pre_layrnorm", "visual.ln_pre"),
            ("vision_model.post_layernorm", "visual.ln_post"),
        ] {
            if let Some(rest) = name.strip_prefix(ours) {
                return format!("{theirs}{rest}");
            }
        }
        for (ours, theirs) in [
            ("text_model.embeddings.token_embedding", "token_embedding"),
            ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
            ("text_model.final_layer_norm", "ln_final"),
        ] {
            if let Some(rest) = name.strip_prefix(ours) {
                return format!("{text}{theirs}{rest}");
            }
        }
        name.to_owned()
    }

    /// Of `N.part.weight` or `N.part.bias`.
    fn of_layer(&self, tower: &str, rest: &str, shape: &[usize]) -> Vec<Origin> {
        let at = if tower == "vision_model" { "visual." } else { self.text_prefix() };
        let (layer, part) = rest.split_once('.').unwrap_or((rest, ""));
        let (part, kind) = part.rsplit_once('.').unwrap_or((part, ""));
        let block = format!("{at}transformer.resblocks.{layer}");
        if let Some(third) =
            ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].iter().position(|p| *p == part)
        {
            let n = shape[0];
            let shape = [&[3 * n], &shape[1..]].concat();
            let name = format!("{block}.attn.in_proj_{kind}");
            return vec![Origin { name, shape, part: Part::Rows(third * n..(third + 1) * n) }];
        }
        let theirs = match part {
            "self_attn.out_proj" => "attn.out_proj",
            "layer_norm1" => "ln_1",
            "layer_norm2" => "ln_2",
            "mlp.fc1" => "mlp.c_fc",
            "mlp.fc2" => "mlp.c_proj",
            other => other,
        };
        vec![Origin { name: format!("{block}.{theirs}.{kind}"), shape: shape.to_vec(), part: Part::Whole }]
    }

    pub(crate) fn text_prefix(&self) -> &'static str {
        match self {
            Naming::Transformers => "",
            Naming::OpenClip { text, .. } => text,
        }
    }
}

/// The first places from the old table, the others from the new one; both tables are whole.
fn long_places(text: &str, shape: &[usize]) -> Vec<Origin> {
    let n_old = N_OLD_PLACES.min(shape[0]);
    let table =
        |name: &str, rows| Origin { name: format!("{text}{name}"), shape: shape.to_vec(), part: Part::Rows(rows) };
    vec![table("positional_embedding", 0..n_old), table("positional_embedding_res", n_old..shape[0])]
}

impl Origin {
    /// The part that is wanted of the tensor in the file.
    pub(super) fn take(&self, tensor: &Tensor) -> candle_core::Result<Tensor> {
        match &self.part {
            Part::Whole => Ok(tensor.clone()),
            Part::Turned => tensor.t()?.contiguous(),
            Part::Rows(rows) => tensor.narrow(0, rows.start, rows.len())?.contiguous(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_clip_has_its_origin() {
        let plain = Naming::OpenClip { text: "", long: false };
        let check = |name: &str, shape: &[usize], expected: &str, expected_shape: &[usize]| {
            let origins = plain.origins(name, shape);
            let [Origin { name: theirs, shape, .. }] = &origins[..] else { panic!("{name}: {origins:?}") };
            assert_eq!((&**theirs, &**shape), (expected, expected_shape), "{name}");
        };
        check("vision_model.embeddings.patch_embedding.weight", &[8, 3, 2, 2], "visual.conv1.weight", &[8, 3, 2, 2]);
        check("vision_model.embeddings.class_embedding", &[8], "visual.class_embedding", &[8]);
        check("vision_model.embeddings.position_embedding.weight", &[5, 8], "visual.positional_embedding", &[5, 8]);
        check("vision_model.pre_layrnorm.bias", &[8], "visual.ln_pre.bias", &[8]);
        check("vision_model.post_layernorm.weight", &[8], "visual.ln_post.weight", &[8]);
        check("visual_projection.weight", &[4, 8], "visual.proj", &[8, 4]);
        check("text_model.embeddings.token_embedding.weight", &[9, 6], "token_embedding.weight", &[9, 6]);
        check("text_model.embeddings.position_embedding.weight", &[7, 6], "positional_embedding", &[7, 6]);
        check("text_model.final_layer_norm.weight", &[6], "ln_final.weight", &[6]);
        check("text_projection.weight", &[4, 6], "text_projection", &[6, 4]);
        let (ours, theirs) = ("vision_model.encoder.layers.11", "visual.transformer.resblocks.11");
        for (part, shape, origin, origin_shape) in [
            ("self_attn.k_proj.weight", &[8, 8][..], "attn.in_proj_weight", &[24, 8][..]),
            ("self_attn.v_proj.bias", &[8], "attn.in_proj_bias", &[24]),
            ("self_attn.out_proj.weight", &[8, 8], "attn.out_proj.weight", &[8, 8]),
            ("layer_norm1.weight", &[8], "ln_1.weight", &[8]),
            ("layer_norm2.bias", &[8], "ln_2.bias", &[8]),
            ("mlp.fc1.weight", &[32, 8], "mlp.c_fc.weight", &[32, 8]),
            ("mlp.fc2.bias", &[8], "mlp.c_proj.bias", &[8]),
        ] {
            check(&format!("{ours}.{part}"), shape, &format!("{theirs}.{origin}"), origin_shape);
        }
        check("text_model.encoder.layers.0.mlp.fc1.bias", &[24], "transformer.resblocks.0.mlp.c_fc.bias", &[24]);
    }

    #[test]
    fn a_long_text_has_two_tables() {
        let naming = Naming::OpenClip { text: "text.", long: true };
        let origins = naming.origins("text_model.embeddings.position_embedding.weight", &[248, 6]);
        let parts: Vec<_> = origins.iter().map(|o| (&*o.name, &*o.shape, o.part.clone())).collect();
        assert_eq!(
            parts,
            [
                ("text.positional_embedding", &[248, 6][..], Part::Rows(0..20)),
                ("text.positional_embedding_res", &[248, 6], Part::Rows(20..248))
            ]
        );
    }

    #[test]
    fn names_tell_which_they_are() {
        let of = |names: &[&str]| Naming::of(|name| names.contains(&name));
        assert_eq!(of(&["vision_model.post_layernorm.bias"]), Naming::Transformers);
        assert_eq!(of(&["visual.conv1.weight"]), Naming::OpenClip { text: "", long: false });
        assert_eq!(
            of(&["visual.conv1.weight", "text.token_embedding.weight"]),
            Naming::OpenClip { text: "text.", long: false }
        );
        assert_eq!(
            of(&["token_embedding.weight", "positional_embedding_res"]),
            Naming::OpenClip { text: "", long: true }
        );
    }
}
