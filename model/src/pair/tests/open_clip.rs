//! CLIPs in the layout of OpenCLIP, judged by OpenCLIP.

use super::*;
use crate::check;

const MODELS: [&str; 2] = ["open-clip", "open-clip-custom"];

/// With the tokenizer that the fixtures share.
fn folder(model: &str) -> tempfile::TempDir {
    let copy = copy_of_fixture(model);
    std::fs::copy(fixture("clip-quick").join(TOKENIZER_FILE), copy.path().join(TOKENIZER_FILE)).unwrap();
    copy
}

fn check_answers(clip: &dyn Encoder, model: &str) {
    let texts = texts(model);
    let answers = clip.embed_texts(&texts.iter().map(String::as_str).collect::<Vec<_>>(), Keep::Nothing).unwrap();
    let embeddings: Vec<Embedding> = answers.into_iter().map(|a| a.embedding).collect();
    let difference = largest_difference(&embeddings, &expected(model, "text_features"));
    println!("{model}, texts: {difference:e}");
    assert!(difference <= 1e-5, "{model}, texts: {difference}");

    let sizes = fixture_json(&format!("{model}/expected.json"))["picture_sizes"].clone();
    let sizes: Vec<(u32, u32)> = serde_json::from_value(sizes).unwrap();
    let pixels: Vec<Pixels> = sizes.iter().map(|&(w, h)| clip.preprocess(&formula_picture(w, h)).unwrap()).collect();
    let values: Vec<f32> = pixels.iter().flat_map(|p| p.values.clone()).collect();
    let wanted = expected(model, "pixel_values").flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let difference = values.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("{model}, pixels: {difference:e}");
    assert!(difference <= 1e-6, "{model}, pixels: {difference}");
    let difference = largest_difference(&embed_images(clip, &pixels), &expected(model, "image_features"));
    println!("{model}, images: {difference:e}");
    assert!(difference <= 1e-5, "{model}, images: {difference}");
}

#[test]
fn towers_and_preprocessing_equal_open_clip() {
    for model in MODELS {
        let copy = folder(model);
        let clip = load(copy.path()).unwrap();
        assert_eq!(clip.info().family, "clip");
        check_answers(&*clip, model);
        let report = check(copy.path().to_str().unwrap()).unwrap();
        assert!(report.ok && report.unread_tensors.is_empty(), "{report:?}");
    }
}

/// `open_clip_pytorch_model.bin` is what a training run leaves: weights among other things, with `module.` before each name.
#[test]
fn a_pickle_is_as_good_as_safetensors() {
    let copy = folder("open-clip");
    let hash = load(copy.path()).unwrap().info().hash.clone();
    std::fs::remove_file(copy.path().join("open_clip_model.safetensors")).unwrap();
    let clip = load(copy.path()).unwrap();
    assert_ne!(clip.info().hash, hash, "the files are others");
    check_answers(&*clip, "open-clip");
    let report = check(copy.path().to_str().unwrap()).unwrap();
    assert!(report.ok && report.unread_tensors.is_empty(), "{report:?}");
}

#[test]
fn what_is_wrong_is_named_as_the_files_name_it() {
    let copy = folder("open-clip");
    let path = copy.path().join("open_clip_config.json");
    let whole = std::fs::read_to_string(&path).unwrap();
    let report = |text: String| {
        std::fs::write(&path, text).unwrap();
        check(copy.path().to_str().unwrap()).unwrap()
    };
    let wide = report(whole.replace("\"embed_dim\": 24", "\"embed_dim\": 25"));
    let faults: Vec<_> = wide.tensor_faults.iter().map(|f| (&*f.tensor, &*f.expected, &*f.received)).collect();
    let f16 = "of f32, f16 or bf16";
    assert_eq!(
        faults,
        [
            ("text_projection", &*format!("[16, 25] {f16}"), "[16, 24] of f16"),
            ("visual.proj", &*format!("[32, 25] {f16}"), "[32, 24] of f16")
        ]
    );
    let deep = report(whole.replacen("\"layers\": 2", "\"layers\": 3", 1));
    assert_eq!(
        deep.tensor_faults.len(),
        12,
        "a block, whose queries, keys and values are one: {:?}",
        deep.tensor_faults
    );
    assert!(deep.tensor_faults.iter().all(|f| f.tensor.starts_with("visual.transformer.resblocks.2.")));
    let timm = report(whole.replace("\"width\": 32", "\"width\": 32, \"timm_model_name\": \"vit_base\""));
    assert!(timm.faults[0].contains("open_clip_config.json: model_cfg.vision_cfg.timm_model_name: expected nothing"));
    let odd = report(whole.replace("\"preprocess_cfg\": {", "\"preprocess_cfg\": {\"resize_mode\": \"longest\","));
    assert!(odd.faults[0].contains("preprocess_cfg.resize_mode: expected shortest or squash, received \"longest\""));
    let odd = report(whole.replace("\"preprocess_cfg\": {", "\"preprocess_cfg\": {\"size\": [30, 31],"));
    assert!(odd.faults[0].contains("preprocess_cfg.size: expected 30, as the image tower takes; received [30,31]"));

    std::fs::write(&path, whole).unwrap();
    std::fs::remove_file(copy.path().join(TOKENIZER_FILE)).unwrap();
    let error = load(copy.path()).err().unwrap().to_string();
    assert!(error.ends_with("tokenizer.json is missing"), "{error}");
    for name in ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"] {
        std::fs::remove_file(copy.path().join(name)).unwrap();
    }
    let report = check(copy.path().to_str().unwrap()).unwrap();
    assert_eq!(report.missing_files, ["open_clip_model.safetensors", "tokenizer.json"]);
}

