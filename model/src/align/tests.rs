//! Runs of a few steps on a few drawings: what a step is, what it changes, and that a run that goes on is the unbroken one.

mod refused;

use std::{collections::HashMap, path::Path, sync::Arc};

use candle_core::{DType, Device as Place, Tensor};
use image::RgbImage;

use super::{network::Network, shards::tests::write_tar, trainer::Trainer, *};
use crate::{Device, scenes, testing::fixture};

const SIDE: usize = 16;
const FACET_DIM: usize = 12;
const N_IMAGES: usize = 48;

/// Drawings of scenes in two tars, with captions and facets by their keys.
fn write_data(folder: &Path) {
    let mut captions = String::new();
    let mut facets = HashMap::new();
    let mut members = Vec::new();
    for at in 0..N_IMAGES {
        let scene = scenes::seen_scene(5, at as u64);
        let split = if at % 6 == 0 { "val" } else { "train" };
        members.push((format!("k{at}.png"), png(&scene.draw(20))));
        members.push((format!("k{at}.json"), format!(r#"{{"split": "{split}", "group": "g{at}"}}"#).into_bytes()));
        for language in ["en", "de"] {
            let text = scene.caption(language, scenes::Style::Long);
            captions += &format!(
                "{}\n",
                serde_json::json!({ "id": format!("k{at}"), "text": text, "language": language, "split": split })
            );
        }
        let values: Vec<f32> = (0..5 * FACET_DIM).map(|i| ((at * 31 + i * 7) % 29) as f32 / 10.0 - 1.4).collect();
        facets.insert(format!("k{at}"), Tensor::from_vec(values, (5, FACET_DIM), &Place::Cpu).unwrap());
    }
    std::fs::create_dir_all(folder.join("tars")).unwrap();
    let half = members.len() / 2;
    write_tar(&folder.join("tars/0.tar"), &members[..half]);
    write_tar(&folder.join("tars/1.tar"), &members[half..]);
    std::fs::write(folder.join("captions.jsonl"), captions).unwrap();
    candle_core::safetensors::save(&facets, folder.join("facets.safetensors")).unwrap();
    let number = |i: usize| ((i * 37) % 101) as f32 / 50.0 - 1.0 + ((i * 13) % 7) as f32 / 7.0;
    let save = |name: &str, shape: &[usize]| {
        let n: usize = shape.iter().product();
        let tensor = Tensor::from_vec((0..n).map(number).collect::<Vec<f32>>(), shape, &Place::Cpu).unwrap();
        let path = folder.join(format!("{name}.safetensors"));
        candle_core::safetensors::save(&HashMap::from([(name, tensor)]), path).unwrap();
    };
    save("embeddings", &[N_IMAGES, 10]);
    save("tokens", &[N_IMAGES, 4, 6]);
    let ids: Vec<String> = (0..N_IMAGES).map(|at| format!("k{at}")).collect();
    std::fs::write(folder.join("embeddings.ids.txt"), ids.join("\n")).unwrap();
}

fn frozen_images(folder: &Path) -> FrozenImages {
    let [embeddings, tokens] = ["embeddings", "tokens"].map(|name| folder.join(format!("{name}.safetensors")));
    FrozenImages::read(&embeddings, Some(&tokens), None).unwrap()
}

fn png(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// FLAME.
    Facets,
    /// FLAME with a frozen block.
    Block,
    /// A text tower against frozen images.
    Mirror,
    /// Both learn.
    Dual,
}

const KINDS: [Kind; 4] = [Kind::Facets, Kind::Block, Kind::Mirror, Kind::Dual];

fn options(folder: &Path, kind: Kind, out: &str) -> Options {
    let vit = VitSizes { side_px: SIDE, patch_px: 8, dim: 8, n_blocks: 1, projector: 12 };
    let block = BlockPlan::of(&fixture("decoder-mistral"), Some(1)).unwrap();
    let frozen = FrozenSizes { dim: 10, n_tokens: 4, token_dim: 6, projection: Projection::Mlp, hidden: 8 };
    let tower = TextSizes { table_rows: 64, dim: 8, n_blocks: 1, n_heads: 2, plain_dim: 8, max_tokens: 40 };
    let image = match kind {
        Kind::Facets | Kind::Dual => ImagePlan::Tower { sizes: vit, block: None },
        Kind::Block => ImagePlan::Tower { sizes: vit, block: Some(block) },
        Kind::Mirror => ImagePlan::Frozen(frozen),
    };
    let facets = matches!(kind, Kind::Facets | Kind::Block);
    let text = if facets { TextPlan::Facets { dim: FACET_DIM } } else { TextPlan::Tower(tower) };
    let recipe = Recipe { rate: 5e-3, decay: 0.1, n_warm_up: 2, ..Recipe::flame(6) };
    let plan = Plan {
        seed: 3,
        image,
        text,
        dim: FACET_DIM,
        loss: if kind == Kind::Mirror { Loss::InfoNce } else { Loss::Sigmoid },
        smoothing: 0.1,
        first_scale: 10.0,
        first_bias: -10.0,
        recipe,
        batch: 8,
        texts_per_image: 2,
        n_parts: 1,
        dropout: 0.0,
        word_dropout: 0.0,
        mean_kept: 0.0,
        precision: Precision::F32,
        held_out: 0.1,
        shuffle: 10,
        least_view: 0.9,
        softening: 0.3,
    };
    let images = match kind {
        Kind::Mirror => ImageSource::Frozen(Arc::new(frozen_images(folder))),
        _ => ImageSource::Shards(vec![folder.join("tars")]),
    };
    let texts = match facets {
        true => TextFiles::Facets(folder.join("facets.safetensors")),
        false => TextFiles::Captions(folder.join("captions.jsonl")),
    };
    Options {
        plan,
        sources: Sources { images, texts },
        device: Device::Cpu,
        out: folder.join(out),
        resume: false,
        checkpoint_every: 3,
        evaluate_every: 0,
        stop_after: None,
    }
}

fn trainer(options: &Options) -> Trainer {
    let data = Data::read(&options.plan, &options.sources).unwrap();
    let network = Network::new(&options.plan, &Place::Cpu, options.plan.precision.dtype()).unwrap();
    Trainer::new(options.plan.clone(), network, data.feed, data.rows).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn bytes(options: &Options) -> [Vec<u8>; 2] {
    [CHECKPOINT_FILE, ALIGNED_FILE].map(|name| std::fs::read(options.out.join(name)).unwrap())
}

#[test]
fn a_batch_in_parts_is_the_same_batch() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path());
    for kind in KINDS {
        let whole = trainer(&options(folder.path(), kind, "a"));
        let (loss, expected) = {
            let mut t = whole;
            let batch = t.feed.next().unwrap();
            t.gradients(batch).unwrap()
        };
        for n_parts in [2, 3] {
            let mut in_parts = options(folder.path(), kind, "a");
            in_parts.plan.n_parts = n_parts;
            let mut trainer = trainer(&in_parts);
            let batch = trainer.feed.next().unwrap();
            let (received_loss, received) = trainer.gradients(batch).unwrap();
            assert!((loss - received_loss).abs() < 1e-5 * loss.abs().max(1.0), "{kind:?}: {loss} {received_loss}");
            for (at, (expected, received)) in expected.iter().zip(&received).enumerate() {
                let name = &trainer.network.parameters[at].name;
                let (Some(expected), Some(received)) = (expected, received) else {
                    assert_eq!(expected.is_some(), received.is_some(), "{kind:?}: {name}");
                    continue;
                };
                let largest = |tensor: &Tensor| flat(tensor).iter().fold(0f32, |most, x| most.max(x.abs()));
                let far = largest(&(expected - received).unwrap()) / largest(expected).max(1.0);
                assert!(far < 1e-5, "{kind:?} in {n_parts} parts: {name}: {far}");
            }
        }
    }
}

#[test]
fn a_run_that_goes_on_is_the_unbroken_one() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path());
    for kind in [Kind::Block, Kind::Mirror] {
        let with = |out: &str| {
            let mut options = options(folder.path(), kind, &format!("{kind:?}-{out}"));
            (options.plan.dropout, options.plan.word_dropout, options.plan.mean_kept) = (0.2, 0.2, 0.5);
            options
        };
        let (straight, broken) = (with("straight"), with("broken"));
        align(&straight, &mut |_| {}).unwrap();
        align(&Options { stop_after: Some(4), ..broken.clone() }, &mut |_| {}).unwrap();
        assert!(bytes(&straight) != bytes(&broken), "{kind:?}");
        let mut steps = Vec::new();
        align(&Options { resume: true, ..broken.clone() }, &mut |progress| steps.push(progress.step)).unwrap();
        assert_eq!(steps, [5, 6], "{kind:?}");
        assert!(bytes(&straight) == bytes(&broken), "{kind:?}: a run that went on differs from an unbroken one");
    }
}

