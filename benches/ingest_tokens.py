"""Ingests real features of a frozen image encoder with their grid tokens, and asks for them by id and by vector.

    python benches/ingest_tokens.py FIRN FOLDER

FIRN is the executable (target/release/firn). FOLDER holds `mnv2_global_i8.npy` (n, 1280), `mnv2_grid4x4_i8.npy` (n, 16, 320) and
`mnv2.json` with the scale and zero point of each: int8 = round(x / scale) + zero. They become one safetensors file: the vector
"image" in single precision and its tokens in half. Needs numpy. Everything is written to a temporary folder.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

QUERIES = 20


def convert(folder, path):
    meta = json.loads((folder / "mnv2.json").read_text())
    plain = lambda name, of: (np.load(folder / name).astype(np.float32) - meta[f"{of}_zero"]) * meta[f"{of}_scale"]
    image = plain("mnv2_global_i8.npy", "global")
    tokens = plain("mnv2_grid4x4_i8.npy", "grid").astype(np.float16)
    write(path, {"image": image, "image.tokens": tokens}, meta["ids"])
    return meta["ids"], image, tokens


def write(path, tensors, ids):
    """The safetensors format: length of the header, header, data."""
    header, start = {"__metadata__": {"ids": json.dumps(ids)}}, 0
    for name, array in tensors.items():
        end = start + array.nbytes
        dtype = {"float32": "F32", "float16": "F16"}[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [start, end]}
        start = end
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        for array in tensors.values():
            out.write(array.tobytes())


def main():
    firn, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        ids, image, tokens = convert(folder, work / "mnv2.safetensors")

        def ask(*args):
            command = [firn, *args, "--json", "--data-dir", work / "data"]
            return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=work).stdout)

        def check(hit, at):
            kept = hit["tokens"]["image"]
            assert (kept["n"], kept["dim"]) == tokens.shape[1:]
            assert np.array_equal(np.float16(kept["values"]).reshape(kept["n"], kept["dim"]), tokens[at]), ids[at]

        started = time.time()
        report = ask("ingest", "mnv2.safetensors", "--collection", "photos", "--journal", work / "journal")
        assert report["written"] == len(ids), report
        print(f"{report['written']} points in {time.time() - started:.1f} s with the index, {report['points_per_second']:.0f}/s written")
        size = sum(file.stat().st_size for file in (work / "data").rglob("*") if file.is_file())
        print(f"on disk {size / len(ids):.0f} bytes a point; its numbers are {image[0].nbytes + tokens[0].nbytes}")

        fetched = []
        for at in np.random.default_rng(0).integers(len(ids), size=QUERIES):
            (work / "query.json").write_text(json.dumps(image[at].tolist()))
            by_vector = ask("query", "photos", "--vector", "query.json", "--with-tokens", "--limit", "10")
            assert by_vector["hits"][0]["id"] == ids[at], "a vector finds its own point first"
            by_id = ask("query", "photos", "--id", f"text:{ids[at]}", "--with-tokens", "--limit", "10")
            for hit in by_vector["hits"] + by_id["hits"]:
                check(hit, ids.index(hit["id"]))
            fetched.append(by_vector["timings"]["fetch_us"])
        print(f"{2 * QUERIES} queries, every token as it was; 10 hits with tokens fetched in {np.median(fetched):.0f} us (median)")
        found = ask("verify", "photos")
        print("verify:", json.dumps(found)[:200])


if __name__ == "__main__":
    main()
