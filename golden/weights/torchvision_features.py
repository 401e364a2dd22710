"""Features of torchvision's weights, computed by npid, against torchvision's.

Saves resnet18 and resnet50 with random weights and running statistics as torchvision names them,
writes pictures of 224x224 as PNG, lets npid import and embed them, and compares with torchvision's
own features: the global average of the last stage, at length 1. Fails above 1e-3, relative.

Run: python golden/weights/torchvision_features.py [target/release/npid]   (torch, torchvision, pillow)
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
PICTURES = 6


def pictures(folder):
    """Smooth random colours with noise: what a picture's spectrum is like, roughly."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    images = []
    for i in range(PICTURES):
        coarse = Image.fromarray(generator.integers(0, 256, (7, 7, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((224, 224), Image.BICUBIC), dtype=np.int32)
        pixels = np.clip(smooth + generator.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
    return (torch.stack(images) - MEAN) / STD


def network(name):
    net = getattr(torchvision.models, name)(weights=None)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    # Running statistics of real activations, so that features are neither tiny nor huge.
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(8, 3, 224, 224))
    return net.eval()


def npid(binary, *arguments):
    done = subprocess.run([binary, *map(str, arguments), "--json"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else "target/release/npid"
    torch.manual_seed(0)
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        batch = pictures(folder / "pictures")
        for name in ["resnet18", "resnet50"]:
            net = network(name)
            torch.save(net.state_dict(), folder / f"{name}.pth")
            with torch.no_grad():
                net.fc = nn.Identity()
                expected = nn.functional.normalize(net(batch)).numpy()
            run = folder / name
            report = npid(binary, "import", folder / f"{name}.pth", "--data", folder / "pictures", "--out", run)
            npid(binary, "embed", "--run", run, "--out", folder / f"{name}.npy")
            found = np.load(folder / f"{name}.npy")
            error = np.abs(found - expected).max() / np.abs(expected).max()
            cosine = (found * expected).sum(1).min()
            others = (expected @ expected.T)[~np.eye(PICTURES, dtype=bool)].max()
            print(f"{name}: {report['loaded']} weights, {report['unused']} unused; largest difference {error:.2e} of "
                  f"the largest feature, smallest cosine {cosine:.7f} (of two pictures at most {others:.4f})")
            worst = max(worst, error)
    sys.exit(0 if worst < 1e-3 else f"{worst:.2e} is more than 1e-3")


main()