#[test]
fn a_frozen_block_stays_as_it_is_and_all_else_learns() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path());
    let mut trainer = trainer(&options(folder.path(), Kind::Block, "block"));
    let stored = crate::pair::Weights::open(&fixture("decoder-mistral")).unwrap();
    let frozen = trainer.network.frozen();
    assert_eq!(frozen.len(), 9);
    let learnt: Vec<Vec<f32>> = trainer.network.parameters.iter().map(|p| flat(p.var.as_tensor())).collect();
    for _ in 0..4 {
        trainer.step().unwrap();
    }
    for (name, tensor) in trainer.network.frozen() {
        let expected = flat(&stored.get(&name, tensor.dims(), &Place::Cpu).unwrap());
        let same = flat(&tensor).iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{name} has changed");
        assert!(trainer.network.parameters.iter().all(|p| p.name != name), "{name} is learnt");
    }
    for (parameter, before) in trainer.network.parameters.iter().zip(learnt) {
        // The class token is dropped before the mean; one block in, it is read by the patches.
        assert!(flat(parameter.var.as_tensor()) != before, "{} has not learnt", parameter.name);
    }
}

#[test]
fn every_kind_learns_what_it_sees() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path());
    for kind in KINDS {
        let mut options = options(folder.path(), kind, &format!("{kind:?}"));
        options.plan.recipe = Recipe { rate: 1e-2, decay: 0.0, n_warm_up: 5, ..Recipe::flame(60) };
        options.evaluate_every = 60;
        let (mut losses, mut seen) = (Vec::new(), None);
        let aligned = align(&options, &mut |progress| {
            losses.push(progress.loss);
            seen = progress.held_out.clone().or(seen.take());
        })
        .unwrap();
        let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
        // Facets here are numbers by a formula, and come through a block of random weights: little can be learnt of them.
        assert!(mean(&losses[36..]) < 0.98 * mean(&losses[..24]), "{kind:?}: {losses:?}");
        let seen = seen.expect("a look at what is held out");
        assert_eq!(seen.n_images, 8, "{kind:?}");
        let again = measure(&aligned, &options.sources).unwrap();
        assert_eq!(again.len(), if matches!(kind, Kind::Facets | Kind::Block) { 1 } else { 2 }, "{kind:?}");
        let texts = aligned.embed_texts(&["a red ball", "ein roter Ball"]);
        match kind {
            Kind::Facets | Kind::Block => assert!(matches!(texts, Err(Error::NoTextSide { .. }))),
            Kind::Mirror | Kind::Dual => {
                let texts = texts.unwrap();
                let expected = if kind == Kind::Mirror { 2 * FACET_DIM } else { FACET_DIM };
                assert_eq!((texts[0].embedding.len(), texts[0].tokens_used), (expected, 3));
                let length = texts[1].embedding.iter().map(|x| x * x).sum::<f32>();
                assert!((length - 1.0).abs() < 1e-4, "{length}");
                assert!(matches!(aligned.embed_texts(&["?!"]), Err(Error::EmptyText)));
            }
        }
    }
    let aligned = Aligned::read(&folder.path().join("Mirror"), Device::Cpu).unwrap();
    let images = frozen_images(folder.path());
    let projected = aligned.project(&images).unwrap();
    assert_eq!((projected.len(), images.ids()[7].as_str(), projected[7].len()), (N_IMAGES, "k7", 2 * FACET_DIM));
    let other = FrozenImages::new("x.npy".as_ref(), vec!["a".into()], vec![0.5; 3], None).unwrap();
    let error = aligned.project(&other).err().unwrap().to_string();
    assert!(
        error.contains("x.npy: expected 10 numbers and 4 x 6 tokens, as in training, received 3 and 0 x 0"),
        "{error}"
    );
    let of_pictures = Aligned::read(&folder.path().join("Dual"), Device::Cpu).unwrap();
    assert!(of_pictures.project(&images).err().unwrap().to_string().contains("these take pictures"));
}

