"""Full-size CLIP models with random weights: firn beside transformers, same weights, same pictures and texts, one run.

    python -m venv /tmp/venv
    /tmp/venv/bin/pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 pillow==13.0.0 numpy==2.4.6
    /tmp/venv/bin/python benches/clip_parity.py [b32 b16 l14 l14-336]

Takes up to 6 GB of memory and 1.8 GB of temporary disk. The judge is the Pillow image processor and eager f32 on the CPU.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

ROOT = Path(__file__).parent.parent
WIDE = dict(hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=24, patch_size=14)
LARGE_TEXT = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
MODELS = {
    "b32": (dict(patch_size=32), {}, 512),
    "b16": (dict(patch_size=16), {}, 512),
    "l14": (WIDE, LARGE_TEXT, 768),
    "l14-336": (WIDE | dict(image_size=336), LARGE_TEXT, 768),
}
N_IMAGES, N_TEXTS = 8, 8


def pictures():
    """Smooth noise of several shapes, larger and smaller than the network's input."""
    rng = np.random.default_rng(5)
    for i in range(N_IMAGES):
        small = rng.integers(0, 256, (9 + i, 14 - i, 3), dtype=np.uint8)
        size = (int(rng.integers(150, 1200)), int(rng.integers(150, 1200)))
        yield Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@torch.no_grad()
def make_model(name, folder):
    """Model, image processor and tokenizer, also written to the folder."""
    vision, text, dim = MODELS[name]
    torch.manual_seed(3)
    config = CLIPConfig(vision_config=vision, text_config=text | dict(eos_token_id=2), projection_dim=dim)
    model = CLIPModel(config).eval()
    for key, p in model.named_parameters():
        if "norm" in key or "layrnorm" in key:
            p.add_(torch.randn_like(p) * 0.1)
    model.save_pretrained(folder)
    side = config.vision_config.image_size
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    processor.save_pretrained(folder)
    tokens = (ROOT / "model/fixtures/clip-quick/tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(tokens)
    return model, processor, CLIPTokenizer.from_pretrained(folder)


@torch.no_grad()
def run(name, folder):
    model, processor, tokenizer = make_model(name, folder)
    texts = [" ".join(["a photo of a cat on the sofa,"] * (1 + i)) for i in range(N_TEXTS)]
    (folder / "texts.json").write_text(json.dumps(texts))
    images = list(pictures())
    for i, image in enumerate(images):
        image.save(folder / f"{i}.png", compress_level=1)

    pixels = processor(images, return_tensors="pt")["pixel_values"]
    unit = lambda rows: rows / rows.norm(dim=-1, keepdim=True)
    ids = tokenizer(texts, truncation=True, max_length=77, padding=True, return_tensors="pt")
    image = unit(model.get_image_features(pixels).pooler_output)
    text = unit(model.get_text_features(**ids).pooler_output)
    save_file({"pixels": pixels.numpy(), "image": image.numpy(), "text": text.numpy()}, folder / "expected.bin")
    del model

    command = ["cargo", "run", "--quiet", "--release", "-p", "firn-model", "--example", "clip_parity", "--", str(folder)]
    ours = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    print(
        f"| {name} | {ours['parameters'] / 1e6:.1f} M | {ours['pixels_max_diff']:.1e} | {ours['image_max_diff']:.1e} "
        f"| {ours['text_max_diff']:.1e} |",
        flush=True,
    )
    return max(ours["pixels_max_diff"], ours["image_max_diff"], ours["text_max_diff"]) <= 1e-4


if __name__ == "__main__":
    print("| model | parameters | pixels max diff | image max diff | text max diff |\n|---|---|---|---|---|", flush=True)
    good = True
    for name in sys.argv[1:] or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            good &= run(name, Path(folder))
    sys.exit(0 if good else "a difference is above 1e-4")
