"""Speed of fusion networks on the CPU: firn and PyTorch, the same weights, in turns, in one run.

    /tmp/venv/bin/python benches/fusion_speed.py [--candidates 10,100,1000] [--repeats 9] [--threads 2]

The virtual environment needs torch, numpy and safetensors. One text is scored against so many candidates, whose vectors and tokens are
stored; PyTorch computes the network as it is written, for all pairs at once. Medians, f32, milliseconds a question: CPU time of all threads, in brackets
firn's over PyTorch's, then elapsed time, and the largest difference of a logit; above 1e-4 the script stops, above 5e-3 for the large network, whose
matrices firn multiplies in bf16 where the processor does that.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

ROOT = Path(__file__).resolve().parent.parent
SHARE = 0.2
CASES = ["mlp", "1way-k7-m16", "2way-k7-m16", "frevl-64m"]


class Firn:
    """A process that scores when it is told to."""

    def __init__(self, folder, threads):
        command = ["cargo", "run", "--quiet", "--release", "-p", "firn-model", "--example", "fusion_speed", "--", str(folder)]
        environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
        self.folder = folder
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout.readline() == "ready\n"

    def run(self, case, n):
        self.process.stdin.write(f"{case} {n}\n")
        answer = json.loads(self.process.stdout.readline())
        return answer["cpu_ms"], answer["wall_ms"], np.fromfile(self.folder / "logits.f32", np.float32)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Torch:
    """The network as model/src/fusion/network.rs and looking.rs write it, with nothing folded or kept."""

    def __init__(self, folder, case):
        with safe_open(folder / f"{case}.safetensors", "pt") as file:
            self.about = json.loads(file.metadata()["firn.fusion"])[0]
            self.weights = {name.removeprefix("0."): file.get_tensor(name) for name in file.keys()}
        shape = self.about["shape"]

        def read(side, name, *dims):
            numbers = np.fromfile(folder / f"{case}.{name}.f32", np.float32)
            return torch.from_numpy(numbers).view(-1, *dims) if numbers.size else None

        self.vectors = [read(side, side, shape["dim"]) for side in ("text", "image")]
        self.tokens = [read(side, f"{side}_tokens", *shape[side]["tokens"]) for side in ("text", "image")]

    def linear(self, name, x):
        return torch.nn.functional.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def norm(self, name, x):
        return layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def side(self, name, vectors, tokens):
        x = gelu(self.linear(f"{name}.vector", vectors * vectors.shape[-1] ** 0.5))
        x = self.norm(f"{name}.vector_ln", x)[:, None]
        if tokens is None:
            return x
        tokens = layer_norm(tokens, tokens.shape[-1:])
        tokens = self.norm(f"{name}.tokens_ln", self.linear(f"{name}.tokens", tokens)) + self.weights[f"{name}.places"]
        return torch.cat([x, tokens], 1)

    def heads(self, x):
        n, length, _ = x.shape
        return x.view(n, length, self.about["sizes"]["n_heads"], -1).transpose(1, 2)

    def look(self, name, x, other):
        seen = self.norm(f"{name}.ln_other", other)
        query = self.heads(self.linear(f"{name}.query", self.norm(f"{name}.ln_1", x)))
        key, value = self.heads(self.linear(f"{name}.key", seen)), self.heads(self.linear(f"{name}.value", seen))
        null = self.weights.get(f"{name}.null_key")
        if null is not None:
            null = self.heads(null.expand(len(x), 1, -1))
            key, value = torch.cat([key, null], 2), torch.cat([value, torch.zeros_like(null)], 2)
        mixed = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + SHARE * self.linear(f"{name}.out", mixed)
        return x + SHARE * self.linear(f"{name}.down", gelu(self.linear(f"{name}.up", self.norm(f"{name}.ln_2", x))))

    @torch.no_grad()
    def run(self, n):
        cpu, wall = time.process_time(), time.perf_counter()
        images = self.vectors[1][:n]
        texts = self.vectors[0].expand(n, -1)
        tokens = [t if t is None else t.expand(n, -1, -1) if at == 0 else t[:n] for at, t in enumerate(self.tokens)]
        text, image = self.side("text", texts, tokens[0]), self.side("image", images, tokens[1])
        kind = self.about["kind"]
        for layer in range(0 if kind == "mlp" else self.about["sizes"]["n_layers"]):
            seen = self.look(f"layers.{layer}.text", text, image)
            if kind != "facet-fusion-1way":
                image = self.look(f"layers.{layer}.image", image, text)
            text = seen
        logits = self.head(text.mean(1), image.mean(1), texts, images)
        return 1000 * (time.process_time() - cpu), 1000 * (time.perf_counter() - wall), logits.numpy()

    def head(self, t, v, texts, images):
        joined = torch.cat([t, v, t * v, (t - v).abs()], 1)
        learnt = SHARE * self.linear("head.out", gelu(self.linear("head.up", joined)))[:, 0]
        share = SHARE / texts.shape[1] ** 0.5
        unit = lambda x: x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
        bent = unit(texts + share * self.linear("bend.text", t)) * unit(images + share * self.linear("bend.image", v))
        return (bent.sum(1) - (texts * images).sum(1)) * self.weights["logit_scale"].exp() + learnt


def row(case, n, rounds, n_weights, largest):
    median = lambda engine, at: statistics.median(answers[engine][at] for answers in rounds)
    cpu, wall = [median(engine, 0) for engine in (0, 1)], [median(engine, 1) for engine in (0, 1)]
    return f"| {case} | {n_weights:,} | {n} | {cpu[0]:.2f} ({cpu[0] / cpu[1]:.2f}) | {cpu[1]:.2f} | {wall[0]:.2f} : {wall[1]:.2f} | {largest:.0e} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--candidates", type=lambda text: [int(n) for n in text.split(",")], default=[10, 100, 1000])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        firn = Firn(Path(folder), args.threads)
        print("| network | weights | candidates | firn, CPU | PyTorch, CPU | elapsed | max diff |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for case in CASES:
            peer = Torch(Path(folder), case)
            n_weights = sum(weight.numel() for weight in peer.weights.values())
            for n in args.candidates:
                first, *rounds = [(firn.run(case, n), peer.run(n)) for _ in range(args.repeats + 1)]
                largest = np.abs(first[0][2] - first[1][2]).max()
                assert largest <= (5e-3 if case == "frevl-64m" else 1e-4), f"the engines do not do the same: {largest}"
                print(row(case, n, rounds, n_weights, largest), flush=True)
        firn.close()
