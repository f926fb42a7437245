//! Networks on made-up pairs: what they start as, what they may see, and whether they learn what a cosine cannot say.

use std::{collections::BTreeMap, ops::ControlFlow};

use candle_core::{DType, Device, Tensor};
use half::f16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{folded::Folded, *};
use crate::learn::{layers::Pass, parameters::Parameter};

const N_TOKENS: usize = 4;
const TOKEN_DIM: usize = 8;
const DIM: usize = 6;

/// An image has a thing in each of four places; a text says, in any order, what and where. Vectors only say which things there are, so images
/// that hold the same things elsewhere have the same cosine.
fn world(n_images: usize, seed: u64) -> Pairs {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut pairs = Pairs {
        images: Items { dim: DIM, n_tokens: N_TOKENS, token_dim: TOKEN_DIM, ..Items::default() },
        texts: Items { dim: DIM, n_tokens: N_TOKENS, token_dim: TOKEN_DIM, ..Items::default() },
        owner_of: (0..n_images).collect(),
        ..Pairs::default()
    };
    for _ in 0..n_images {
        let mut things = [0, 1, 2, 3];
        (1..4).rev().for_each(|i| things.swap(i, rng.random_range(0..=i)));
        // What there is: the first two of few kinds, so that there are many near ones.
        let kind = rng.random_range(0..4usize);
        let mut vector = vec![0.3; DIM];
        vector[kind] = 1.0;
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.iter_mut().for_each(|x| *x /= norm);
        let token = |place: usize, thing: usize| {
            (0..TOKEN_DIM).map(move |i| f16::from_f32(f32::from(u8::from(i == place || i == 4 + thing))))
        };
        pairs.images.vectors.extend(&vector);
        pairs.images.tokens.extend((0..4).flat_map(|place| token(place, things[place])));
        pairs.texts.vectors.extend(&vector);
        let mut order = [0, 1, 2, 3];
        (1..4).rev().for_each(|i| order.swap(i, rng.random_range(0..=i)));
        pairs.texts.tokens.extend(order.iter().flat_map(|&place| token(place, things[place])));
    }
    pairs
}

fn sizes() -> Sizes {
    Sizes { dim: 16, n_layers: 2, n_heads: 2, wide: 32, ..Sizes::default() }
}

fn network(kind: Kind, pairs: &Pairs) -> Network {
    Network::new(kind, &Shape::of(&pairs.images, &pairs.texts), &sizes(), 7, &Device::Cpu).unwrap()
}

#[test]
fn a_pair_scores_the_same_in_any_company() {
    let pairs = world(12, 1);
    for kind in Kind::ALL {
        let network = network(kind, &pairs);
        let asked: Vec<(usize, usize)> = (0..12).flat_map(|text| (0..12).map(move |image| (text, image))).collect();
        let together = network.score(&pairs.images, &pairs.texts, &asked).unwrap();
        for (&pair, &score) in asked.iter().zip(&together).step_by(17) {
            let alone = network.score(&pairs.images, &pairs.texts, &[pair]).unwrap()[0];
            assert!((alone - score).abs() < 1e-5, "{kind:?}: {alone} {score}");
        }
    }
}

#[test]
fn a_network_starts_near_the_cosine() {
    let pairs = world(30, 2);
    let texts: Vec<usize> = (0..30).collect();
    for kind in Kind::ALL {
        let pass = Pass::quiet(DType::F32);
        let network = network(kind, &pairs);
        let asked: Vec<(usize, usize)> = texts.iter().flat_map(|&t| (0..30).map(move |i| (t, i))).collect();
        let added = network.forward(&pairs.images, &pairs.texts, &asked, [&pass, &pass]).unwrap();
        let cosines = pairs.texts.cosines(&texts, &pairs.images, &texts);
        let logits = network.logits(cosines.clone(), &added).unwrap();
        let wanted = Tensor::from_vec(cosines.iter().map(|x| 20.0 * x - 10.0).collect(), 900, &Device::Cpu).unwrap();
        let far = ((logits - wanted).unwrap() - &added).unwrap().abs().unwrap().max_all().unwrap();
        assert!(far.to_scalar::<f32>().unwrap() < 1e-4, "{kind:?}");
        let most = added.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        // Of a scale of 20; in six dimensions a little bending is much.
        assert!(most < 6.0, "{kind:?}: {most}");
    }
}

