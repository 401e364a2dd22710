#!/usr/bin/env python3
"""The memory bank's part of a step in PyTorch: MMSelfSup's formula, or the exact softmax.

    python benches/peer_bank.py [--neg-num K | --exact] [--batch B] [--rows N] [--threads T]

Each step draws features, indices and negatives, takes loss and feature gradient, and moves the
rows: what `npid bench bank` times. Prints one JSON object with the same keys.
"""

import argparse
import json
import statistics
import time

import torch
from torch.nn import functional as F

TAU = 0.07


def loss(feature, bank, index, negatives):
    """MMSelfSup 0.x: gather, batched products, cross entropy with target 0; or over all rows."""
    if negatives is None:
        return F.cross_entropy(feature @ bank.t() / TAU, index)
    batch = len(index)
    positive = (bank[index] * feature).sum(1, keepdim=True)
    rows = bank.index_select(0, negatives).view(batch, -1, feature.shape[1])
    logits = torch.cat([positive, torch.bmm(rows, feature.unsqueeze(2)).squeeze(2)], 1) / TAU
    return F.cross_entropy(logits, torch.zeros(batch, dtype=torch.long))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--rows", type=int, default=1_281_167)
    p.add_argument("--dim", type=int, default=128)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--neg-num", type=int, default=65_536)
    p.add_argument("--exact", action="store_true")
    p.add_argument("--steps", type=int, default=7)
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    bank = F.normalize(torch.randn(a.rows, a.dim))
    times = []
    for step in range(a.warmup + a.steps):
        feature = F.normalize(torch.randn(a.batch, a.dim)).requires_grad_()
        index = torch.randint(0, a.rows, (a.batch,))
        start = time.perf_counter()
        negatives = None if a.exact else torch.randint(0, a.rows, (a.batch * a.neg_num,))
        loss(feature, bank, index, negatives).backward()
        with torch.no_grad():
            bank[index] = F.normalize(0.5 * bank[index] + 0.5 * feature)
        if step >= a.warmup:
            times.append(time.perf_counter() - start)
    print(json.dumps({
        "peer": "torch " + torch.__version__, "rows": a.rows, "dim": a.dim, "batch": a.batch,
        "neg_num": None if a.exact else a.neg_num, "dtype": "f32", "threads": a.threads,
        "median_ms": round(statistics.median(times) * 1e3, 2),
        "min_ms": round(min(times) * 1e3, 2),
    }))


if __name__ == "__main__":
    main()
