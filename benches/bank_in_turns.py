#!/usr/bin/env python3
"""The memory bank's part of a step, npid and PyTorch in turns, and their ratios.

    python benches/bank_in_turns.py target/release/npid [--rounds 5] [--rows N] [--threads 2]

PyTorch's bank and compiled functions stay in this process, which sleeps while npid runs; each
round takes every work once on each side (3 steps of PyTorch, 5 of npid, their median). Prints a
JSON object for each measurement and then a table of the medians over the rounds: PyTorch's formula
as written (f32, eager), its best in the rows' type (eager or compiled), npid, and how many times as
fast npid is as either. Needs PyTorch, and a C++ compiler for its compiled side.
"""

import argparse
import json
import math
import os
import statistics
import subprocess

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

import peer_bank

WORKS = [
    ("contrastive", 32, 65_536),
    ("contrastive", 32, 4_096),
    ("nce", 32, 4_096),
    ("softmax", 32, None),
    ("softmax", 128, None),
]


# A step that takes longer is measured once. (bf16 products on CPUs without instructions for them.)
SLOW_MS = 5_000


def torch_ms(loss, bank, batch, neg_num, steps=3):
    first = peer_bank.step(loss, bank, batch, neg_num) * 1e3
    if first > SLOW_MS:
        return first
    times = [peer_bank.step(loss, bank, batch, neg_num) for _ in range(steps)]
    return statistics.median(times) * 1e3


def npid_line(a, head, batch, neg_num, dtype):
    command = [a.npid, "bench", "bank", "--rows", str(a.rows), "--batch", str(batch), "--head", head,
               "--dtype", dtype, "--threads", str(a.threads), "--steps", "5", "--warmup", "1", "--json"]
    if neg_num:
        command += ["--neg-num", str(neg_num)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("npid")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--rows", type=int, default=1_281_167)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--skip-bf16-128", action="store_true",
                   help="PyTorch's exact softmax of batch 128 over bf16 rows isn't measured")
    p.add_argument("--only", help="one work: HEAD:BATCH, such as softmax:32")
    p.add_argument("--as-written", action="store_true",
                   help="of PyTorch, the formula as written alone (f32, eager)")
    a = p.parse_args()
    if a.only:
        WORKS[:] = [w for w in WORKS if f"{w[0]}:{w[1]}" == a.only]
    a.skip = [("softmax", 128, None)] if a.skip_bf16_128 else []
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    banks = {dtype: peer_bank.make_bank(a.rows, 128, dtype) for dtype in peer_bank.DTYPES}
    compiled = {}
    for head, batch, neg_num in WORKS:
        for dtype, bank in banks.items():
            if a.as_written or (head, batch, neg_num) in a.skip and dtype == "bf16":
                compiled[head, batch, neg_num, dtype] = None
                continue
            loss = torch.compile(peer_bank.HEADS[head], dynamic=False)
            peer_bank.step(loss, bank, batch, neg_num)
            compiled[head, batch, neg_num, dtype] = loss
            torch._dynamo.reset()  # so that no shape is taken for a dynamic one
    found = {}
    for _ in range(a.rounds):
        for work in WORKS:
            head, batch, neg_num = work
            for dtype, bank in banks.items():
                for side, loss in [("eager", peer_bank.HEADS[head]), ("compiled", compiled[*work, dtype])]:
                    known = found.setdefault((*work, dtype, side), [])
                    if a.as_written and (dtype, side) != ("f32", "eager"):
                        continue
                    if work in a.skip and dtype == "bf16" or known and known[0] > SLOW_MS:
                        continue
                    ms = torch_ms(loss, bank, batch, neg_num)
                    known.append(ms)
                    print(json.dumps({"peer": "torch " + torch.__version__, "side": side, "head": head,
                                      "batch": batch, "neg_num": neg_num, "dtype": dtype,
                                      "rows": a.rows, "median_ms": round(ms, 2)}), flush=True)
                line = npid_line(a, head, batch, neg_num, dtype)
                found.setdefault((*work, dtype, "npid"), []).append(line["median_ms"])
                found.setdefault((*work, dtype, "extra"), []).append(line["extra_mb"])
                print(json.dumps(line), flush=True)
    print("\n| work | rows | as written, ms | best in this type, ms | npid, ms | x as written | x best | npid's extra MB |")
    print("|---|---|---|---|---|---|---|---|")
    for work in WORKS:
        head, batch, neg_num = work
        median = lambda dtype, side: statistics.median(found[*work, dtype, side] or [math.inf])
        written = median("f32", "eager")
        for dtype in banks:
            side = min(["eager", "compiled"], key=lambda side: median(dtype, side))
            best, ours = median(dtype, side), median(dtype, "npid")
            extra = max(found[*work, dtype, "extra"])
            what = f"{head}, batch {batch}" + (f", {neg_num:,} negatives" if neg_num else "")
            known = f"{best:.1f} ({side}) | " if best < math.inf else "not measured | "
            ratio = f"{best / ours:.1f}" if best < math.inf else ""
            print(f"| {what} | {dtype} | {written:.1f} | {known}{ours:.1f} "
                  f"| {written / ours:.1f} | {ratio} | {extra} |")


if __name__ == "__main__":
    main()
