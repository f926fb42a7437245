use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::encoder;

const N_IMAGES: usize = 60;
const DIM: usize = 6;
const NAMES: [&str; DIM] = ["red", "ball", "dog", "sea", "tree", "night"];

/// Images whose numbers say which of six things they show, with captions that name them, in words and in Chinese.
fn data(folder: &Path) -> FrozenImages {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (mut lines, mut vectors, mut ids) = (String::new(), Vec::new(), Vec::new());
    for at in 0..N_IMAGES {
        let shown: Vec<usize> = (0..DIM).filter(|thing| (at >> thing) & 1 == 1 || at % DIM == *thing).collect();
        let number = |thing: usize| f32::from(u8::from(shown.contains(&thing)));
        vectors.extend((0..DIM).map(|thing| 3.0 * number(thing) + rng.random_range(-0.1f32..0.1)));
        let names: Vec<&str> = shown.iter().map(|&thing| NAMES[thing]).collect();
        let letters: String = shown.iter().map(|&thing| ['红', '球', '狗', '海', '树', '夜'][thing]).collect();
        let split = if at % 5 == 0 { "val" } else { "train" };
        let row = serde_json::json!({ "id": format!("i{at}"), "split": split, "captions": [
            { "lang": "en", "text": format!("A {}.", names.join(" and a ")) }, { "lang": "zh", "text": letters } ] });
        lines += &format!("{row}\n");
        ids.push(format!("i{at}"));
    }
    std::fs::write(folder.join("captions.jsonl"), lines).unwrap();
    FrozenImages::new("images".as_ref(), ids, vectors, None).unwrap()
}

fn fitted(folder: &Path, n_folds: usize) -> (FrozenImages, Ridge) {
    let images = data(folder);
    let plan = RidgePlan { dim: 5, penalty: 0.5, n_folds, ..RidgePlan::default() };
    let ridge = fit(&images, &folder.join("captions.jsonl"), &plan, &folder.join("ridge"), &mut |_| ()).unwrap();
    (images, ridge)
}

#[test]
fn it_is_the_solution_of_the_normal_equations() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (n, features, dim) = (40, 12, 35);
    let plan = RidgePlan { dim, penalty: 0.7, ..RidgePlan::default() };
    let dense: Vec<Vec<f32>> = (0..n)
        .map(|_| (0..features).map(|_| if rng.random_bool(0.3) { rng.random_range(-1.0..1.0) } else { 0.0 }).collect())
        .collect();
    let targets: Vec<f32> = (0..n * dim).map(|_| rng.random_range(-1.0..1.0)).collect();
    let sparse = |row: &Vec<f32>| {
        let mut entries: Vec<(u32, f32)> = row.iter().enumerate().map(|(at, &x)| (at as u32, x)).collect();
        entries.retain(|&(at, x)| x != 0.0 || at as usize == features - 1);
        entries
    };
    let rows = Rows::new(dense.iter().map(sparse));
    let owner_of: Vec<usize> = (0..n).collect();
    let is_kept = |at: usize| at % 4 != 3;
    let weights = solve::solve(&rows, &is_kept, &targets, &owner_of, &plan);
    // X^T (Y - X W) = penalty W, for the rows that are kept.
    for column in 0..dim {
        for feature in 0..features {
            let mut sum = 0.0;
            for at in (0..n).filter(|&at| is_kept(at)) {
                let found: f32 = (0..features).map(|f| dense[at][f] * weights[f * dim + column].to_f32()).sum();
                sum += dense[at][feature] * (targets[at * dim + column] - found);
            }
            let expected = plan.penalty * weights[feature * dim + column].to_f32();
            assert!((sum - expected).abs() < 2e-2, "{feature} {column}: {sum} {expected}");
        }
    }
}

#[test]
fn texts_of_both_kinds_of_scripts_find_images_that_were_not_seen() {
    let folder = tempfile::tempdir().unwrap();
    let (images, ridge) = fitted(folder.path(), 3);
    assert_eq!(ridge.plan().dim, 5);
    let rows = super::super::measure_texts(
        &folder.path().join("ridge"),
        &images,
        &folder.path().join("captions.jsonl"),
        crate::Device::Cpu,
    )
    .unwrap();
    assert_eq!(rows.iter().map(|row| row.language.as_str()).collect::<Vec<_>>(), ["en", "zh"]);
    for row in rows {
        assert_eq!(row.n_images, 12);
        assert!(row.text_to_image.at[0] > 0.8, "{row:?}");
    }
}

