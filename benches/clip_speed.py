"""Speed of full-size CLIP models with random weights on the CPU: firn, PyTorch, onnxruntime and candle-transformers, in turns, in one
run.

    /tmp/venv/bin/python benches/clip_speed.py [--models b32,l14] [--batches 1,8,32] [--repeats 7] [--threads 2]

The virtual environment is that of clip_parity.py, with onnx and onnxruntime. Medians, f32, milliseconds for one image or text: CPU time of all threads,
in brackets firn's over this, and in the last columns elapsed time in the same order, and firn's images or tokens per CPU-second. firn's texts include its tokenizer; the
others get ids, padded to the longest. More than one thread on a busy machine makes PyTorch wait in loops, which counts as CPU
time: --threads 1 is fair there.
A photo is a JPEG of 500 x 375, decoded and preprocessed one at a time; beside firn stands Pillow with CLIPImageProcessorPil.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image

from clip_parity import ROOT, make_model

N_PHOTOS = 32


def photo():
    """Smooth noise with some grain, as a camera's JPEG has it."""
    rng = np.random.default_rng(7)
    smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 8, (375, 500, 1))
    picture = Image.fromarray((np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    picture.save(file, "jpeg", quality=90)
    return file.getvalue()


class Firn:
    """A process that embeds when it is told to; also has the CLIP of candle-transformers."""

    def __init__(self, folder, threads):
        command = ["cargo", "run", "--quiet", "--release", "--example", "clip_speed", "--", str(folder)]
        environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, engine, what, n):
        self.process.stdin.write(f"{engine} {what} {n}\n")
        answer = json.loads(self.process.stdout.readline())
        return answer["cpu_ms"] / n, answer["wall_ms"] / n

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def onednn_linear(layer, x):
    """By itself PyTorch multiplies with MKL, which may be slow on processors that are not Intel's."""
    return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "none", [], "")


class Torch:
    def __init__(self, model, processor, pixels, ids, photo):
        self.model, self.processor, self.pixels, self.ids, self.photo = model, processor, pixels, ids, photo

    def run_onednn(self, what, n):
        linear = torch.nn.Linear.forward
        torch.nn.Linear.forward = onednn_linear
        try:
            return self.run(what, n)
        finally:
            torch.nn.Linear.forward = linear

    @torch.no_grad()
    def run(self, what, n):
        cpu, wall = time.process_time(), time.perf_counter()
        if what == "image":
            self.model.get_image_features(self.pixels[:n])
        elif what == "text":
            self.model.get_text_features(self.ids[:n])
        else:
            for _ in range(n):
                picture = Image.open(io.BytesIO(self.photo)).convert("RGB")
                self.processor(picture, return_tensors="np")
        return 1000 * (time.process_time() - cpu) / n, 1000 * (time.perf_counter() - wall) / n


class Side(torch.nn.Module):
    """One tower with its projection, as a graph of its own."""

    def __init__(self, tower, projection):
        super().__init__()
        self.tower, self.projection = tower, projection

    def forward(self, x):
        return self.projection(self.tower(x).pooler_output)


class Onnx:
    def __init__(self, model, pixels, ids, folder, threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.inputs = {"image": pixels.numpy(), "text": ids.numpy()}
        sides = {"image": Side(model.vision_model, model.visual_projection), "text": Side(model.text_model, model.text_projection)}
        self.sessions = {}
        for what, side in sides.items():
            path, example = str(folder / f"{what}.onnx"), torch.from_numpy(self.inputs[what][:2])
            axes = {"x": {0: "n", 1: "length"} if what == "text" else {0: "n"}}
            with warnings.catch_warnings(action="ignore"):
                torch.onnx.export(side.eval(), (example,), path, dynamo=False, input_names=["x"], output_names=["y"], dynamic_axes=axes)
            self.sessions[what] = onnxruntime.InferenceSession(path, options)

    def run(self, what, n):
        cpu, wall = time.process_time(), time.perf_counter()
        self.sessions[what].run(None, {"x": self.inputs[what][:n]})
        return 1000 * (time.process_time() - cpu) / n, 1000 * (time.perf_counter() - wall) / n


def measure(name, folder, args):
    model, processor, tokenizer = make_model(name, folder)
    rng = np.random.default_rng(9)
    n = max(args.batches)
    side = model.config.vision_config.image_size
    pixels = torch.from_numpy(rng.normal(0, 1, (n, 3, side, side)).astype(np.float32))
    texts = [" ".join(["a photo of a cat on the sofa"] * int(rng.integers(1, 8))) for _ in range(n)]
    ids = tokenizer(texts, truncation=True, max_length=77, padding=True, return_tensors="pt")["input_ids"]
    (folder / "pixels.f32").write_bytes(pixels.numpy().tobytes())
    (folder / "texts.json").write_text(json.dumps(texts))
    (folder / "ids.json").write_text(json.dumps(ids.tolist()))
    (folder / "photo.jpg").write_bytes(photo())

    firn, torch_ = Firn(folder, args.threads), Torch(model, processor, pixels, ids, photo())
    onnx = Onnx(model, pixels, ids, folder, args.threads)
    items = {"image": lambda n: n, "text": lambda n: sum(len(tokenizer(text)["input_ids"]) for text in texts[:n]), "photo": lambda n: n}
    jobs = [(what, n) for what in ("image", "text") for n in args.batches]
    for what, n in jobs + [("photo", N_PHOTOS)]:
        engines = {"firn": lambda: firn.run("firn", what, n), "torch": lambda: torch_.run(what, n)}
        if what != "photo":
            engines["onednn"] = lambda: torch_.run_onednn(what, n)
            engines["onnx"] = lambda: onnx.run(what, n)
            engines["candle"] = lambda: firn.run("candle", what, n)
        rounds = [{engine: run() for engine, run in engines.items()} for _ in range(args.repeats + 1)][1:]
        print(row(name, what, (n, items[what](n)), rounds), flush=True)
    firn.close()


def row(name, what, sizes, rounds):
    n, n_items = sizes
    engines = rounds[0].keys()
    cpu, wall = ({e: statistics.median(r[e][i] for r in rounds) for e in engines} for i in (0, 1))
    beside = lambda e: f"{cpu[e]:.1f} ({cpu['firn'] / cpu[e]:.2f})" if e in engines else ""
    cells = [f"{cpu['firn']:.1f}", *map(beside, ("torch", "onednn", "onnx", "candle")), " : ".join(f"{w:.1f}" for w in wall.values())]
    cells.append(f"{1000 * n_items / (cpu['firn'] * n):.1f}")
    return f"| {name} {what} | {n} | {' | '.join(cells)} |"


if __name__ == "__main__":
    numbers = lambda text: [int(n) for n in text.split(",")]
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=lambda text: text.split(","), default=["b32"])
    parser.add_argument("--batches", type=numbers, default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| | batch | firn | torch | torch, oneDNN | onnxruntime | candle-transformers | elapsed | firn's images or tokens per CPU-s |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            measure(name, Path(folder), args)
