#!/usr/bin/env python3
"""Trains small runs with npid, exports them, and compares what other programs make of the files.

    cargo build --release
    python golden/export/check.py [NPID] [--only CASE]...

NPID is the binary, target/release/npid by default. Needs torch, torchvision, timm, onnx,
onnxruntime, pyarrow, pillow, numpy and safetensors. For each case the features of the same PNG
files by `npid embed` and by torchvision, timm and onnxruntime must be equal to 1e-4 relative.
The Python blocks of docs/weights.md, section "Out", are run on the same files. Exits with 1 if
anything is off.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
import pyarrow.parquet as parquet
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, safe_open

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4
PICTURES = 40

LINEAR = '[model.neck]\ntype = "LinearNeck"\nout_channels = 128\n'
# Name: type and settings of the backbone, neck, size of the pictures.
CASES = {
    "resnet18": ('type = "ResNet"\ndepth = 18', LINEAR + "norm = true\n", 96),
    "resnet50": ('type = "ResNet"\ndepth = 50', "", 75),
    "resnet18-cifar": ('type = "ResNet_CIFAR"\ndepth = 18', LINEAR, 32),
    "resnet50-cifar": (
        'type = "ResNet_CIFAR"\ndepth = 50',
        '[model.neck]\ntype = "NonLinearNeck"\nhid_channels = 96\nout_channels = 48\n',
        32,
    ),
    "resnet50-caffe": (
        'type = "ResNet"\ndepth = 50\nstyle = "caffe"\nstem_channels = 32\nbase_channels = 16',
        LINEAR + "norm = true\n",
        64,
    ),
    "resnet18-narrow": (
        'type = "ResNet_CIFAR"\ndepth = 18\nbase_channels = 16',
        '[model.neck]\ntype = "MoCoV2Neck"\nhid_channels = 96\nout_channels = 64\nnorm = true\n',
        27,
    ),
}
RECIPE = """
seed = 5
[model]
type = "NPID"
[model.backbone]
{backbone}
{neck}
[model.head]
type = "SoftmaxHead"
temperature = 0.5
[model.memory_bank]
type = "SimpleMemory"
init = "features"
[data]
path = "{pictures}"
size = {size}
batch_size = 8
pipeline = [
    {{ type = "RandomResizedCrop", scale = [0.3, 1.0] }},
    {{ type = "RandomHorizontalFlip" }},
    {{ type = "Normalize", mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225] }},
]
[optimizer]
type = "SGD"
lr = 0.01
momentum = 0.9
[runner]
max_epochs = 5
[evaluation]
interval = 0
"""


def pictures(npid, folder):
    """The first of npid's built-in pictures of each class."""
    subprocess.run([npid, "data", "patterns", "--out", folder / "patterns"], check=True)
    classes = sorted((folder / "patterns" / "train").iterdir())
    return [sorted(c.iterdir())[i] for c in classes for i in range(PICTURES // len(classes))]


def off(got, want):
    """The largest difference of a row, relative to the row's length."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, (got.shape, want.shape)
    got, want = got.reshape(len(got), -1), want.reshape(len(want), -1)
    return (np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)).max()


class Case:
    def __init__(self, npid, name, sources, folder):
        self.npid, self.name, self.folder = npid, name, folder
        backbone, neck, size = CASES[name]
        (folder / "pictures").mkdir(parents=True)
        for i, source in enumerate(sources):
            picture = Image.open(source).convert("RGB").resize((size, size), Image.BICUBIC)
            picture.save(folder / "pictures" / f"{i:03}.png")
        recipe = folder / "recipe.toml"
        recipe.write_text(
            RECIPE.format(backbone=backbone, neck=neck, size=size, pictures=folder / "pictures")
        )
        self.call("train", recipe, "--out", folder / "run")
        self.call("embed", "--run", folder / "run", "--data", folder / "pictures", "--out", folder / "e.npy")
        self.embedded = np.load(folder / "e.npy")
        table = parquet.read_table(folder / "e.parquet")
        paths = [folder / "pictures" / p for p in table["path"].to_pylist()]
        pixels = np.stack([np.asarray(Image.open(p).convert("RGB")) for p in paths])
        self.image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        self.reports = {}
        for out, *flags in [
            ("backbone.pth",),
            ("backbone.safetensors",),
            ("embedding.safetensors", "--what", "embedding"),
            ("mmselfsup.pth", "--names", "mmselfsup", "--what", "embedding"),
            ("embedding.onnx",),
            ("pooled.onnx", "--what", "backbone"),
            ("map.onnx", "--what", "map"),
        ]:
            text = self.call("export", "--run", folder / "run", "--out", folder / out, "--json", *flags)
            self.reports[out] = json.loads(text.splitlines()[-1])

    def call(self, *arguments):
        done = subprocess.run(
            [self.npid, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if done.returncode:
            sys.exit(f"{self.name}: npid {' '.join(map(str, arguments))}: {done.stderr}")
        return done.stdout

    def normalised(self):
        report = self.reports["backbone.pth"]
        mean, std = (torch.tensor(report[k]).reshape(1, 3, 1, 1) for k in ("mean", "std"))
        return (self.image - mean) / std

    def torchvision(self):
        """Map, pooled features and embedding by torchvision's model and a neck of three lines."""
        depth = int(re.match(r"resnet(\d+)", self.name)[1])
        weights = torch.load(self.folder / "backbone.pth", weights_only=True)
        model = torchvision_model(depth, weights, "caffe" if "caffe" in self.name else "pytorch")
        missing, unexpected = model.load_state_dict(weights, strict=False)
        assert sorted(missing) == ["fc.bias", "fc.weight"] and unexpected == [], (missing, unexpected)
        counters = [v for k, v in weights.items() if k.endswith("num_batches_tracked")]
        assert all(v.dtype == torch.int64 and v.shape == () and v == 25 for v in counters)
        assert all(torch.equal(v, weights[k]) for k, v in load_file(self.folder / "backbone.safetensors").items())
        model.eval()
        body = torch.nn.Sequential(*list(model.children())[:-2])
        whole = load_file(self.folder / "embedding.safetensors")
        neck = {k.removeprefix("neck."): v for k, v in whole.items() if k.startswith("neck.")}
        nested = torch.load(self.folder / "mmselfsup.pth", weights_only=True)["state_dict"]
        prefixed = {k if k.startswith("neck.") else f"backbone.{k}": v for k, v in whole.items()}
        assert nested.keys() == prefixed.keys()
        assert all(torch.equal(v, nested[k]) for k, v in prefixed.items())
        with torch.no_grad():
            last_map = body(self.normalised())
            pooled = last_map.mean((2, 3))
            feature = torch.nn.functional.normalize(run_neck(neck, pooled))
        return last_map, pooled, feature

    def timm(self):
        depth = int(re.match(r"resnet(\d+)", self.name)[1])
        model = timm.create_model(f"resnet{depth}", pretrained=False, num_classes=0)
        if "cifar" in self.name:
            model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
            model.maxpool = torch.nn.Identity()
        model.load_state_dict(load_file(self.folder / "backbone.safetensors"), strict=True)
        with torch.no_grad():
            return model.eval()(self.normalised())

    def onnx(self, file):
        path = self.folder / file
        onnx.checker.check_model(str(path), full_check=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        run = lambda image: session.run(None, {"image": image.numpy()})[0]
        result = run(self.image)
        # Any number of pictures may be given.
        assert off(run(self.image[:1]), result[:1]) < TOLERANCE
        return result

    def check(self):
        last_map, pooled, feature = self.torchvision()
        # Features that are all alike would agree with anything.
        spread = self.embedded.std(0).mean() * self.embedded.shape[1] ** 0.5
        results = {
            "torchvision": off(feature, self.embedded),
            "onnxruntime": off(self.onnx("embedding.onnx"), self.embedded),
            "onnxruntime, pooled": off(self.onnx("pooled.onnx"), pooled),
            "onnxruntime, map": off(self.onnx("map.onnx"), last_map),
        }
        if "base_channels" not in CASES[self.name][0]:
            results["timm, pooled"] = off(self.timm(), pooled)
        print(f"{self.name}: D {self.embedded.shape[1]}, spread {spread:.2f}; "
              + "; ".join(f"{k} {v:.1e}" for k, v in results.items()))
        return spread > 0.05 and all(v < TOLERANCE for v in results.values())


def torchvision_model(depth, weights, style):
    """docs/weights.md's function, which is what people will copy."""
    namespace = {}
    source = next(text for _, text in blocks() if "def resnet(" in text)
    exec(source.split("\nweights = ")[0], namespace)
    return namespace["resnet"](depth, weights, style)


def run_neck(neck, x):
    """npid's necks by their names: linear layers and norms in order, a ReLU before each linear
    layer but the first."""
    order = lambda name: (re.sub(r"\D", "", name) or "0", name.startswith("bn"))
    layers = sorted({k.rsplit(".", 1)[0] for k in neck} - {"norm"}, key=order)
    first = True
    for layer in layers + ["norm"] * ("norm.running_mean" in neck):
        part = lambda name: neck.get(f"{layer}.{name}")
        if part("running_mean") is not None:
            x = torch.nn.functional.batch_norm(
                x, part("running_mean"), part("running_var"), part("weight"), part("bias")
            )
        else:
            x = x if first else x.relu()
            x = torch.nn.functional.linear(x, part("weight"), part("bias"))
            first = False
    return x


def blocks():
    """The Python blocks of docs/weights.md's section "Out", with the case each belongs to."""
    text = (ROOT / "docs" / "weights.md").read_text().split("\n## Out", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"<!-- run: (\S+) -->\s*```python\n(.*?)```", text, re.S)


def check_documents(cases):
    good = True
    for case, source in blocks():
        if case not in cases:
            continue
        image = sorted((cases[case].folder / "pictures").iterdir())[0]
        with contextlib.chdir(cases[case].folder):
            Image.open(image).save("picture.png")
            namespace = {}
            exec(source, namespace)
        feature = np.asarray(namespace["feature"]).reshape(1, -1)
        feature = feature / np.linalg.norm(feature)
        _, pooled, _ = cases[case].torchvision()
        want = cases[case].embedded if feature.shape[1] == cases[case].embedded.shape[1] else pooled
        want = np.asarray(want[:1]) / np.linalg.norm(want[:1])
        distance = off(feature, want)
        print(f"docs/weights.md, a block for {case}: {distance:.1e}")
        good &= distance < TOLERANCE
    return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("npid", nargs="?", default=ROOT / "target" / "release" / "npid")
    parser.add_argument("--only", action="append", choices=CASES)
    arguments = parser.parse_args()
    npid = pathlib.Path(arguments.npid).resolve()
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (torch, torchvision, timm, onnx, onnxruntime))
    print(versions)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 0)) or torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        sources = pictures(npid, folder)
        cases = {n: Case(npid, n, sources, folder / n) for n in arguments.only or CASES}
        good = [case.check() for case in cases.values()]
        good.append(check_documents(cases))
    raise SystemExit(int(not all(good)))


if __name__ == "__main__":
    main()
