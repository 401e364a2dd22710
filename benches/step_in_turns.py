#!/usr/bin/env python3
"""Training steps and inference, npid and PyTorch in turns, and their ratios.

    python benches/step_in_turns.py target/release/npid [--rounds 5] [--only w16] [--dtypes f32,bf16]

Each round runs `npid bench step` and `peer_step.py` (plain and compiled) once for each work, each in
a process of its own, and prints their JSON lines. At the end a table of the medians over the rounds:
npid, the better of PyTorch's two in the same type, how many times as fast npid is, and both peaks of
memory (PyTorch's the smaller one). Needs PyTorch, and a C++ compiler for its compiled side.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))

# Name, flags of both sides, timed steps of npid and of PyTorch.
WORKS = {
    "train R18 CIFAR w16 b128": ("--depth 18 --stem cifar --width 16 --batch 128 --size 32", 10, 5),
    "train R18 CIFAR w64 b128": ("--depth 18 --stem cifar --width 64 --batch 128 --size 32", 4, 3),
    "infer w64": ("--depth 18 --stem cifar --width 64 --batch 128 --size 32 --eval", 5, 3),
    "infer w16": ("--depth 18 --stem cifar --width 16 --batch 128 --size 32 --eval", 15, 8),
    "train R18 224 b32": ("--depth 18 --stem imagenet --width 64 --batch 32 --size 224", 4, 3),
    "train R50 224 b16": ("--depth 50 --stem imagenet --width 64 --batch 16 --size 224", 3, 3),
}
# A step that takes longer than this is measured in the first round alone.
SLOW_S = 20


def line(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    print(json.dumps(found), flush=True)
    return found


def main():
    p = argparse.ArgumentParser()
    p.add_argument("npid")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--only", default="", help="only works with this in their name")
    p.add_argument("--dtypes", default="f32", help="f32, bf16, or both with a comma")
    p.add_argument("--sides", default="plain,compile", help="of PyTorch")
    a = p.parse_args()
    works = {name: work for name, work in WORKS.items() if a.only in name}
    peer = [sys.executable, os.path.join(HERE, "peer_step.py")]
    found = {}
    for _ in range(a.rounds):
        for name, (flags, ours, theirs) in works.items():
            common = flags.split() + ["--bank", "50000", "--threads", str(a.threads)]
            for dtype in a.dtypes.split(","):
                runs = {"npid": [a.npid, "bench", "step", "--json", "--steps", str(ours), "--warmup", "1"]}
                for side in a.sides.split(","):
                    extra = ["--compile"] if side == "compile" else []
                    runs[side] = peer + ["--steps", str(theirs), "--warmup", "2"] + extra
                for side, command in runs.items():
                    known = found.setdefault((name, dtype, side), [])
                    if known and known[0]["median_s"] > SLOW_S:
                        continue
                    known.append(line(command + common + ["--dtype", dtype]))
    print("\n| work | type | npid, images/s | PyTorch, images/s | x (its range) | npid, peak MB | PyTorch, peak MB |")
    print("|---|---|---|---|---|---|---|")
    for name in works:
        for dtype in a.dtypes.split(","):
            sides = {side: found[name, dtype, side] for side in a.sides.split(",")}
            seconds = lambda runs: statistics.median(run["median_s"] for run in runs)
            side = min(sides, key=lambda side: seconds(sides[side]))
            best, ours = sides[side], found[name, dtype, "npid"]
            batch = ours[0]["batch"]
            ratios = [b["median_s"] / o["median_s"] for b, o in zip(best, ours)]
            peak = min(run["peak_mb"] for runs in sides.values() for run in runs)
            print(f"| {name} | {dtype} | {batch / seconds(ours):.1f} | {batch / seconds(best):.1f} ({side}) "
                  f"| {seconds(best) / seconds(ours):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) "
                  f"| {max(run['peak_mb'] for run in ours):.0f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
