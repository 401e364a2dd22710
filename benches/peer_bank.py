#!/usr/bin/env python3
"""The memory bank's part of a step in PyTorch: MMSelfSup's formula, lemniscate's NCE, or the exact
softmax.

    python benches/peer_bank.py [--head contrastive|nce|softmax] [--neg-num K] [--batch B] [--rows N]
                                [--dtype f32|bf16] [--compile] [--threads T]

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


def softmax(feature, bank, index, negatives):
    """Cross entropy over all rows."""
    return F.cross_entropy(((feature / TAU).to(bank.dtype) @ bank.t()).float(), index)


def similarities(feature, bank, index, negatives):
    """MMSelfSup 0.x: gather and batched products; B x 1 and B x K."""
    batch = len(index)
    feature = feature.to(bank.dtype)
    positive = torch.einsum("nc,nc->n", bank.index_select(0, index), feature).unsqueeze(1)
    rows = bank.index_select(0, negatives).view(batch, -1, feature.shape[1])
    return positive, torch.bmm(rows, feature.unsqueeze(2)).squeeze(2)


def contrastive(feature, bank, index, negatives):
    """Cross entropy with target 0."""
    logits = torch.cat(similarities(feature, bank, index, negatives), 1).float() / TAU
    return F.cross_entropy(logits, torch.zeros(len(index), dtype=torch.long))


def nce(feature, bank, index, negatives):
    """lemniscate's NCEAverage and NCECriterion, with Z as it is for features that know nothing."""
    logits = torch.cat(similarities(feature, bank, index, negatives), 1).float() / TAU
    out = torch.exp(logits) / bank.shape[0]
    k = logits.shape[1] - 1
    noise = k / bank.shape[0]
    positive = torch.log(out[:, 0] / (out[:, 0] + noise + 1e-7))
    others = torch.log(noise / (out[:, 1:] + noise + 1e-7))
    return -(positive.sum() + others.sum()) / len(index)


HEADS = {"contrastive": contrastive, "nce": nce, "softmax": softmax}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def make_bank(rows, dim, dtype):
    """Random unit rows."""
    bank = torch.randn(rows, dim)
    for part in bank.split(65536):
        part.copy_(F.normalize(part))
    return bank.to(DTYPES[dtype])


def step(loss, bank, batch, neg_num):
    """Seconds of one step with fresh features, indices and negatives."""
    feature = F.normalize(torch.randn(batch, bank.shape[1])).requires_grad_()
    index = torch.randint(0, len(bank), (batch,))
    start = time.perf_counter()
    negatives = torch.randint(0, len(bank), (batch * neg_num,)) if neg_num else None
    loss(feature, bank, index, negatives).backward()
    with torch.no_grad():
        bank[index] = F.normalize(0.5 * bank[index].float() + 0.5 * feature).to(bank.dtype)
    return time.perf_counter() - start


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--rows", type=int, default=1_281_167)
    p.add_argument("--dim", type=int, default=128)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--neg-num", type=int, default=65_536)
    p.add_argument("--head", choices=HEADS, default="contrastive")
    p.add_argument("--dtype", choices=DTYPES, default="f32")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--steps", type=int, default=7)
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    bank = make_bank(a.rows, a.dim, a.dtype)
    neg_num = None if a.head == "softmax" else a.neg_num
    loss = torch.compile(HEADS[a.head]) if a.compile else HEADS[a.head]
    times = [step(loss, bank, a.batch, neg_num) for _ in range(a.warmup + a.steps)][a.warmup:]
    print(json.dumps({
        "peer": "torch " + torch.__version__, "rows": a.rows, "dim": a.dim, "batch": a.batch,
        "neg_num": neg_num, "head": a.head, "dtype": a.dtype, "compile": a.compile,
        "threads": a.threads, "median_ms": round(statistics.median(times) * 1e3, 2),
        "min_ms": round(min(times) * 1e3, 2),
    }))


if __name__ == "__main__":
    main()
