//! The image side of FLAME, judged by torch.

use super::*;
use crate::{check, pair::flame as checkpoint};

fn folder() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("flame/flame.pt"), copy.path().join("flame.pt")).unwrap();
    copy
}

fn pixels(encoder: &dyn Encoder) -> Vec<Pixels> {
    let sizes: Vec<(u32, u32)> =
        serde_json::from_value(fixture_json("flame/expected.json")["picture_sizes"].clone()).unwrap();
    sizes.iter().map(|&(w, h)| encoder.preprocess(&formula_picture(w, h)).unwrap()).collect()
}

/// What is in the checkpoint, without `module.`.
fn tensors() -> HashMap<String, Tensor> {
    let tensors = candle_core::pickle::read_all_with_key(fixture("flame/flame.pt"), Some("state_dict")).unwrap();
    tensors.into_iter().map(|(name, tensor)| (name.strip_prefix("module.").unwrap().to_owned(), tensor)).collect()
}

#[test]
fn images_equal_torch_preprocessing_included() {
    let copy = folder();
    let flame = load(copy.path()).unwrap();
    let info = flame.info();
    assert_eq!((&*info.family, info.dim, info.image_side_px, info.max_text_tokens), ("flame", 24, 36, 0));
    let pixels = pixels(&*flame);
    let values = Tensor::new(pixels.iter().flat_map(|p| p.values.clone()).collect::<Vec<f32>>(), &Device::Cpu).unwrap();
    let wanted = expected("flame", "pixel_values").flatten_all().unwrap();
    let difference = (values - wanted).unwrap().abs().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
    assert!(difference <= 1e-6, "pixels: {difference}");
    let difference = largest_difference(&embed_images(&*flame, &pixels), &expected("flame", "image_features"));
    println!("flame, flat: {difference:e}");
    assert!(difference <= 1e-5, "{difference}");
    assert!(matches!(flame.embed_texts(&["a"], Keep::Nothing), Err(Error::NoTextSide { .. })));
}

#[test]
fn tokens_are_the_patches_before_the_projector() {
    let copy = folder();
    let flame = load(copy.path()).unwrap();
    let pixels = pixels(&*flame);
    for grid in Grid::ALL {
        let images = flame.embed_images(&pixels, Keep::Tokens(grid)).unwrap();
        let tokens = images[0].fusion_tokens.as_ref().unwrap();
        assert_eq!(Some(tokens.shape()), flame.info().token_shapes(grid).image);
        let wanted =
            expected("flame", &format!("tokens_{}", grid.cells())).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        // Half a unit in the last place of f16, of numbers up to 16.
        let difference = tokens.values.iter().zip(&wanted).map(|(a, b)| (a.to_f32() - b).abs()).fold(0.0, f32::max);
        println!("flame, tokens {grid}: {difference:e}");
        assert!(difference <= 4e-3, "{grid}: {difference}");
        let embeddings: Vec<Embedding> = images.into_iter().map(|image| image.embedding).collect();
        let difference = largest_difference(&embeddings, &expected("flame", "image_features"));
        assert!(difference <= 1e-5, "{grid}: {difference}");
    }
}

#[test]
fn candles_operations_equal_torch_too() {
    let weights = Weights::open_file(&fixture("flame/flame.pt")).unwrap();
    let config = checkpoint::Config::of_tensors(&weights).unwrap();
    let tower = checkpoint::image_tower(&weights, &config, &Device::Cpu).unwrap();
    let encoded = tower.encode(&expected("flame", "pixel_values"), None).unwrap();
    let embeddings = unit_rows(&encoded.embeddings, config.dim).unwrap();
    let difference = largest_difference(&embeddings, &expected("flame", "image_features"));
    println!("flame, candle's operations: {difference:e}");
    assert!(difference <= 1e-5, "{difference}");
}

#[test]
fn safetensors_without_the_wrapper_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flame.safetensors");
    candle_core::safetensors::save(&tensors(), &path).unwrap();
    let plain = Images::load_flame(&path, None, &Device::Cpu).unwrap();
    let wrapped = Images::load_flame(&fixture("flame/flame.pt"), None, &Device::Cpu).unwrap();
    let picture = plain.preprocess(&formula_picture(50, 40));
    let embed = |side: &Images| side.embed(std::slice::from_ref(&picture), Keep::Nothing).unwrap();
    assert_eq!(embed(&plain), embed(&wrapped));
}

#[test]
fn what_is_wrong_with_a_checkpoint_is_named() {
    let report = |name: &str, tensor: Option<Tensor>| {
        let copy = tempfile::tempdir().unwrap();
        let mut tensors = tensors();
        tensors.remove(name);
        tensors.extend(tensor.map(|tensor| (name.to_owned(), tensor)));
        let path = copy.path().join("flame.safetensors");
        candle_core::safetensors::save(&tensors, &path).unwrap();
        let error = Images::load_flame(&path, None, &Device::Cpu).err().expect("an error").to_string();
        error.replace(&format!("{}/", copy.path().display()), "")
    };
    let zeros = |shape: &[usize]| Some(Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap());
    let nan = Tensor::full(f32::NAN, 24, &Device::Cpu).unwrap();
    for (name, tensor, expected) in [
        ("mm.0.weight", None, "expected the projector of FLAME, received no such tensor"),
        ("mm.2.bias", None, "expected [24] of f32, f16 or bf16, received no such tensor"),
        ("mm.2.weight", zeros(&[24, 41]), "expected [24, 40] of f32, f16 or bf16, received [24, 41] of f32"),
        ("mm.3.weight", Some(nan), "expected finite numbers, received NaN or infinity"),
        ("visual.conv1.weight", None, "expected 4 dimensions, received no such tensor"),
        ("visual.ln_pre.bias", zeros(&[1]), "expected [128] of f32, f16 or bf16, received [1] of f32"),
    ] {
        assert_eq!(report(name, tensor), format!("flame.safetensors: tensor {name}: {expected}"));
    }
}

#[test]
fn a_check_reads_it_as_a_model_without_texts() {
    let copy = folder();
    let report = check(copy.path().to_str().unwrap()).unwrap();
    assert!(report.ok && report.unread_tensors.is_empty(), "{report:?}");
    assert_eq!(report.family.as_deref(), Some("flame"));
    let trial = report.trial.unwrap();
    assert_eq!((trial.dim, trial.text_embedding_head.len(), trial.image_embedding_head.len()), (24, 0, 4));
    assert_eq!(report.memory[0].weights_bytes, 4 * report.parameters.unwrap());
    std::fs::write(copy.path().join("flame.pt"), "no weights").unwrap();
    let report = check(copy.path().to_str().unwrap()).unwrap();
    assert!(report.faults[0].contains("flame.pt: not a zip file of torch.save"), "{:?}", report.faults);
}