#[test]
fn words_add_up_to_the_embedding_and_folds_have_not_seen_their_images() {
    let folder = tempfile::tempdir().unwrap();
    let (images, ridge) = fitted(folder.path(), 3);
    let line = Line::read("a red ball and a dog by the unheard-of", MAX_WORDS).unwrap();
    let parts = ridge.word_parts(&line, &ridge.weights);
    let mut sum = [0.0; 5];
    parts.chunks_exact(5).for_each(|part| sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x));
    let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
    let embedding = ridge.embedding(&line, &ridge.weights);
    sum.iter().zip(&embedding).for_each(|(x, expected)| assert!((x / length - expected).abs() < 1e-4));

    let model = encoder::load(folder.path().join("ridge").to_str().unwrap(), crate::Device::Cpu).unwrap();
    let keep = Keep::Tokens(crate::Grid::Four);
    let text = ["a red ball"];
    let whole = model.embed_texts(&text, keep).unwrap();
    assert_eq!(whole[0].fusion_tokens.as_ref().map(|tokens| (tokens.n, tokens.dim)), Some((TEXT_TOKENS, 5)));
    let unseen = |id: &str| model.embed_unseen_texts(&[id], &text, keep).unwrap();
    assert_eq!(unseen("i5"), whole, "an image that was held out");
    assert_eq!(unseen("nobody"), whole);
    assert_ne!(unseen("i1"), whole);
    let of_folds: std::collections::BTreeSet<String> =
        (1..5).map(|at| format!("{:?}", unseen(&format!("i{at}"))[0].embedding)).collect();
    assert!(of_folds.len() > 1, "all in one fold");
    let folds: std::collections::BTreeSet<Option<usize>> =
        (1..5).map(|at| model.fold_of(&format!("i{at}")).unwrap()).collect();
    assert!(folds.len() == of_folds.len() && !folds.contains(&None), "{folds:?}");
    assert_eq!((model.fold_of("i5").unwrap(), model.fold_of("nobody").unwrap()), (None, None));
    let stack = folder.path().join("stack");
    std::fs::create_dir(&stack).unwrap();
    std::fs::write(stack.join("model.toml"), "[text]\nstack = [\"../ridge\", \"../ridge\"]\n").unwrap();
    let stack = encoder::load(stack.to_str().unwrap(), crate::Device::Cpu).unwrap();
    assert_eq!(stack.fold_of("i1").unwrap(), model.fold_of("i1").unwrap());
    // Each fold is what its neighbours alone teach: solved once more without it.
    let all = captions::read(&folder.path().join("captions.jsonl")).unwrap();
    let train = Train::of(&images, &all, ridge.plan());
    let rows = Rows::new(train.lines.iter().map(|line| ridge.vocabulary.row(line)));
    for (&at, &fold) in train.images.iter().zip(&train.fold_of_image) {
        let is_other = |text: usize| train.fold_of[text] != fold && train.owner_of[text] != at;
        let expected = solve::solve(&rows, &is_other, &ridge.space.of(&images), &train.owner_of, ridge.plan());
        let received = ridge.folds().unwrap().unwrap().without(&images.ids()[at]).unwrap();
        let far = expected.iter().zip(received).map(|(a, b)| (a.to_f32() - b.to_f32()).abs()).fold(0.0, f32::max);
        assert!(far < 1e-2, "{at}: {far}");
    }
    let path = folder.path().join("ridge").join(FOLDS_FILE);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let report = crate::check(folder.path().join("ridge").to_str().unwrap()).unwrap();
    assert!(!report.ok && !report.has_no_fault(), "{report:?}");
    std::fs::remove_file(&path).unwrap();
    let again = encoder::load(folder.path().join("ridge").to_str().unwrap(), crate::Device::Cpu).unwrap();
    assert_eq!(again.embed_unseen_texts(&["i1"], &text, keep).unwrap(), whole, "without folds every text is seen");
    assert!(matches!(again.embed_texts(&["?!"], keep), Err(Error::EmptyText)));
    let unknown = again.embed_texts(&["xylophone"], keep).unwrap();
    assert_eq!(unknown[0].embedding, [1.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn a_stack_is_the_weighted_mean_of_cosines() {
    let folder = tempfile::tempdir().unwrap();
    let (images, _) = fitted(folder.path(), 0);
    let plan = RidgePlan { dim: 3, n_folds: 0, ..RidgePlan::default() };
    fit(&images, &folder.path().join("captions.jsonl"), &plan, &folder.path().join("other"), &mut |_| ()).unwrap();
    let stack = folder.path().join("stack");
    std::fs::create_dir(&stack).unwrap();
    let write = |text: &str| std::fs::write(stack.join("model.toml"), text).unwrap();
    write("[text]\nstack = [\"../ridge\", \"../other\"]\nweights = [3, 1]\n");
    let embed = |name: &str| -> Vec<f32> {
        let model = encoder::load(folder.path().join(name).to_str().unwrap(), crate::Device::Cpu).unwrap();
        model.embed_texts(&["a dog and a tree"], Keep::Nothing).unwrap().remove(0).embedding
    };
    let image =
        |name: &str| super::super::project(&folder.path().join(name), &images, crate::Device::Cpu).unwrap().remove(9);
    let cosine = |name: &str| embed(name).iter().zip(&image(name)).map(|(a, b)| a * b).sum::<f32>();
    let expected = 0.75 * cosine("ridge") + 0.25 * cosine("other");
    assert!((cosine("stack") - expected).abs() < 1e-5, "{} {expected}", cosine("stack"));
    let length = embed("stack").iter().map(|x| x * x).sum::<f32>();
    assert!((length - 1.0).abs() < 1e-5);
    assert!(crate::check(stack.to_str().unwrap()).unwrap().ok);
    let refused = |text: &str, expected: &str| {
        write(text);
        let error = encoder::load(stack.to_str().unwrap(), crate::Device::Cpu).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused("[text]\nstack = [\"../ridge\"]\n", "stack: expected 2 to 16 models, received 1");
    refused("[text]\nstack = [\"../ridge\", \"../other\"]\nweights = [1]\n", "weights: expected 2 numbers more than 0");
    refused("[text]\nmodel = \"../ridge\"\nweights = [1]\n", "weights go with a stack");
}

#[test]
fn what_cannot_be_solved_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (images, ridge) = fitted(folder.path(), 0);
    let captions = folder.path().join("captions.jsonl");
    let refused = |images: &FrozenImages, plan: RidgePlan, expected: &str| {
        let error = fit(images, &captions, &plan, &folder.path().join("no"), &mut |_| ()).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!folder.path().join("no").exists(), "nothing is written");
    };
    let plan = RidgePlan { n_folds: 0, ..RidgePlan::default() };
    let huge: Vec<f32> = (0..N_IMAGES * 2).map(|at| 1e30 * at as f32).collect();
    let error = FrozenImages::new("x".as_ref(), images.ids().to_vec(), huge, None).err().unwrap().to_string();
    assert!(error.contains("x: image \"i0\": expected a vector of length 1e-9 to 1e15, received"), "{error}");
    let strangers =
        FrozenImages::new("x".as_ref(), vec!["a".into(), "b".into()], vec![0.5, 1.0, 0.5, 2.0], None).unwrap();
    refused(&strangers, plan, "expected captions of at least 2 training images, received 0");
    refused(&images, RidgePlan { penalty: 0.0, ..plan }, "penalty: expected more than 0, received 0");
    let same: Vec<f32> = (0..N_IMAGES * 3).map(|at| (at % 3) as f32 + 1.0).collect();
    let same = FrozenImages::new("x".as_ref(), images.ids().to_vec(), same, None).unwrap();
    refused(&same, plan, "expected images of more than one kind");
    let error = ridge.project(&same).err().unwrap().to_string();
    assert!(error.contains("x: expected 6 numbers, as in training, received 3"), "{error}");
}