#[test]
fn halves_learn_with_a_scaled_loss() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path());
    let full = trainer(&options(folder.path(), Kind::Facets, "full"));
    let mut halves = options(folder.path(), Kind::Facets, "halves");
    halves.plan.precision = Precision::F16;
    let mut halves = trainer(&halves);
    assert_eq!(halves.loss_scale, 65_536.0);
    // So small a tower has gradients that half precision holds only at a smaller scale.
    halves.loss_scale = 1024.0;
    let mut full = full;
    let (batch, again) = (full.feed.next().unwrap(), halves.feed.next().unwrap());
    let (expected, received) = (full.gradients(batch).unwrap(), halves.gradients(again).unwrap());
    assert!((expected.0 - received.0).abs() < 0.02 * expected.0, "{} {}", expected.0, received.0);
    let length = |all: &[Option<Tensor>]| {
        all.iter().flatten().flat_map(flat).map(|x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
    };
    let ratio = length(&received.1) / length(&expected.1) / 1024.0;
    assert!((ratio - 1.0).abs() < 0.05, "{ratio}");
    // A gradient that is none is left out, and the scale halved.
    halves.loss_scale = f32::MAX;
    let before = flat(halves.network.parameters[0].var.as_tensor());
    halves.step().unwrap();
    assert!(halves.loss_scale < f32::MAX && flat(halves.network.parameters[0].var.as_tensor()) == before);
}

