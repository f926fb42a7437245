"""hnswlib on the vectors that the `index` bench wrote: one JSON object on stdout.

Usage: hnswlib.py FOLDER DIM M EF_CONSTRUCTION THREADS LIMIT EF...
FOLDER holds base.f32, queries.f32 and truth.u32 (LIMIT per query), all little-endian. Exits with 3 without hnswlib.
"""

import json
import os
import resource
import sys
import time

# This file has the module's name: look for it elsewhere.
sys.path.pop(0)
try:
    import hnswlib
    import numpy as np
except ImportError:
    sys.exit(3)


def main():
    folder = sys.argv[1]
    dim, m, ef_construction, threads, limit, *efs = map(int, sys.argv[2:])
    base = np.fromfile(os.path.join(folder, "base.f32"), "<f4").reshape(-1, dim)
    queries = np.fromfile(os.path.join(folder, "queries.f32"), "<f4").reshape(-1, dim)
    truth = np.fromfile(os.path.join(folder, "truth.u32"), "<u4").reshape(len(queries), limit)
    resident = resident_bytes()

    index = hnswlib.Index(space="ip", dim=dim)
    index.init_index(max_elements=len(base), M=m, ef_construction=ef_construction, random_seed=1)
    started = process_cpu()
    index.add_items(base, num_threads=threads)
    build_cpu_s = process_cpu() - started
    resident = resident_bytes() - resident

    results = []
    for ef in efs:
        index.set_ef(max(ef, limit))
        cpu_s = []
        for _ in range(5):
            started = time.thread_time()
            labels, _ = index.knn_query(queries, k=limit, num_threads=1)
            cpu_s.append(time.thread_time() - started)
        same = sum(len(set(a.tolist()) & set(b.tolist())) for a, b in zip(labels, truth))
        results.append({"ef": ef, "recall": same / truth.size, "cpu_us": min(cpu_s) * 1e6 / len(queries)})

    index.set_ef(64)
    labels, _ = index.knn_query(base, k=limit, num_threads=threads)
    lost = sum(i not in row for i, row in enumerate(labels))
    report = {"build_cpu_s": build_cpu_s, "resident_bytes": resident, "lost": lost, "results": results}
    json.dump(report, sys.stdout)


def process_cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
