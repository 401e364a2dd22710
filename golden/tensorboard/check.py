"""Reads a run's event files with TensorBoard and compares them with the run's metrics.jsonl.

    python golden/tensorboard/check.py RUN

Every number of metrics.jsonl must be there once, at its step and nowhere else, and nothing else
but two histograms of similarities and a picture. TensorBoard itself decides which values of a run
that was stopped and resumed count.
"""
import io
import json
import pathlib
import sys

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SETTINGS = {"epoch", "step", "k", "tau", "queries", "rows"}


def tag(line, field):
    kind = line["kind"]
    if kind == "knn":
        return f"eval/{field}" + ("_pixels" if line["subject"] == "pixels" else "")
    if kind == "epoch":
        return f"eval/{field}" if field.startswith("knn_") else f"epoch/{field}"
    return f"train/{field}"


run = pathlib.Path(sys.argv[1])
# 0 keeps every value where TensorBoard would thin them out.
kinds = ("scalars", "histograms", "images", "compressedHistograms", "tensors")
events = EventAccumulator(str(run), size_guidance=dict.fromkeys(kinds, 0)).Reload()

expected = {}
for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
    for field, value in line.items():
        if isinstance(value, (int, float)) and field not in SETTINGS:
            expected.setdefault(tag(line, field), []).append((line["step"], float(np.float32(value))))
found = {t: [(e.step, e.value) for e in events.Scalars(t)] for t in events.Tags()["scalars"]}
assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
for t, values in expected.items():
    assert found[t] == values, (t, found[t], values)

epochs = [step for step, _ in expected["epoch/loss"]]
histograms = sorted(events.Tags()["histograms"])
assert histograms == ["similarity/other_rows", "similarity/own_row"], histograms
for t in histograms:
    of = events.Histograms(t)
    assert [h.step for h in of] == epochs, t
    for h in of:
        v = h.histogram_value
        assert v.num > 0 and sum(v.bucket) == v.num and -1.001 < v.min <= v.max < 1.001, t

assert events.Tags()["images"] == ["train/views"], events.Tags()["images"]
(views,) = events.Images("train/views")
picture = Image.open(io.BytesIO(views.encoded_image_string))
picture.load()
assert views.step == 0 and picture.mode == "RGB" and picture.size == (views.width, views.height)

files = len(list(run.glob("*tfevents*")))
print(
    f"{run}: {sum(map(len, found.values()))} numbers under {len(found)} tags in {files} event "
    f"file(s) are those of metrics.jsonl; histograms of {len(epochs)} epochs; a picture of "
    f"{views.width} x {views.height}"
)