#[test]
fn what_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path());
    let check = |change: &dyn Fn(&mut Options), kind: Kind, expected: &str| {
        let mut options = options(folder.path(), kind, "refused");
        change(&mut options);
        let error = align(&options, &mut |_| {}).err().expect(expected).to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(&|o| o.plan.dim = 99, Kind::Facets, "dim: expected that of the facets, 12, received 99");
    check(&|o| o.plan.batch = 1000, Kind::Facets, "expected at least 1000 training pictures of different groups");
    let missing = |o: &mut Options| o.sources.texts = TextFiles::Captions("/no/captions.jsonl".into());
    check(&missing, Kind::Dual, "captions.jsonl: there is no such file");
    let other = |o: &mut Options| {
        let images = FrozenImages::new("x.npy".as_ref(), vec!["a".into(), "b".into()], vec![0.5; 6], None).unwrap();
        o.sources.images = ImageSource::Frozen(Arc::new(images));
    };
    check(&other, Kind::Mirror, "expected captions of at least 2 training images, received 0");
    let ids = folder.path().join("two.txt");
    std::fs::write(&ids, "a\nb\n").unwrap();
    let error = FrozenImages::read(&folder.path().join("embeddings.safetensors"), None, Some(&ids)).err().unwrap();
    assert!(error.to_string().contains("two.txt: expected 48 rows, as the embeddings have, received 2"), "{error}");
    check(&|o| o.plan.recipe.betas = [2.0, 0.5], Kind::Dual, "betas: expected 0 to less than 1, received [2.0, 0.5]");
    check(&|o| o.plan.softening = f32::NAN, Kind::Mirror, "softening: expected 0 to 1, received NaN");
    check(&|o| o.plan.dim = 0, Kind::Mirror, "dim: expected 1 to 65536, received 0");
    let hidden = |o: &mut Options| {
        let ImagePlan::Frozen(sizes) = &mut o.plan.image else { panic!("images are frozen") };
        sizes.hidden = 1 << 30;
    };
    check(&hidden, Kind::Mirror, "hidden: expected 1 to 65536, received 1073741824");
    let mut mirror = options(folder.path(), Kind::Mirror, "data");
    align(&mirror, &mut |_| {}).unwrap();
    let ImageSource::Frozen(images) = &mirror.sources.images else { panic!("images are frozen") };
    let mut values = images.vectors.values.to_vec();
    values[0] += 1.0;
    let tokens = images.tokens().map(|tokens| (4, tokens.to_vec()));
    let other = FrozenImages::new("x".as_ref(), images.ids().to_vec(), values, tokens).unwrap();
    mirror.sources.images = ImageSource::Frozen(Arc::new(other));
    mirror.resume = true;
    let error = align(&mirror, &mut |_| {}).err().unwrap().to_string();
    assert!(error.contains("made with other data; hint"), "{error}");
    let mut options = options(folder.path(), Kind::Dual, "plans");
    options.plan.recipe.n_steps = 1;
    align(&options, &mut |_| {}).unwrap();
    options.plan.seed = 4;
    options.resume = true;
    let error = align(&options, &mut |_| {}).err().unwrap().to_string();
    assert!(
        error.contains("checkpoint.safetensors: made with other settings: seed: expected 3, received 4; hint"),
        "{error}"
    );
}