#[test]
fn frevl_has_shares_of_one_and_others_do_not() {
    // Queries and keys of a single token get no gradient: the network is an MLP with residuals (papers: FrEVL).
    let pairs = world(20, 3);
    let asked: Vec<(usize, usize)> = (0..20).map(|at| (at, (at * 3) % 20)).collect();
    let moved = |kind: Kind| -> Vec<String> {
        let network = network(kind, &pairs);
        let quiet = Pass::quiet(DType::F32);
        let logits = network.forward(&pairs.images, &pairs.texts, &asked, [&quiet, &quiet]).unwrap();
        let slopes = logits.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let moves = |p: &&Parameter| {
            slopes
                .get(p.var.as_tensor())
                .is_some_and(|slope| slope.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap() > 1e-9)
        };
        network.parameters.iter().filter(moves).map(|p| p.name.clone()).collect()
    };
    assert!(!moved(Kind::Frevl).iter().any(|name| name.ends_with("query.weight") || name.ends_with("key.weight")));
    for kind in [Kind::FacetFusion, Kind::FacetFusionOneWay] {
        let moved = moved(kind);
        for name in ["layers.0.text.query.weight", "layers.1.text.key.weight", "layers.0.text.null_key", "image.places"]
        {
            assert!(moved.iter().any(|moved| moved == name), "{kind:?}: {name} not in {moved:?}");
        }
    }
}

#[test]
fn tokens_teach_what_no_vector_says() {
    let pairs = world(260, 5);
    let (train_images, held_out): (Vec<usize>, Vec<usize>) = ((0..200).collect(), (200..260).collect());
    let gain = |kind: Kind| {
        let mut plan = Plan::new(kind, 300, 1);
        plan.sizes = sizes();
        (plan.n_lists, plan.list_length, plan.dropout, plan.recipe.rate) = (16, 8, 0.0, 4e-3);
        (plan.evaluate_every, plan.losses.regularisation) = (100, 0.0);
        let options = Options {
            plan: &plan,
            pairs: &pairs,
            train: &train_images,
            held_out: &held_out,
            device: crate::Device::Cpu,
            checkpoint: None,
            mining: Mining::Exact,
        };
        let (network, _) = train(&options, &mut |_| ControlFlow::Continue(())).unwrap().unwrap();
        let ask = |direction| {
            let (base, go_on) = (Cosines::of(&pairs), &mut |_| ControlFlow::Continue(()));
            let asked =
                Reranking::ask(Some(&network), &pairs, &base, direction, (&held_out, &held_out), 60, go_on).unwrap();
            asked.unwrap().gain(&Weights::default(), 5, 1)
        };
        (ask(Direction::TextToImage), ask(Direction::ImageToText))
    };
    let (there, back) = gain(Kind::FacetFusion);
    println!("facet-fusion: {there:?}");
    assert!(there.reranked.at_1 > 2.0 * there.cosine.at_1 + 0.1 && there.interval[0] > 0.0, "{there:?}");
    assert!(back.reranked.at_1 > back.cosine.at_1, "{back:?}");
    // Vectors alone cannot tell.
    let (there, _) = gain(Kind::Mlp);
    assert!(there.reranked.at_1 < 0.3, "{there:?}");
}

#[test]
fn what_cannot_be_learnt_from_is_refused() {
    let pairs = world(40, 6);
    let images: Vec<usize> = (0..40).collect();
    let plan = Plan::new(Kind::Mlp, 3, 1);
    let error = |plan: &Plan, pairs: &Pairs, train_images: &[usize], held_out: &[usize]| {
        let options = Options {
            plan,
            pairs,
            train: train_images,
            held_out,
            device: crate::Device::Cpu,
            checkpoint: None,
            mining: Mining::Exact,
        };
        train(&options, &mut |_| ControlFlow::Continue(())).err().unwrap().to_string()
    };
    let check = |received: String, expected: &str| assert!(received.contains(expected), "{received}");
    check(error(&plan, &pairs, &images[..5], &images[30..]), "expected at least 16 pairs of 2 images");
    check(error(&plan, &pairs, &images[..20], &[]), "one to hold out, received 20 of 20 and 0");
    check(error(&plan, &pairs, &images, &images[..2]), "either to learn from or to hold out");
    let mut wide = plan.clone();
    wide.sizes.n_heads = 3;
    check(error(&wide, &pairs, &images[..30], &images[30..]), "that the heads divide");
    let mut broken = pairs.clone();
    broken.texts.vectors[3] = f32::NAN;
    check(error(&plan, &broken, &images[..30], &images[30..]), "texts: expected finite numbers");
    let mut fast = plan.clone();
    fast.recipe.rate = f32::INFINITY;
    check(error(&fast, &pairs, &images[..30], &images[30..]), "the loss is no number");
}

/// 768 numbers in, the sizes that the paper says (facts and reasons in benches/README.md): its 68.4 million are not what they give.
#[test]
fn frevl_has_as_many_weights_as_its_sizes_give() {
    let shape = Shape { dim: 768, image: SideShape::default(), text: SideShape::default() };
    let count = |dim: usize, n_heads: usize, wide: usize| {
        let sizes = Sizes { dim, n_layers: 4, n_heads, wide, ..Sizes::default() };
        Network::new(Kind::Frevl, &shape, &sizes, 1, &Device::Cpu).unwrap().n_parameters()
    };
    assert_eq!((count(512, 8, 2048), count(768, 8, 3072)), (31_001_603, 68_522_499));
}

