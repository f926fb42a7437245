//! What a damaged file, a changed input or a flag may say, and what is said of it.

use super::*;
use crate::{
    learn::tensors::{read_tensors, write_tensors},
    testing::copy_of_fixture,
};

const BLOCK: usize = 1;

fn error_of<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}

/// The same decoder, but for the weights of its block.
fn change_block(decoder: &Path) {
    let path = decoder.join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Place::Cpu).unwrap();
    let name = format!("model.layers.{BLOCK}.mlp.up_proj.weight");
    let changed = (&tensors[&name] * 1.5).unwrap();
    tensors.insert(name, changed);
    candle_core::safetensors::save(&tensors, &path).unwrap();
}

#[test]
fn a_tower_is_opened_with_the_block_it_learnt_around_alone() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path());
    let decoder = copy_of_fixture("decoder-mistral");
    let mut run = options(folder.path(), Kind::Block, "block");
    let with_block = |run: &mut Options| {
        let ImagePlan::Tower { block, .. } = &mut run.plan.image else { panic!("an image tower") };
        *block = Some(BlockPlan::of(decoder.path(), Some(BLOCK)).unwrap());
    };
    with_block(&mut run);
    align(&Options { stop_after: Some(2), ..run.clone() }, &mut |_| {}).unwrap();
    let name = run.out.to_str().unwrap();
    assert!(crate::check(name).unwrap().ok);

    let join = folder.path().join("join");
    std::fs::create_dir(&join).unwrap();
    std::fs::write(join.join("model.toml"), "[image]\ncheckpoint = \"../block/aligned.safetensors\"\n").unwrap();
    let report = crate::check(join.to_str().unwrap()).unwrap();
    assert!(!report.ok && report.unread_tensors.is_empty(), "{report:?}");
    assert!(report.faults[0].ends_with("expected an [image.block], received none"), "{report:?}");

    change_block(decoder.path());
    let error = error_of(Aligned::read(&run.out, Device::Cpu));
    assert!(error.contains("block 1: expected the one that was learnt around, BLAKE3 "), "{error}");
    assert!(!crate::check(name).unwrap().ok && crate::load(name, Device::Cpu).is_err());
    with_block(&mut run);
    let error = error_of(align(&Options { resume: true, ..run }, &mut |_| {}));
    assert!(error.contains("made with other settings: image.tower.block.hash: expected "), "{error}");

    let error = error_of(BlockPlan::of(&folder.path().join("nowhere"), None));
    assert!(
        error.contains("nowhere: expected the folder of the decoder") && error.ends_with("received none"),
        "{error}"
    );
    assert_eq!(BlockPlan::of(decoder.path(), None).unwrap().index, 2, "the last one");
    let error = error_of(BlockPlan::of(folder.path(), None));
    assert!(error.ends_with("received one without config.json"), "{error}");
}

