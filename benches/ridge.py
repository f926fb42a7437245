"""The plain baseline beside `firn train align --frozen image`: for each language a ridge regression from words to the image vectors.

    python benches/ridge.py FOLDER [--penalties 3,10,30] [--dims 256,512]

FOLDER holds mnv2_global_i8.npy, mnv2.json and captions.jsonl.gz. Needs numpy and scipy. The 6,000 most frequent words and pairs of
neighbours (of Chinese: letters), tf-idf, unit length; image vectors whitened to the first principal components, unit length. Penalty and
number of components are chosen, for each language, on a tenth of the training photos; the 1,000 validation photos are asked once.
"""

import argparse
import collections
import gzip
import json
import re
from pathlib import Path

import numpy as np
import scipy.linalg
import scipy.sparse

N_DRAWS = 1000
N_WORDS = 6000


def words(text, language):
    text = text.lower()
    single = [c for c in text if c.isalnum()] if language == "zh" else re.findall(r"\w+", text)
    return single + [f"{a} {b}" for a, b in zip(single, single[1:])]


def unit(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def whitened(vectors, train, dim):
    mean = vectors[train].mean(0)
    _, scales, axes = np.linalg.svd(vectors[train] - mean, full_matrices=False)
    return unit((vectors - mean) @ (axes[:dim] / (scales[:dim, None] + 0.05 * scales[0])).T)


class Words:
    """tf-idf by the captions that are learnt from."""

    def __init__(self, captions, language):
        counts = collections.Counter(word for text in captions for word in set(words(text, language)))
        common = [word for word, n in counts.most_common(N_WORDS) if n >= 2]
        self.language, self.columns = language, {word: i for i, word in enumerate(common)}
        self.idf = np.array([np.log(len(captions) / counts[word]) for word in self.columns])

    def rows(self, captions):
        entries = [(i, self.columns[w]) for i, text in enumerate(captions) for w in words(text, self.language) if w in self.columns]
        at = np.array(entries).T if entries else np.zeros((2, 0), int)
        counts = scipy.sparse.csr_matrix((np.ones(at.shape[1]), at), shape=(len(captions), len(self.columns)))
        rows = scipy.sparse.csr_matrix(counts.multiply(self.idf))
        lengths = np.asarray(np.sqrt(rows.multiply(rows).sum(1))).ravel()
        return scipy.sparse.diags(1 / np.maximum(lengths, 1e-9)) @ rows


def regress(rows, targets, penalty):
    """(words, dim); over captions if there are fewer of them than words."""
    n, width = rows.shape
    if n < width:
        gram = (rows @ rows.T).toarray()
        gram[np.diag_indices(n)] += penalty
        return rows.T @ scipy.linalg.solve(gram, targets, assume_a="pos")
    gram = (rows.T @ rows).toarray()
    gram[np.diag_indices(width)] += penalty
    return scipy.linalg.solve(gram, rows.T @ targets, assume_a="pos")


def ranks(texts, images, owners):
    scores = unit(texts) @ images.T
    return (scores > scores[np.arange(len(owners)), owners][:, None]).sum(1)


def line(found, owners, language, n_texts):
    rng = np.random.default_rng(0)
    photos = np.unique(owners)
    of_photo = {photo: np.flatnonzero(owners == photo) for photo in photos}
    hits = [np.concatenate([found[of_photo[p]] for p in rng.choice(photos, len(photos))]) < 1 for _ in range(N_DRAWS)]
    low, high = np.percentile([100 * h.mean() for h in hits], [2.5, 97.5])
    r1, r5, r10 = (100 * (found < k).mean() for k in (1, 5, 10))
    return f"| {language} | {n_texts} | {len(owners)} | {r1:.1f} ({low:.1f} to {high:.1f}) | {r5:.1f} | {r10:.1f} |"


def main():
    numbers = lambda text: [float(n) for n in text.split(",")]
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--penalties", type=numbers, default=[1, 3, 10, 30])
    parser.add_argument("--dims", type=numbers, default=[256, 512])
    args = parser.parse_args()
    about = json.loads((args.folder / "mnv2.json").read_text())
    place = {name: i for i, name in enumerate(about["ids"])}
    vectors = np.load(args.folder / "mnv2_global_i8.npy").astype(np.float32)
    texts = collections.defaultdict(lambda: collections.defaultdict(list))
    with gzip.open(args.folder / "captions.jsonl.gz", "rt") as lines:
        for photo in map(json.loads, lines):
            for caption in photo["captions"]:
                texts[caption["lang"]][photo["split"]].append((place[photo["id"]], caption["text"]))
    train = sorted({photo for by_split in texts.values() for photo, _ in by_split["train"]})
    tenth = set(np.random.default_rng(1).permutation(train)[: len(train) // 10].tolist())
    val = sorted(set(range(len(vectors))) - set(train))
    spaces = {int(dim): whitened(vectors, train, int(dim)) for dim in args.dims}

    print("| language | captions to learn from | asked | R@1 (95 %) | R@5 | R@10 |\n|---|---|---|---|---|---|")
    for language, by_split in texts.items():
        learn = [c for c in by_split["train"] if c[0] not in tenth]
        choose = [c for c in by_split["train"] if c[0] in tenth]

        def fit(captions, dim, penalty):
            model = Words([text for _, text in captions], language)
            weights = regress(model.rows([text for _, text in captions]), spaces[dim][[photo for photo, _ in captions]], penalty)
            return lambda asked, gallery: ranks(
                model.rows([text for _, text in asked]) @ weights,
                spaces[dim][gallery],
                np.searchsorted(gallery, [photo for photo, _ in asked]),
            )

        gallery = np.array(sorted(tenth))
        best = max(
            ((dim, penalty) for dim in spaces for penalty in args.penalties),
            key=lambda it: (fit(learn, *it)(choose, gallery) < 10).mean(),
        )
        found = fit(by_split["train"], *best)(by_split["val"], np.array(val))
        owners = np.array([photo for photo, _ in by_split["val"]])
        print(line(found, owners, language, len(by_split["train"])), flush=True)


if __name__ == "__main__":
    main()
