#!/usr/bin/env python3
"""How the cost of a step grows with the rows of the bank, the negatives and the batch.

    python benches/bank_growth.py target/release/npid benches/NAME [--threads 2]

Runs `npid bench bank` over the sizes below and writes NAME.jsonl (its lines) and NAME.svg. Needs
matplotlib.
"""

import argparse
import json
import subprocess

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

ROWS, BATCH, NEGATIVES = 1_281_167, 32, 65_536
SERIES = [
    # panel, legend, what varies, values, other flags
    ("rows", "exact softmax", "rows", [10**4, 10**5, 10**6, 10**7], {"head": "softmax"}),
    ("rows", "65,536 negatives", "rows", [10**4, 10**5, 10**6, 10**7], {}),
    ("negatives", "contrastive", "neg-num", [10**3, 10**4, 10**5, 10**6], {}),
    ("batch", "exact softmax", "batch", [32, 64, 128, 256, 512], {"head": "softmax"}),
    ("batch", "65,536 negatives", "batch", [32, 64, 128, 256, 512], {}),
]


def run(a, flags):
    command = [a.npid, "bench", "bank", "--threads", str(a.threads), "--steps", "3", "--warmup", "1",
               "--dtype", "bf16", "--json"]
    settings = {"rows": ROWS, "batch": BATCH, "neg-num": NEGATIVES, **flags}
    for flag, value in settings.items():
        command += [f"--{flag}", str(value)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("npid")
    p.add_argument("name")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    panels = list(dict.fromkeys(s[0] for s in SERIES))
    figure, axes = plt.subplots(1, len(panels), figsize=(12, 4), layout="constrained")
    with open(a.name + ".jsonl", "w") as lines:
        for panel, legend, flag, values, flags in SERIES:
            found = []
            for value in values:
                line = run(a, {**flags, flag: value})
                lines.write(json.dumps(line) + "\n")
                lines.flush()
                found.append(line["median_ms"])
                print(legend, flag, value, line["median_ms"], "ms", line["extra_mb"], "MB", flush=True)
            at = axes[panels.index(panel)]
            at.loglog(values, found, marker="o", label=legend)
            at.loglog(values, [found[-1] * v / values[-1] for v in values], ":", color="grey", lw=1)
    titles = {"rows": "rows of the bank (batch 32)", "negatives": "negatives an image (batch 32)",
              "batch": "images of a batch"}
    for panel, at in zip(panels, axes):
        at.set(xlabel=titles[panel], ylabel="ms a step")
        at.grid(True, which="major", lw=0.3)
        at.legend()
    figure.suptitle("A step's bank part, bf16 rows of 128 (dotted: in proportion)")
    figure.savefig(a.name + ".svg")


if __name__ == "__main__":
    main()