#[test]
fn what_was_learnt_is_a_model_by_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    write_data(dir.path());
    let picture = scenes::seen_scene(5, 1).draw(20);
    for kind in KINDS {
        let options = options(dir.path(), kind, &format!("{kind:?}"));
        let aligned = align(&options, &mut |_| ()).unwrap();
        let name = options.out.to_str().unwrap();
        let model = crate::load(name, Device::Cpu).unwrap();
        let report = crate::check::check(name).unwrap();
        assert!(report.ok && report.parameters.unwrap() > 0, "{kind:?}: {report:?}");
        let keep = crate::Keep::Tokens(crate::Grid::Four);
        let close = |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        match (kind, model.preprocess(&picture)) {
            (Kind::Mirror, pixels) => assert!(matches!(pixels, Err(Error::NoImageSide { .. }))),
            (_, pixels) => {
                let pixels = pixels.unwrap();
                assert_eq!(pixels, view::Views::new(SIDE, 0.9).middle(&picture));
                let images = model.embed_images(std::slice::from_ref(&pixels), keep).unwrap();
                let wanted = aligned.parts().1.embed_images(&feed::Images::Pictures(vec![pixels]), None).unwrap();
                assert!(close(&images[0].embedding, &wanted[0]), "{kind:?}");
                assert_eq!(
                    images[0].fusion_tokens.as_ref().map(|t| t.shape()),
                    model.info().token_shapes(crate::Grid::Four).image
                );
            }
        }
        let texts = model.embed_texts(&["two red cubes", "a blue ball left of it"], keep);
        match kind {
            Kind::Facets | Kind::Block => assert!(matches!(texts, Err(Error::NoTextSide { .. }))),
            Kind::Mirror | Kind::Dual => {
                let texts = texts.unwrap();
                let wanted = aligned.embed_texts(&["two red cubes", "a blue ball left of it"]).unwrap();
                assert_eq!(texts[1].embedding, wanted[1].embedding);
                assert_eq!(texts[1].embedding.len(), model.info().dim);
                assert_eq!(texts[1].fusion_tokens.as_ref().map(|t| t.shape()), model.info().text_tokens);
            }
        }
    }
}