#[test]
fn networks_are_read_as_they_were_written_and_asked_as_one() {
    let (pairs, name) = (world(8, 7), std::path::Path::new("reranker.1"));
    let asked: Vec<(usize, usize)> = (0..8).map(|at| (at, (at + 1) % 8)).collect();
    let score = |scorer: &dyn Scorer| scorer.score(&pairs.images, &pairs.texts, &asked).unwrap();
    let read = |written: &Ensemble| Ensemble::of_bytes(&written.bytes().unwrap(), name, crate::Device::Cpu);
    let mut sums = vec![0.0; asked.len()];
    for kind in Kind::ALL {
        let alone = Ensemble::new(vec![network(kind, &pairs)]).unwrap();
        let again = read(&alone).unwrap();
        assert_eq!((again.shape(), again.n_parameters()), (alone.shape(), alone.n_parameters()));
        let logits = score(again.scorer().unwrap().unwrap().as_ref());
        assert_eq!(logits, score(alone.scorer().unwrap().unwrap().as_ref()));
        sums.iter_mut().zip(logits).for_each(|(sum, logit)| *sum += logit);
    }
    let all = Ensemble::new(Kind::ALL.map(|kind| network(kind, &pairs)).into()).unwrap();
    let means = score(read(&all).unwrap().scorer().unwrap().unwrap().as_ref());
    assert!(means.iter().zip(&sums).all(|(mean, sum)| (mean - sum / 5.0).abs() < 1e-6));

    let bytes = all.bytes().unwrap();
    assert!(Ensemble::of_bytes(&bytes[..bytes.len() - 9], name, crate::Device::Cpu).is_err());
    let broken = network(Kind::Mlp, &pairs);
    let nan = Tensor::full(f32::NAN, broken.parameters[0].var.dims(), &Device::Cpu).unwrap();
    broken.parameters[0].var.set(&nan).unwrap();
    let error = read(&Ensemble::new(vec![broken]).unwrap()).err().unwrap().to_string();
    assert!(error.contains("reranker.1") && error.contains("image.vector.weight: expected finite numbers"), "{error}");
    let other = network(Kind::Mlp, &Pairs { images: Items { dim: 3, ..Items::default() }, ..world(8, 7) });
    assert!(Ensemble::new(vec![network(Kind::Mlp, &pairs), other]).is_err(), "networks of other sizes");
    assert!(Ensemble::new(Vec::new()).is_err());

    let members = || BTreeMap::from([("image".to_owned(), pairs.images.clone())]);
    let hubs = Hubs { texts: members(), images: members() };
    let with_hubs =
        read(&Ensemble::new(vec![network(Kind::Mlp, &pairs)]).unwrap().with_hubs(Some(hubs.clone()))).unwrap();
    assert_eq!(with_hubs.hubs().unwrap().texts["image"].n(), 8);
    assert!(with_hubs.scorer().unwrap().is_some());
    let alone = read(&Ensemble::of_hubs(hubs)).unwrap();
    assert!(alone.scorer().unwrap().is_none() && alone.hubs().is_some() && alone.n_parameters() == 0);
}

#[test]
fn a_run_that_was_stopped_goes_on_to_the_bit() {
    let (pairs, dir) = (world(120, 9), tempfile::tempdir().unwrap());
    let (train_images, held_out): (Vec<usize>, Vec<usize>) = ((0..100).collect(), (100..120).collect());
    let mut plan = Plan::new(Kind::FacetFusionOneWay, 12, 3);
    (plan.sizes, plan.n_lists, plan.list_length, plan.evaluate_every) = (sizes(), 4, 4, 5);
    let path = dir.path().join("run");
    let run = |plan: &Plan, stop_after: Option<u64>, resume: bool| {
        let checkpoint = Checkpoint { path: &path, every: 100, resume, stop_after };
        let (pairs, device) = (&pairs, crate::Device::Cpu);
        let options = Options {
            plan,
            pairs,
            train: &train_images,
            held_out: &held_out,
            device,
            checkpoint: Some(checkpoint),
            mining: Mining::Exact,
        };
        let mut steps = Vec::new();
        let report = &mut |progress: &Progress| {
            steps.push(progress.step);
            ControlFlow::Continue(())
        };
        train(&options, report).map(|learnt| (learnt, steps))
    };
    let (whole, _) = run(&plan, None, false).unwrap();
    assert!(run(&plan, Some(7), false).unwrap().0.is_none());
    let (resumed, steps) = run(&plan, None, true).unwrap();
    assert_eq!(steps, [8, 9, 10, 11, 12]);
    let ((whole, at), (resumed, again)) = (whole.unwrap(), resumed.unwrap());
    let bytes = |network: Network| Ensemble::new(vec![network]).unwrap().bytes().unwrap();
    assert_eq!((bytes(whole), at), (bytes(resumed), again));
    // One that has ended is as it ended.
    let (ended, steps) = run(&plan, None, true).unwrap();
    assert!(ended.is_some() && steps.is_empty());
    plan.seed = 4;
    let error = run(&plan, None, true).err().unwrap().to_string();
    assert!(error.contains("made with other settings"), "{error}");
}