#[test]
fn sizes_out_of_range_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let check = |kind: Kind, change: &dyn Fn(&mut VitSizes, &mut TextSizes), expected: &str| {
        let mut plan = options(folder.path(), kind, "sizes").plan;
        let (mut vit, mut text) = (VitSizes { side_px: 16, patch_px: 8, dim: 8, n_blocks: 1, projector: 8 }, None);
        if let TextPlan::Tower(sizes) = &plan.text {
            text = Some(sizes.clone());
        }
        let mut text = text.expect("a text tower");
        change(&mut vit, &mut text);
        (plan.image, plan.text) = (ImagePlan::Tower { sizes: vit, block: None }, TextPlan::Tower(text));
        assert_eq!(plan.check().err().as_deref(), Some(expected));
    };
    let image = |change: &dyn Fn(&mut VitSizes), expected: &str| check(Kind::Dual, &|vit, _| change(vit), expected);
    let text = |change: &dyn Fn(&mut TextSizes), expected: &str| check(Kind::Dual, &|_, text| change(text), expected);
    image(&|v| (v.side_px, v.patch_px) = (4097, 4097), "side_px: expected 1 to 4096, received 4097");
    image(&|v| (v.side_px, v.patch_px) = (1 << 40, 1), "side_px: expected 1 to 4096, received 1099511627776");
    image(&|v| (v.side_px, v.patch_px) = (1 << 31, 1 << 31), "side_px: expected 1 to 4096, received 2147483648");
    image(&|v| (v.side_px, v.patch_px) = (4096, 1), "patches: expected 1 to 65536, received 16777216");
    image(&|v| v.patch_px = 0, "patch_px: expected 1 to 16, received 0");
    image(&|v| v.patch_px = 5, "side_px: expected a multiple of the patch, 5, received 16");
    image(&|v| v.dim = 1 << 40, "image_dim: expected 1 to 16384, received 1099511627776");
    image(&|v| v.dim = 65, "image_dim: expected at most 64 or a multiple of it, received 65");
    image(&|v| v.n_blocks = 257, "image_blocks: expected 1 to 256, received 257");
    image(&|v| v.projector = 1 << 30, "projector: expected 1 to 65536, received 1073741824");
    text(&|t| t.table_rows = 0, "table_rows: expected 1 to 16777216, received 0");
    text(&|t| t.n_heads = 3, "text_heads: expected a divisor of the width, 8, received 3");
    text(&|t| t.max_tokens = 1 << 17, "max_tokens: expected 1 to 65536, received 131072");
}

#[test]
fn numbers_are_counted_before_they_are_made() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path());
    for kind in KINDS {
        let mut plan = options(folder.path(), kind, "counted").plan;
        let check = |plan: &Plan| {
            let made = Network::new(plan, &Place::Cpu, DType::F32).unwrap().parameters;
            let made = made.iter().filter(|p| !p.name.starts_with("llama_dim_mapper"));
            assert_eq!(plan.n_parameters(), made.map(|p| p.var.elem_count() as u64).sum::<u64>(), "{kind:?}");
        };
        check(&plan);
        if let ImagePlan::Frozen(sizes) = &mut plan.image {
            sizes.n_tokens = 0;
            check(&plan);
        }
        for projection in [Projection::Linear, Projection::None] {
            if let ImagePlan::Frozen(sizes) = &mut plan.image {
                sizes.projection = projection;
                check(&plan);
            }
        }
        if let TextPlan::Tower(sizes) = &mut plan.text {
            sizes.plain_dim = 0;
            check(&plan);
        }
    }
    let mut run = options(folder.path(), Kind::Mirror, "huge");
    let TextPlan::Tower(sizes) = &mut run.plan.text else { panic!("a text tower") };
    (sizes.table_rows, sizes.plain_dim) = (1 << 24, 1 << 14);
    #[cfg(target_os = "linux")]
    {
        let error = error_of(align(&run, &mut |_| {}));
        assert!(error.contains("bytes of memory to be learnt") && error.ends_with("hint: smaller sizes"), "{error}");
        assert!(!run.out.exists(), "nothing is written");
    }
}

#[test]
fn a_plan_in_a_file_is_not_trusted() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path());
    let run = options(folder.path(), Kind::Mirror, "mirror");
    align(&Options { stop_after: Some(1), ..run.clone() }, &mut |_| {}).unwrap();
    let path = run.out.join(ALIGNED_FILE);
    let (plan, tensors) = read_tensors(&path, "firn.aligned", &Place::Cpu).unwrap();
    let tensors: Vec<(String, Tensor)> = tensors.into_iter().collect();
    let check = |pointer: &str, value: u64, expected: &str| {
        let mut json: serde_json::Value = serde_json::from_str(&plan).unwrap();
        *json.pointer_mut(pointer).expect(pointer) = value.into();
        write_tensors(&path, &tensors, ("firn.aligned", &json.to_string())).unwrap();
        let error = error_of(Aligned::read(&run.out, Device::Cpu));
        assert!(error.contains("aligned.safetensors: ") && error.contains(expected), "{error}");
    };
    check("/image/frozen/dim", 1_000_000_000_000, "images' dim: expected 1 to 65536, received 1000000000000");
    check("/image/frozen/hidden", 1 << 40, "hidden: expected 1 to 65536");
    check("/text/tower/max_tokens", 1 << 40, "max_tokens: expected 1 to 65536");
    check("/text/tower/table_rows", 1 << 24, "expected the ");
    check("/image/frozen/dim", 1 << 16, "numbers of its plan, received ");
}

