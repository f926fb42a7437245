//! What stands behind each block, through the last norm, beside the reference's: a tower that ends early is the same tower.

use super::*;

const MODELS: [(&str, Family); 4] = [
    ("clip-quick", Family::Clip),
    ("clip-gelu", Family::Clip),
    ("siglip-1", Family::Siglip),
    ("siglip-2", Family::Siglip),
];

fn difference(received: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(received.len(), expected.len());
    received.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn states_behind_every_block_of_both_kinds_of_towers_equal_the_reference() {
    for (model, family) in MODELS {
        let config = Config::read(&fixture(model).join(CONFIG_FILE), family).unwrap();
        let weights = Weights::open(&fixture(model)).unwrap();
        let (images, texts) = (expected(model, "image_states"), expected(model, "text_states"));
        let n_blocks = images.dim(0).unwrap();
        assert!(n_blocks >= 2 && texts.dim(0).unwrap() == n_blocks);
        for at in 0..n_blocks {
            let image_tower = || {
                let mut tower = towers::ImageTower::load(&weights, &config, &Device::Cpu).unwrap();
                tower.blocks.truncate(at + 1);
                tower
            };
            let text_tower = || {
                let mut tower = towers::TextTower::load(&weights, &config, &Device::Cpu).unwrap();
                tower.blocks.truncate(at + 1);
                tower
            };
            let check = |what: &str, received: &[f32], expected: &[f32]| {
                let found = difference(received, expected);
                println!("{model}, behind block {at}, {what}: {found:e}");
                assert!(found <= 1e-5, "{model}, behind block {at}, {what}: {found:e}");
            };

            let pixels = expected(model, "pixel_values");
            let (embeddings, patches) = image_tower().forward(&pixels).unwrap();
            let n_patches = patches.dim(1).unwrap();
            let behind = images.get(at).unwrap();
            let leading = behind.dim(1).unwrap() - n_patches;
            let behind = numbers(&behind.narrow(1, leading, n_patches).unwrap());
            check("patches, candle's operations", &numbers(&patches), &behind);
            let (n, _, side, _) = pixels.dims4().unwrap();
            let of_one = |values: &[f32]| Pixels { side, values: values.to_vec() };
            let pixels: Vec<Pixels> = numbers(&pixels).chunks_exact(3 * side * side).map(of_one).collect();
            let cells = n_patches.isqrt();
            let flat = cpu::ImageTower::new(image_tower()).unwrap().forward(&pixels, Some(cells), 1);
            assert_eq!(pixels.len(), n);
            check("patches, flat", &flat.tokens, &behind);
            check("image embeddings, flat", &flat.embeddings, &numbers(&embeddings));

            let behind = texts.get(at).unwrap();
            let (n, length, _) = behind.dims3().unwrap();
            let ids = match family {
                Family::Clip => expected(model, "input_ids.0").unsqueeze(0).unwrap(),
                Family::Siglip => expected(model, "input_ids").narrow(0, 0, n).unwrap(),
            };
            let ids = ids.to_dtype(DType::U32).unwrap();
            let pooled_at = vec![length - 1; n];
            let (embeddings, states) = text_tower().forward(&ids, &pooled_at).unwrap();
            check("tokens, candle's operations", &numbers(&states), &numbers(&behind));
            let tokens = |ids: Vec<u32>| Tokens { n_used: length, ids, n_cut: 0, pooled_at: length - 1, n_left: 0 };
            let all: Vec<Tokens> = ids.to_vec2::<u32>().unwrap().into_iter().map(tokens).collect();
            let all: Vec<&Tokens> = all.iter().collect();
            let expected = text_tower().encode(&all, Some(8), &Device::Cpu).unwrap();
            let flat = cpu::TextTower::new(text_tower()).unwrap().forward(&all, Some(8), 1);
            check("pooled tokens, flat", &flat.tokens, &expected.tokens);
            check("text embeddings, flat", &flat.embeddings, &numbers(&embeddings));
        }
    }
}