/// A checkpoint of Long-CLIP's own, with two tables of places, and a tokenizer.
#[test]
fn a_long_clip_checkpoint_stands_alone() {
    let copy = folder("clip-long-original");
    let clip = load(copy.path()).unwrap();
    let info = clip.info();
    assert_eq!((&*info.family, info.dim, info.image_side_px, info.max_text_tokens), ("clip", 12, 30, 248));
    check_answers(&*clip, "clip-long-original");
    let report = check(copy.path().to_str().unwrap()).unwrap();
    assert!(report.ok && report.unread_tensors.is_empty(), "{report:?}");
    std::fs::remove_file(copy.path().join(TOKENIZER_FILE)).unwrap();
    let report = check(copy.path().to_str().unwrap()).unwrap();
    assert_eq!(report.missing_files, [TOKENIZER_FILE]);
}

/// State dicts in OpenAI's naming, by what is changed of Long-CLIP's.
#[test]
fn a_checkpoint_whose_activation_nobody_knows_is_refused() {
    let copy = folder("clip-long-original");
    let path = copy.path().join("longclip.pt");
    let whole = candle_core::pickle::read_all(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    // Written as safetensors, which do not stand alone, and so beside a config.
    let answer = |tensors: Vec<(String, Tensor)>| {
        let path = copy.path().join("a.safetensors");
        candle_core::safetensors::save(&tensors.into_iter().collect(), &path).unwrap();
        crate::pair::open_clip::config_of_tensors(&Weights::open_file(&path).unwrap()).map_err(|e| e.to_string())
    };
    let without = |name: &str| whole.iter().filter(|(n, _)| n != name).cloned().collect::<Vec<_>>();
    assert!(answer(whole.clone()).is_ok());
    let error = answer(without("positional_embedding_res")).unwrap_err();
    assert!(error.contains("a checkpoint that stands alone: expected one of Long-CLIP"), "{error}");
    let mut of_openai = without("positional_embedding_res");
    of_openai.push(("input_resolution".to_owned(), Tensor::new(30u32, &Device::Cpu).unwrap()));
    assert_eq!(answer(of_openai).unwrap().text.tower.activation, config::Activation::QuickGelu);
    for (name, expected) in [
        ("visual.conv1.weight", "visual.conv1.weight: expected 4 dimensions, received no such tensor"),
        ("token_embedding.weight", "token_embedding.weight: expected 2 dimensions, received no such tensor"),
        ("text_projection", "text_projection: expected 2 dimensions, received no such tensor"),
    ] {
        let error = answer(without(name)).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let mut odd = without("visual.positional_embedding");
    odd.push(("visual.positional_embedding".to_owned(), Tensor::zeros((8, 8), DType::F32, &Device::Cpu).unwrap()));
    let error = answer(odd).unwrap_err();
    assert!(error.contains("expected places of a square of patches and a class token, received [8, 8]"), "{error}");
}

#[test]
fn tokens_are_kept_of_both_sides() {
    for model in ["open-clip", "open-clip-custom", "clip-long-original"] {
        let copy = folder(model);
        let clip = load(copy.path()).unwrap();
        let pixels = [clip.preprocess(&formula_picture(61, 43)).unwrap()];
        for grid in Grid::ALL {
            let shapes = clip.info().token_shapes(grid);
            let image = &clip.embed_images(&pixels, Keep::Tokens(grid)).unwrap()[0];
            assert_eq!(image.fusion_tokens.as_ref().map(FusionTokens::shape), shapes.image, "{model}");
            assert_close(&image.embedding, &embed_images(&*clip, &pixels)[0]);
            let text = &clip.embed_texts(&["a photo of a cat"], Keep::Tokens(grid)).unwrap()[0];
            assert_eq!(text.fusion_tokens.as_ref().map(FusionTokens::shape), shapes.text, "{model}");
        }
    }
}

#[test]
fn a_number_that_is_none_is_named_by_the_check() {
    let copy = folder("open-clip");
    let path = copy.path().join("open_clip_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let nan = Tensor::full(f32::NAN, 32, &Device::Cpu).unwrap();
    tensors.insert("visual.ln_post.bias".to_owned(), nan);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let report = check(copy.path().to_str().unwrap()).unwrap();
    assert!(!report.ok && report.tensor_faults.is_empty(), "{report:?}");
    let expected =
        "open_clip_model.safetensors: tensor visual.ln_post.bias: expected finite numbers, received NaN or infinity";
    assert!(report.faults[0].ends_with(expected), "{:?}", report.faults);
}