#[test]
fn a_run_without_gradients_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path());
    let mut run = options(folder.path(), Kind::Mirror, "lost");
    run.plan.precision = Precision::F16;
    let mut trainer = trainer(&run);
    for step in 0..trainer::MAX_LEFT_OUT {
        assert!(!trainer.is_lost(), "{step}");
        trainer.loss_scale = f32::MAX;
        trainer.step().unwrap();
    }
    assert!(trainer.is_lost());
}

#[test]
fn splits_of_captions_hold_pictures_out() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path());
    let mut run = options(folder.path(), Kind::Dual, "dual");
    let members = |with_json: &dyn Fn(usize) -> Option<String>| {
        let of = |at: usize| {
            let picture = png(&scenes::seen_scene(5, at as u64).draw(20));
            let json = with_json(at).map(|json| (format!("k{at}.json"), json.into_bytes()));
            [(format!("k{at}.png"), picture)].into_iter().chain(json)
        };
        (0..N_IMAGES).flat_map(of).collect::<Vec<_>>()
    };
    let tar = folder.path().join("plain.tar");
    run.sources.images = ImageSource::Shards(vec![tar.clone()]);
    run.evaluate_every = 1;
    write_tar(&tar, &members(&|_| None));
    let mut seen = None;
    align(&Options { stop_after: Some(1), ..run.clone() }, &mut |progress| seen = progress.held_out.clone()).unwrap();
    assert_eq!(seen.expect("a look").n_images, 8);
    let mut trainer = trainer(&run);
    for _ in 0..12 {
        // Captions of what is held out are never drawn: their pictures are not.
        let feed::Feed::Shards(feed) = &mut trainer.feed else { panic!("pictures are streamed") };
        let samples = feed.take().unwrap();
        assert!(samples.iter().all(|sample| sample.key[1..].parse::<usize>().unwrap() % 6 != 0));
    }
    write_tar(&tar, &members(&|at| Some(format!(r#"{{"split": "{}"}}"#, if at == 6 { "train" } else { "val" }))));
    let error = error_of(align(&Options { resume: false, ..run }, &mut |_| {}));
    assert!(error.contains("plain.tar: k1: split: expected \"val\", as the tar says, received \"train\""), "{error}");
}

#[test]
fn captions_that_meet_and_teach_nothing_are_told_from_those_that_do_not_meet() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path());
    let mut run = options(folder.path(), Kind::Mirror, "none");
    let captions = folder.path().join("few.jsonl");
    run.sources.texts = TextFiles::Captions(captions.clone());
    let check = |row: &dyn Fn(usize) -> String, expected: &str| {
        std::fs::write(&captions, (0..N_IMAGES).map(row).collect::<Vec<_>>().join("\n")).unwrap();
        let error = error_of(align(&run, &mut |_| {}));
        assert!(error.ends_with(expected), "{error}");
    };
    check(
        &|at| format!(r#"{{"id": "k{at}", "split": "val", "text": "a ball"}}"#),
        "received 0: of 48 images that are described 48 are held out, and 0 have no words",
    );
    check(
        &|at| format!(r#"{{"id": "k{at}", "split": "train", "text": "?!"}}"#),
        "received 0: of 48 images that are described 0 are held out, and 48 have no words",
    );
    check(
        &|at| format!(r#"{{"id": "x{at}", "split": "train", "text": "a ball"}}"#),
        "hint: an image is called \"k0\", and the captions describe \"x0\"",
    );
}