/// Matrices large enough to be halved, where the processor does that.
#[test]
fn a_large_network_scores_nearly_the_same() {
    let pairs = world(20, 8);
    let asked: Vec<(usize, usize)> = (0..20).flat_map(|text| (0..20).map(move |image| (text, image))).collect();
    let sizes = Sizes { dim: 256, n_layers: 2, n_heads: 4, wide: 1024, ..Sizes::default() };
    for kind in [Kind::Frevl, Kind::FacetFusion] {
        let shape = Shape::of(&pairs.images, &pairs.texts);
        let network = Network::new(kind, &shape, &sizes, 1, &Device::Cpu).unwrap();
        let expected = network.score(&pairs.images, &pairs.texts, &asked).unwrap();
        let received = Folded::new(&network).unwrap().score(&pairs.images, &pairs.texts, &asked).unwrap();
        let mean = |values: &mut dyn Iterator<Item = f32>| values.sum::<f32>() / asked.len() as f32;
        let off = mean(&mut expected.iter().zip(&received).map(|(a, b)| (a - b).abs()));
        let size = mean(&mut expected.iter().map(|x| x.abs()));
        assert!(off < 0.01 * size, "{kind:?}: {off} of {size}");
    }
}

#[test]
fn what_is_folded_scores_the_same() {
    let mut pairs = world(40, 8);
    pairs.images.extra_dim = 5;
    pairs.images.extra = (0..40 * 5).map(|at| (at * 7 % 13) as f32 * 0.3).collect();
    let asked: Vec<(usize, usize)> = (0..40).flat_map(|text| (0..40).map(move |image| (text, image))).collect();
    let all: Vec<usize> = (0..40).collect();
    let shape = Shape::of(&pairs.images, &pairs.texts);
    let of_tokens = Sizes { tokens_only: true, share: 0.7, ..sizes() };
    for (kind, sizes) in Kind::ALL.into_iter().flat_map(|kind| [(kind, sizes()), (kind, of_tokens)]) {
        let network = Network::new(kind, &shape, &sizes, 7, &Device::Cpu).unwrap();
        network.measure(&pairs.images, &all).unwrap();
        // No number stays at its first value, so that a term that is left out is seen.
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for parameter in network.parameters.iter().filter(|p| !p.name.contains("extra_")) {
            let values: Vec<f32> = (0..parameter.var.elem_count()).map(|_| rng.random_range(-0.1..0.1)).collect();
            let moved = Tensor::from_vec(values, parameter.var.dims(), &Device::Cpu).unwrap();
            parameter.var.set(&(parameter.var.as_tensor() + moved).unwrap()).unwrap();
        }
        let expected = network.score(&pairs.images, &pairs.texts, &asked).unwrap();
        let received = Folded::new(&network).unwrap().score(&pairs.images, &pairs.texts, &asked).unwrap();
        let far = expected.iter().zip(&received).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-4, "{kind:?}: {far}");
    }
}

/// As a card computes: matrices in half precision, norms and shares by kernels without a gradient, one vector folded.
#[test]
fn what_serves_alone_scores_nearly_the_same() {
    let mut pairs = world(40, 8);
    pairs.images.extra_dim = 5;
    pairs.images.extra = (0..40 * 5).map(|at| (at * 7 % 13) as f32 * 0.3).collect();
    let asked: Vec<(usize, usize)> = (0..40).flat_map(|text| (0..40).map(move |image| (text, image))).collect();
    for kind in Kind::ALL {
        let network = network(kind, &pairs);
        network.measure(&pairs.images, &[0, 1, 2, 3]).unwrap();
        let expected = network.score(&pairs.images, &pairs.texts, &asked).unwrap();
        let off_in = |dtype: DType| {
            let served = network.serving(dtype).unwrap();
            assert!(served.at_once() > 4096, "a batch is one way through the network");
            let received = served.score(&pairs.images, &pairs.texts, &asked).unwrap();
            expected.iter().zip(&received).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        let size = expected.iter().map(|x| x.abs()).fold(0.0, f32::max);
        let (off, halved) = (off_in(DType::F32), off_in(DType::BF16));
        assert!(off < 1e-4 && halved < 0.02 * size, "{kind:?}: {off}, {halved} of {size}");
    }
}
