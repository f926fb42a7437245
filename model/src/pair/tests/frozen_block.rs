//! A frozen decoder block inside an image tower, judged by torch.

use super::*;
use crate::decoder::FinalNorm;

fn clip_folder() -> tempfile::TempDir {
    let copy = copy_of_fixture("open-clip");
    std::fs::copy(fixture("clip-quick").join(TOKENIZER_FILE), copy.path().join(TOKENIZER_FILE)).unwrap();
    copy
}

fn block(index: usize, norm: FinalNorm) -> FrozenBlock {
    FrozenBlock { decoder: fixture("decoder-llama"), index, norm, mappers: fixture("lm-block/mappers.safetensors") }
}

fn load_with(folder: &Path, block: &FrozenBlock) -> Result<Arc<dyn Encoder>> {
    open(folder, Want::Both, Some(block), &Device::Cpu)?.joined("test", &Device::Cpu)
}

fn pixels() -> Vec<Pixels> {
    let values = expected("open-clip", "pixel_values").to_dtype(DType::F32).unwrap();
    let images = values.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
    images.into_iter().map(|values| Pixels { side: 30, values }).collect()
}

#[test]
fn images_equal_torch_with_every_block_and_norm() {
    let copy = clip_folder();
    let plain = load(copy.path()).unwrap();
    let mut hashes = vec![plain.info().hash.clone()];
    for (index, norm, name) in [
        (0, FinalNorm::Ones, "0.ones"),
        (0, FinalNorm::Loaded, "0.loaded"),
        (1, FinalNorm::Ones, "1.ones"),
        (1, FinalNorm::Loaded, "1.loaded"),
    ] {
        let clip = load_with(copy.path(), &block(index, norm)).unwrap();
        let received = embed_images(&*clip, &pixels());
        let difference = largest_difference(&received, &expected("lm-block", &format!("image_features.{name}")));
        println!("block {name}: {difference:e}");
        assert!(difference <= 1e-5, "{name}: {difference}");
        let alone = embed_images(&*clip, &pixels()[2..3]);
        assert_close(&received[2], &alone[0]);
        let text = |encoder: &dyn Encoder| encoder.embed_texts(&["a cat"], Keep::Nothing).unwrap();
        assert_eq!(text(&*clip), text(&*plain));
        hashes.push(clip.info().hash.clone());
    }
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 5, "each is another model");
}

/// Two maps of 32 by 32, queries and outputs of 32 by 32, keys and values of half, an MLP of 40 with biases, three norms.
#[test]
fn its_parameters_are_counted() {
    let copy = clip_folder();
    let n = |clip: Arc<dyn Encoder>| clip.info().parameters;
    let more = n(load_with(copy.path(), &block(1, FinalNorm::Ones)).unwrap()) - n(load(copy.path()).unwrap());
    assert_eq!(more, 2 * 1024 + 2 * 1024 + 2 * 512 + (3 * 32 * 40 + 2 * 40 + 32) + 3 * 32);
}

#[test]
fn tokens_are_those_behind_the_block() {
    let copy = clip_folder();
    let tokens = |clip: &dyn Encoder| {
        let images = clip.embed_images(&pixels()[..1], Keep::Tokens(Grid::Four)).unwrap();
        images.into_iter().next().unwrap().fusion_tokens.unwrap()
    };
    let (plain, changed) =
        (tokens(&*load(copy.path()).unwrap()), tokens(&*load_with(copy.path(), &block(1, FinalNorm::Ones)).unwrap()));
    assert_eq!(plain.shape(), changed.shape());
    assert_ne!(plain, changed);
}

#[test]
fn what_does_not_fit_is_named() {
    let copy = clip_folder();
    let error = |change: &dyn Fn(&mut FrozenBlock)| {
        let mut block = block(1, FinalNorm::Loaded);
        change(&mut block);
        load_with(copy.path(), &block).err().expect("an error").to_string()
    };
    let past = error(&|block| block.index = 2);
    assert!(past.ends_with("decoder-llama: block 2: expected one below 2"), "{past}");
    let none = error(&|block| block.mappers = fixture("lm-block/expected.safetensors"));
    assert!(
        none.ends_with(
            "tensor llama_dim_mapper1.weight: expected [32, 32] of f32, f16 or bf16, received no such tensor"
        )
    );
    let other = error(&|block| block.decoder = fixture("clip-quick"));
    assert!(other.contains("model family \"clip\" is not known: expected one of llama"), "{other}");
    for name in ["none.pt", "none.safetensors"] {
        let missing = error(&|block| block.mappers = fixture("lm-block").join(name));
        assert!(missing.ends_with(&format!("{name} is missing")), "{missing}");
    }
}

#[test]
fn a_block_that_does_not_fit_into_the_memory_is_refused_before_it_is_read() {
    let (copy, decoder) = (clip_folder(), copy_of_fixture("decoder-llama"));
    let mut config = fixture_json("decoder-llama/config.json");
    (config["hidden_size"], config["intermediate_size"]) = (json!(1 << 17), json!(1 << 19));
    std::fs::write(decoder.path().join(CONFIG_FILE), config.to_string()).unwrap();
    let block = FrozenBlock { decoder: decoder.path().to_owned(), ..block(1, FinalNorm::Ones) };
    let error = load_with(copy.path(), &block).err().expect("an error");
    assert!(matches!(&error, Error::TooLittleMemory { file, .. } if file == decoder.path()), "{error}");
}
