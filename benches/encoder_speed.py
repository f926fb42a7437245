"""Speed of full-size encoders with random weights on the CPU: firn, PyTorch, onnxruntime and, for CLIP, candle-transformers, in turns,
in one run.

    /tmp/venv/bin/python benches/encoder_speed.py [--models b32,siglip-b16] [--batches 1,8,32] [--repeats 7] [--threads 2]

The virtual environment is that of clip_parity.py, with sentence-transformers, onnx and onnxruntime; encoder_models.py has the models.
Medians, f32, milliseconds for one image or text: CPU time of all threads, in brackets firn's over this, then elapsed time in the same order,
firn's images or tokens per CPU-second, and the largest difference of any answer from PyTorch's, as rows of unit length; above 1e-4 the script
stops, above 1e-2 for photos. firn's texts include its tokenizer; the others get ids, padded to the longest. More than one thread on a busy
machine makes PyTorch wait in loops, which counts as CPU time: --threads 1 is fair there.
A photo is a JPEG of 500 x 375, decoded and preprocessed one at a time; beside firn stands Pillow with CLIPImageProcessorPil.
"""

import argparse
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

from clip_parity import ROOT
from encoder_models import MAKERS

COLUMNS = {"firn": "firn", "torch": "torch", "onednn": "torch, oneDNN", "onnx": "onnxruntime", "candle": "candle-transformers"}


class Example:
    """A process that embeds when it is told to, with firn or the CLIP of candle-transformers."""

    def __init__(self, folder, engines, threads):
        command = ["cargo", "run", "--quiet", "--release", "--example", "encoder_speed", "--", str(folder), *engines]
        environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
        self.folder = folder
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, engine, job, n):
        self.process.stdin.write(f"{engine} {job.what} {n}\n")
        answer = json.loads(self.process.stdout.readline())
        return answer["cpu_ms"] / n, answer["wall_ms"] / n, np.fromfile(self.folder / "answer.f32", np.float32)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def timed(n, work):
    cpu, wall = time.process_time(), time.perf_counter()
    answer = work()
    return 1000 * (time.process_time() - cpu) / n, 1000 * (time.perf_counter() - wall) / n, np.asarray(answer)


@torch.no_grad()
def run_torch(job, n):
    return timed(n, lambda: job.peer(*(x[:n] for x in job.inputs)))


def onednn_linear(layer, x):
    """By itself PyTorch multiplies with MKL, which may be slow on processors that are not Intel's."""
    return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "none", [], "")


def run_onednn(job, n):
    linear = torch.nn.Linear.forward
    torch.nn.Linear.forward = onednn_linear
    try:
        return run_torch(job, n)
    finally:
        torch.nn.Linear.forward = linear


class Onnx:
    def __init__(self, job, folder, threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.inputs = {f"x{i}": x.numpy() for i, x in enumerate(job.inputs)}
        axes = {name: {0: "n", 1: "length"} if x.ndim == 2 else {0: "n"} for name, x in self.inputs.items()}
        path, examples = str(folder / f"{job.what}.onnx"), tuple(x[:2] for x in job.inputs)
        with warnings.catch_warnings(action="ignore"):
            torch.onnx.export(job.peer.eval(), examples, path, dynamo=False, input_names=list(axes), output_names=["y"], dynamic_axes=axes)
        self.session = onnxruntime.InferenceSession(path, options)

    def run(self, n):
        return timed(n, lambda: self.session.run(None, {name: x[:n] for name, x in self.inputs.items()})[0])


def measure(name, folder, args):
    jobs = MAKERS[name](folder, max(args.batches))
    example = Example(folder, {engine for job in jobs for engine in job.engines.values()}, args.threads)
    for job in jobs:
        engines = {column: lambda n, engine=engine: example.run(engine, job, n) for column, engine in job.engines.items()}
        engines["torch"] = lambda n: run_torch(job, n)
        if isinstance(job.peer, torch.nn.Module):
            engines |= {"onednn": lambda n: run_onednn(job, n), "onnx": Onnx(job, folder, args.threads).run}
        for n in job.batches or args.batches:
            first, *rounds = [{c: engines[c](n) for c in COLUMNS if c in engines} for _ in range(args.repeats + 1)]
            largest = difference(first)
            assert largest <= job.tolerance, f"the engines do not do the same: {largest}"
            print(row(f"{name} {job.what}", n, job.n_items[:n].sum(), rounds, largest), flush=True)
    example.close()


def difference(answers):
    """The largest one from PyTorch's, which has the shape."""
    expected = answers["torch"][2]
    unit = lambda rows: rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    rows = [unit(answer.reshape(expected.shape)) for *_, answer in answers.values()]
    return max(np.abs(r - unit(expected)).max() for r in rows)


def row(name, n, n_items, rounds, difference):
    cpu, wall = ({c: statistics.median(r[c][i] for r in rounds) for c in rounds[0]} for i in (0, 1))
    beside = lambda c: f"{cpu[c]:.1f} ({cpu['firn'] / cpu[c]:.2f})" if c in cpu else ""
    cells = [f"{cpu['firn']:.1f}", *(beside(c) for c in COLUMNS if c != "firn"), " : ".join(f"{w:.1f}" for w in wall.values())]
    return f"| {name} | {n} | {' | '.join(cells)} | {1000 * n_items / (cpu['firn'] * n):.1f} | {difference:.1e} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=lambda text: text.split(","), default=["b32", "siglip-b16", "xlm-r-base", "minilm-l12", "qwen3-8-blocks"])
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"| | batch | {' | '.join(COLUMNS.values())} | elapsed | firn's images or tokens per CPU-s | max diff |")
    print("|" + "---|" * (len(COLUMNS) + 5), flush=True)
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            measure(name, Path(folder), args)
