use candle_core::IndexOp;

use super::*;
use crate::testing::fixture;

fn open(name: &str) -> Result<Weights> {
    Weights::open_file(&fixture("torch").join(name))
}

fn numbers(weights: &Weights, name: &str, shape: &[usize]) -> Vec<f32> {
    weights.get(name, shape, &Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn counted(range: Range) -> Vec<f32> {
    range.map(|n| n as f32).collect()
}

type Range = std::ops::Range<u32>;

/// `state.pt` and `nested.pth` hold the same, the second one under `model`, with `module.` before each name and written by
/// the fourth protocol.
#[test]
fn tensors_of_torch_are_read_however_they_lie_in_memory() {
    for file in ["state.pt", "nested.pth"] {
        let weights = open(file).unwrap();
        let check = |name: &str, shape: &[usize], expected: Vec<f32>| {
            assert_eq!(numbers(&weights, name, shape), expected, "{file}: {name}");
        };
        check("whole", &[2, 3, 4], counted(0..24));
        check("half", &[4, 6], counted(0..24));
        check("brain", &[4, 6], counted(0..24));
        check("turned", &[6, 4], (0..24).map(|i| (i % 4 * 6 + i / 4) as f32).collect());
        check("part", &[6], counted(3..9));
        check("columns", &[4, 2], (0..8).map(|i| (i / 2 * 6 + 2 + i % 2) as f32).collect());
        check("parameter", &[5], counted(0..5));
        check("scalar", &[], vec![2.5]);
    }
}

/// A file of a few bytes could ask for all memory.
#[test]
fn expanded_tensors_are_refused() {
    for (file, name) in [("state.pt", "repeated"), ("nested.pth", "module.repeated")] {
        let error = open(file).unwrap().get("repeated", &[3, 2], &Device::Cpu).unwrap_err().to_string();
        let expected = format!("{file}: tensor {name}: expected as many numbers as the file holds for it, received ");
        assert!(error.contains(&expected), "{error}");
        assert!(error.ends_with("[3, 2] expanded from 1; hint: .clone() it before torch.save"), "{error}");
    }
}

#[test]
fn numbers_that_are_none_are_refused() {
    for (name, tensor) in [("nan", "module.nan"), ("infinite", "module.infinite")] {
        let error = open("nested.pth").unwrap().get(name, &[2], &Device::Cpu).unwrap_err();
        let Error::WrongTensor { file, tensor: named, expected, received } = error else { panic!("{error}") };
        assert_eq!((file, &*named), (fixture("torch/nested.pth"), tensor));
        assert_eq!((&*expected, &*received), ("finite numbers", "NaN or infinity"));
    }
    // The same of safetensors.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let tensor = Tensor::new(&[0.0, f32::NAN], &Device::Cpu).unwrap();
    candle_core::safetensors::save(&[("a", tensor)].into(), &path).unwrap();
    let error = Weights::open_file(&path).unwrap().get("a", &[2], &Device::Cpu).unwrap_err().to_string();
    assert!(error.ends_with("a.safetensors: tensor a: expected finite numbers, received NaN or infinity"), "{error}");
}

#[test]
fn tensors_of_another_shape_or_kind_are_named() {
    let weights = open("state.pt").unwrap();
    let check = |name: &str, shape: &[usize], received: &str| {
        let fault = weights.fault(name, shape).unwrap();
        assert_eq!((&*fault.tensor, &*fault.received), (name, received));
        assert_eq!(fault.file, fixture("torch/state.pt"));
    };
    check("whole", &[2, 3], "[2, 3, 4] of f32");
    check("double", &[2], "[2] of f64");
    check("whole_numbers", &[3], "[3] of i64");
    check("no_tensor", &[1], "no such tensor");
    assert_eq!(weights.fault("whole", &[2, 3, 4]), None);
    assert_eq!(open("nested.pth").unwrap().fault("half", &[1]).unwrap().tensor, "module.half");
}

#[test]
fn files_of_another_kind_are_named() {
    let check = |path: &Path, expected: &str| {
        let error = Weights::open_file(path).err().expect("an error");
        assert!(matches!(&error, Error::BadFile { file, .. } if file == path), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    for (name, expected) in [
        ("legacy.pt", "not a zip file of torch.save"),
        ("list.pt", "expected a state dict (names and tensors), received a list"),
        ("empty.pt", "received a dict without tensors"),
        ("object.pt", "received an object of torch.nn.modules.linear.Linear; hint: save its state_dict()"),
        ("script.pt", "a TorchScript program: expected a state dict"),
    ] {
        check(&fixture("torch").join(name), expected);
    }
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(dir.path().join(name), bytes).unwrap();
        dir.path().join(name)
    };
    check(&write("text.pt", b"no weights"), "not a zip file of torch.save");
    check(&write("text.safetensors", b"no weights"), "not a safetensors file");
    check(&write("other.pt", &zip_of(&[("a.txt", b"x")])), "expected data.pkl in it");
    check(&write("short.pt", &zip_of(&[("a/data.pkl", b"\x80")])), "ends too early");
    check(&write("big.pt", &zip_of(&[("a/data.pkl", b"}."), ("a/byteorder", b"big")])), "expected little-endian");
    check(&write("call.pt", &zip_of(&[("a/data.pkl", b"cos\nsystem\n)R.")])), "received an object of os.system");
}

/// A pickle of {"t": a tensor that is rebuilt from these arguments}.
fn tensor_pickle(arguments: &[u8]) -> Vec<u8> {
    [b"}X\x01\x00\x00\x00tctorch._utils\n_rebuild_tensor_v2\n(", arguments, b"tRs."].concat()
}

#[test]
fn tensors_that_do_not_fit_their_part_are_named() {
    const STORAGE: &[u8] =
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ";
    let check = |arguments: &[&[u8]], expected: &str| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pt");
        let parts = [("a/data.pkl", &tensor_pickle(&arguments.concat())[..]), ("a/data/0", &[0; 16])];
        std::fs::write(&path, zip_of(&parts)).unwrap();
        let error = Weights::open_file(&path).err().map_or("fine".to_owned(), |e| e.to_string());
        assert!(error.contains(expected), "{arguments:?}: {error}");
    };
    check(&[STORAGE, b"K\x00", b"K\x02K\x02\x86", b"K\x02K\x01\x86"], "fine");
    check(&[STORAGE, b"K\x00", b"K\x05\x85", b"K\x01\x85"], "tensor t: [5] by [1] from 0 does not fit into 16 bytes");
    check(&[STORAGE, b"K\x01", b"K\x04\x85", b"K\x01\x85"], "[4] by [1] from 1 does not fit");
    check(&[STORAGE, b"K\x00", b"K\x02\x85", b"K\x01K\x01\x86"], "[2] by [1, 1] from 0 does not fit");
    let huge = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85";
    check(&[STORAGE, b"K\x00", huge, b"K\x01\x85"], "does not fit");
    check(&[STORAGE, b"K\x00", b"K\x02\x85", huge], "does not fit");
    // (0, 2^40, 2^40)
    let long = b"\x8a\x06\x00\x00\x00\x00\x00\x01";
    let empty = [b"K\x00", &long[..], long, b"\x87"].concat();
    check(&[STORAGE, b"K\x00", &empty, b"K\x01K\x01K\x01\x87"], "does not fit");
    check(
        &[STORAGE, b"J\xff\xff\xff\xff", b"K\x02\x85", b"K\x01\x85"],
        "expected offset, shape and strides of whole numbers",
    );
    check(&[STORAGE], "expected storage, offset, shape and strides");
    check(&[b"N", b"K\x00", b"K\x02\x85", b"K\x01\x85"], "expected a storage in the same file");
    let odd = b"(NNNNNtQ";
    check(&[odd, b"K\x00", b"K\x02\x85", b"K\x01\x85"], "expected a storage of numbers");
    let elsewhere = b"(Nctorch\nFloatStorage\nX\x01\x00\x00\x009NK\x04tQ";
    check(&[elsewhere, b"K\x00", b"K\x02\x85", b"K\x01\x85"], "a/data/9 is missing in the zip file");
}

/// Parts that are only stored, without checksums, which nobody reads.
fn zip_of(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in parts {
        let sizes = [(content.len() as u32).to_le_bytes(), (content.len() as u32).to_le_bytes()].concat();
        let about =
            [&[10, 0, 0, 0, 0, 0, 0, 0, 0x21, 0, 0, 0, 0, 0][..], &sizes, &[name.len() as u8, 0, 0, 0]].concat();
        let start = (file.len() as u32).to_le_bytes();
        file.extend([b"PK\x03\x04", &about[..], name.as_bytes(), content].concat());
        directory.extend([b"PK\x01\x02\x0a\x00", &about[..], &[0; 10], &start, name.as_bytes()].concat());
    }
    let n = [parts.len() as u8, 0];
    let start = (file.len() as u32).to_le_bytes();
    let length = (directory.len() as u32).to_le_bytes();
    let end = [b"PK\x05\x06\0\0\0\0", &n[..], &n, &length, &start, &[0, 0]].concat();
    [file, directory, end].concat()
}

/// Seeded damage to a file of torch.save: whatever comes out, it is an answer.
#[test]
fn damaged_files_are_answered() {
    use rand::{Rng, SeedableRng};
    const SEED: u64 = 17;
    println!("seed {SEED}");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(SEED);
    let dir = tempfile::tempdir().unwrap();
    for name in ["state.pt", "nested.pth", "object.pt"] {
        let whole = std::fs::read(fixture("torch").join(name)).unwrap();
        for round in 0..400 {
            let mut damaged = whole.clone();
            match round % 8 {
                0 => damaged.truncate(rng.random_range(0..whole.len())),
                _ => (0..=round % 16).for_each(|_| damaged[rng.random_range(0..whole.len())] = rng.random()),
            }
            let path = dir.path().join(name);
            std::fs::write(&path, &damaged).unwrap();
            let Ok(weights) = Weights::open_file(&path) else { continue };
            let shapes: Vec<_> =
                weights.tensors.iter().map(|(name, place)| (name.clone(), place.shape.clone())).collect();
            for (name, shape) in shapes.iter().filter(|(_, shape)| shape.iter().product::<usize>() < 1 << 20) {
                let _ = weights.get(name, shape, &Device::Cpu);
            }
        }
    }
}

#[test]
fn names_of_open_clip_are_answered_for_those_of_transformers() {
    let open = |file: &str| Weights::open_file(&fixture("open-clip").join(file)).unwrap();
    let (plain, wrapped) = (open("open_clip_model.safetensors"), open("open_clip_pytorch_model.bin"));
    let theirs =
        candle_core::safetensors::load(fixture("open-clip/open_clip_model.safetensors"), &Device::Cpu).unwrap();
    let file = |name: &str| theirs[name].to_dtype(DType::F32).unwrap();
    let layer = "vision_model.encoder.layers.1.self_attn";
    for (name, shape, expected) in [
        ("visual_projection.weight".to_owned(), &[24, 32][..], file("visual.proj").t().unwrap()),
        (
            format!("{layer}.v_proj.weight"),
            &[32, 32],
            file("visual.transformer.resblocks.1.attn.in_proj_weight").i(64..).unwrap(),
        ),
        (
            format!("{layer}.q_proj.bias"),
            &[32],
            file("visual.transformer.resblocks.1.attn.in_proj_bias").i(..32).unwrap(),
        ),
    ] {
        let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for weights in [&plain, &wrapped] {
            assert_eq!(numbers(weights, &name, shape), expected, "{name}");
        }
    }
    let fault = wrapped.fault(&format!("{layer}.k_proj.weight"), &[40, 32]).unwrap();
    assert_eq!(fault.tensor, "module.visual.transformer.resblocks.1.attn.in_proj_weight");
    assert_eq!((&*fault.expected, &*fault.received), ("[120, 32] of f32, f16 or bf16", "[96, 32] of f16"));
    let fault = plain.fault("text_model.final_layer_norm.other", &[1]).unwrap();
    assert_eq!((&*fault.tensor, &*fault.received), ("ln_final.other", "no such tensor"));
}

#[test]
fn files_of_weights_are_found_best_first() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let names = || file_names(dir.path(), CANDIDATES).map_err(|e| e.to_string());
    assert!(names().unwrap_err().ends_with("model.safetensors is missing"));
    write("pytorch_model.bin.index.json", r#"{"weight_map": {"a": "b.bin", "c": "d.bin"}}"#);
    write("b.bin", "");
    assert!(names().unwrap_err().ends_with("d.bin is missing"));
    write("d.bin", "");
    assert_eq!(names().unwrap(), ["b.bin", "d.bin", "pytorch_model.bin.index.json"]);
    write("pytorch_model.bin", "");
    assert_eq!(names().unwrap(), ["pytorch_model.bin"]);
    write("model.safetensors", "");
    assert_eq!(names().unwrap(), ["model.safetensors"]);
    let odd = serde_json::json!({"weight_map": {"a": "../b.bin", "c": "d.exe"}});
    assert!(shard_names(&odd).unwrap_err().contains("expected plain names of .safetensors or .bin files"));
}

/// Written by `fixtures/make_pickle.py`.
fn pickle(name: &str) -> std::path::PathBuf {
    crate::testing::fixture("pickle").join(name)
}

#[test]
fn one_tensor_is_read_as_torch_wrote_it() {
    let half = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25].to_vec();
    assert_eq!(read_tensor(&pickle("half.pth"), 6).unwrap(), (vec![2, 3], half));
    let view = (3..9).map(|i| i as f32).collect();
    assert_eq!(read_tensor(&pickle("view.pth"), 6).unwrap(), (vec![2, 3], view));
    let transposed = [0.0, 3.0, 6.0, 1.0, 4.0, 7.0, 2.0, 5.0, 8.0].to_vec();
    assert_eq!(read_tensor(&pickle("transposed.pth"), 9).unwrap(), (vec![3, 3], transposed));
}

#[test]
fn what_is_no_tensor_is_named() {
    let check = |name: &str, max, expected: &str| {
        let error = read_tensor(&pickle(name), max).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(expected), "{error}");
    };
    check("half.pth", 5, "a tensor of shape [2, 3]: at most 5 numbers");
    check("dictionary.pth", 9, "expected one tensor, received a dict");
    check("no.pth", 9, "is missing");
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(pickle("half.pth")).unwrap();
    for cut in [0, 10, whole.len() / 2, whole.len() - 1] {
        let path = dir.path().join("cut.pth");
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert!(matches!(read_tensor(&path, 6), Err(Error::BadFile { .. })), "cut at {cut}");
    }
    // Whatever a flipped bit makes of it, the answer is a tensor or an error.
    for at in 0..whole.len() {
        let path = dir.path().join("flipped.pth");
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(&path, flipped).unwrap();
        let _ = read_tensor(&path, 6);
    }
}
