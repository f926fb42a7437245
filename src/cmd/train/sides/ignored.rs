//! Flags that a run would not look at: they are refused, not passed over.

use super::{super::AlignArgs, DataArgs, FrozenSide, SideArgs, name};
use crate::exit::Usage;

/// A flag, whether it is given, and whether it is read.
type Flag = (&'static str, bool, bool);

/// What is said and would not be looked at.
pub(in super::super) fn refuse_ignored(args: &AlignArgs) -> Result<(), Usage> {
    let frozen = args.sides.frozen;
    let flags = flags_of_data(&args.sides.data, frozen).into_iter();
    let flags = flags.chain(flags_of_towers(&args.sides, frozen)).chain(flags_of_steps(&args.sides, frozen));
    for (flag, is_given, is_read) in flags.chain(flags_of_builtin(args)) {
        Usage::unless(is_read || !is_given, || match frozen {
            Some(frozen) => format!("{flag}: not read with --frozen {}", name(frozen)),
            None => format!("{flag}: goes with --frozen text, image or none"),
        })?;
    }
    Ok(())
}

/// Whether pictures are read, and whether captions are.
fn reads(frozen: Option<FrozenSide>) -> (bool, bool) {
    let (of_text, of_image, of_none) = (Some(FrozenSide::Text), Some(FrozenSide::Image), Some(FrozenSide::None));
    (frozen == of_text || frozen == of_none, frozen == of_image || frozen == of_none)
}

pub(super) fn flags_of_data(data: &DataArgs, frozen: Option<FrozenSide>) -> [Flag; 6] {
    let (pictures, captions) = reads(frozen);
    let vectors = frozen == Some(FrozenSide::Image);
    [
        ("--images", !data.images.is_empty(), pictures),
        ("--facets", !data.facets.is_empty(), frozen == Some(FrozenSide::Text)),
        ("--captions", data.captions.is_some(), captions),
        ("--embeddings", data.frozen_images.is_given("--embeddings"), vectors),
        ("--tokens", data.frozen_images.is_given("--tokens"), vectors),
        ("--ids", data.frozen_images.is_given("--ids"), vectors),
    ]
}

fn flags_of_towers(sides: &SideArgs, frozen: Option<FrozenSide>) -> [Flag; 17] {
    let (pictures, captions) = reads(frozen);
    let vectors = frozen == Some(FrozenSide::Image);
    [
        ("--side-px", sides.side_px.is_some(), pictures),
        ("--patch-px", sides.patch_px.is_some(), pictures),
        ("--image-dim", sides.image_dim.is_some(), pictures),
        ("--image-blocks", sides.image_blocks.is_some(), pictures),
        ("--projector", sides.projector.is_some(), pictures),
        ("--block", sides.block.is_some(), pictures),
        ("--shuffle", sides.shuffle.is_some(), pictures),
        ("--least-view", sides.least_view.is_some(), pictures),
        ("--text-dim", sides.text_dim.is_some(), captions),
        ("--text-blocks", sides.text_blocks.is_some(), captions),
        ("--text-heads", sides.text_heads.is_some(), captions),
        ("--plain-dim", sides.plain_dim.is_some(), captions),
        ("--table-rows", sides.table_rows.is_some(), captions),
        ("--max-tokens", sides.max_tokens.is_some(), captions),
        ("--projection", sides.projection.is_some(), vectors),
        ("--hidden", sides.hidden.is_some(), vectors),
        ("--softening", sides.softening.is_some(), vectors),
    ]
}

fn flags_of_steps(sides: &SideArgs, frozen: Option<FrozenSide>) -> [Flag; 14] {
    let given = [
        ("--dim", sides.dim.is_some()),
        ("--texts-per-image", sides.texts_per_image.is_some()),
        ("--smoothing", sides.smoothing.is_some()),
        ("--first-scale", sides.first_scale.is_some()),
        ("--first-bias", sides.first_bias.is_some()),
        ("--betas", sides.betas.is_some()),
        ("--epsilon", sides.epsilon.is_some()),
        ("--decay", sides.decay.is_some()),
        ("--accumulate", sides.accumulate.is_some()),
        ("--dropout", sides.dropout.is_some()),
        ("--word-dropout", sides.word_dropout.is_some()),
        ("--mean-kept", sides.mean_kept.is_some()),
        ("--precision", sides.precision.is_some()),
        ("--held-out", sides.held_out.is_some()),
    ];
    given.map(|(flag, is_given)| (flag, is_given, frozen.is_some()))
}

fn flags_of_builtin(args: &AlignArgs) -> [Flag; 5] {
    let given = [
        ("--scenes", args.scenes),
        ("--emoji", args.emoji.is_some()),
        ("--emoji-share", args.emoji_share.is_some()),
        ("--teacher", args.teacher.is_some()),
        ("--decline", args.decline.is_some()),
    ];
    given.map(|(flag, is_given)| (flag, is_given, args.sides.frozen.is_none()))
}
