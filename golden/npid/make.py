#!/usr/bin/env python3
"""Writes npid.safetensors: training steps of small NPID models, computed by PyTorch in f32.

    python make.py            (needs torch, torchvision, numpy, safetensors)

The model is MMSelfSup 0.x's NPID, written anew: backbone, LinearNeck (with an optional batch norm
without affine parameters), L2 norm, a head over a memory bank, and the bank's update after the
loss. Blocks are torchvision's, so parameters have torchvision's names. The optimiser is
torch.optim.SGD.

A network with ReLUs has kinks: where a value lies nearer to 0 than rounding, two correct programs
may take different sides and part ways. So the seed of each case is the first whose values keep
MARGIN from every kink in all steps and where f64 gives the same numbers up to f32's rounding.
"""

import json
import pathlib

import numpy as np
import safetensors
import safetensors.numpy
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck

MARGIN = 4e-6
MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]
MOMENTUM, DECAY = 0.9, 5e-4

SMALL = dict(depth=18, stem="cifar", base=3, size=(8, 8), batch=6, dim=8, rows=20, steps=10,
             lr=0.02)
CASES = {
    "softmax": dict(SMALL, head="softmax", tau=0.4, bank_momentum=0.9, norm=False, final=False),
    "softmax_norm": dict(SMALL, head="softmax", tau=0.5, bank_momentum=0.5, norm=True, lr=0.01,
                         final=False),
    # Draws that hit the positive are kept ...
    "contrastive": dict(
        SMALL, head="contrastive", tau=0.3, k=5, bank_momentum=0.9, norm=False, ensure_neg=False,
        final=False,
    ),
    # ... or drawn again.
    "contrastive_ensure_neg": dict(
        SMALL, head="contrastive", tau=0.5, k=5, bank_momentum=0.9, norm=True, ensure_neg=True,
        lr=0.01, final=True,
    ),
    "resnet50": dict(
        depth=50, stem="imagenet", base=2, size=(50, 34), batch=6, dim=6, rows=12, steps=3, lr=0.003,
        head="contrastive", tau=0.3, k=7, bank_momentum=0.5, norm=False, ensure_neg=False,
        final=False,
    ),
}


class Backbone(nn.Module):
    """ResNet with a width of one's own, and a CIFAR or an ImageNet stem."""

    def __init__(self, depth, stem, base):
        super().__init__()
        block, counts = {18: (BasicBlock, [2, 2, 2, 2]), 50: (Bottleneck, [3, 4, 6, 3])}[depth]
        kernel, stride = (3, 1) if stem == "cifar" else (7, 2)
        self.conv1 = nn.Conv2d(3, base, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, 2, 1)
        width = base
        for stage, count in enumerate(counts):
            planes, blocks = base << stage, []
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                out, down = planes * block.expansion, None
                if stride != 1 or width != out:
                    down = nn.Sequential(
                        nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out)
                    )
                blocks.append(block(width, planes, stride, down))
                width = out
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.width = width

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class LinearNeck(nn.Module):
    def __init__(self, width, dim, norm):
        super().__init__()
        self.fc = nn.Linear(width, dim)
        self.norm = nn.BatchNorm1d(dim, affine=False) if norm else nn.Identity()

    def forward(self, x):
        return self.norm(self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1)))


class NPID(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.backbone = Backbone(c["depth"], c["stem"], c["base"])
        self.neck = LinearNeck(self.backbone.width, c["dim"], c["norm"])
        self.case = c

    def loss(self, feature, bank, rows, draws):
        tau = self.case["tau"]
        if self.case["head"] == "softmax":
            return F.cross_entropy(feature @ bank.t() / tau, rows)
        positive = (bank[rows] * feature).sum(1, keepdim=True)
        negative = torch.bmm(bank[draws], feature.unsqueeze(2)).squeeze(2)
        logits = torch.cat([positive, negative], 1) / tau
        return F.cross_entropy(logits, torch.zeros(len(rows), dtype=torch.long))

    def update(self, feature, bank, rows):
        """Every feature reads the old row; of a row that occurs twice the last stays."""
        m = self.case["bank_momentum"]
        new = F.normalize((1 - m) * bank[rows] + m * F.normalize(feature))
        for row, value in zip(rows.tolist(), new):
            bank[row] = value


def inputs(c, seed):
    g = torch.Generator().manual_seed(seed)
    steps, batch, rows = c["steps"], c["batch"], c["rows"]
    # Images that differ as a whole: coarse random colours under a little noise.
    coarse = torch.rand(steps * batch, 3, 3, 3, generator=g)
    smooth = F.interpolate(coarse, c["size"], mode="bilinear").permute(0, 2, 3, 1)
    noise = 0.1 * torch.rand(smooth.shape, generator=g)
    pixels = (255 / 1.1 * (smooth + noise)).to(torch.uint8).view(steps, batch, *c["size"], 3)
    index = torch.stack([torch.randperm(rows, generator=g)[:batch] for _ in range(steps)])
    index[1::3, batch - 1] = index[1::3, 0]  # one image twice in a batch
    draws = torch.zeros(steps, batch, 0, dtype=torch.long)
    if "k" in c:
        draws = torch.randint(0, rows, (steps, batch, c["k"]), generator=g)
        draws[:, 1, 2] = index[:, 1]  # certain hits of the positive
        draws[:, 4, 0] = index[:, 4]
        wrong = draws == index[:, :, None]
        while c["ensure_neg"] and wrong.any():
            draws[wrong] = torch.randint(0, rows, (int(wrong.sum()),), generator=g)
            wrong = draws == index[:, :, None]
    bank = F.normalize(torch.randn(rows, c["dim"], generator=g))
    return pixels, index, draws, bank


def run(c, initial, data, dtype):
    """Losses, gradients of step one, bank, final state, smallest distance from a kink."""
    pixels, index, draws, bank = data
    bank = bank.to(dtype, copy=True)
    model = NPID(c).to(dtype).train()
    model.load_state_dict({k: v.to(dtype) for k, v in initial.items()}, strict=False)
    margin = [float("inf")]

    def relu_hook(_, args):
        margin[0] = min(margin[0], args[0].abs().min().item())

    def pool_hook(_, args):
        # The lead of each window's winner, unless all are zeros of the ReLU before.
        x = F.pad(args[0], (1, 1, 1, 1), value=-1.0)
        top = x.unfold(2, 3, 2).unfold(3, 3, 2).flatten(4).topk(2, -1).values
        lead = (top[..., 0] - top[..., 1])[top[..., 0] > 0]
        margin[0] = min(margin[0], lead.min().item())

    for module in model.modules():
        if isinstance(module, nn.ReLU):
            # Blocks use one in-place ReLU twice; the hook sees its input before that.
            module.register_forward_pre_hook(relu_hook)
        if isinstance(module, nn.MaxPool2d):
            module.register_forward_pre_hook(pool_hook)
    optimizer = torch.optim.SGD(model.parameters(), c["lr"], MOMENTUM, weight_decay=DECAY)
    mean, std = torch.tensor(MEAN, dtype=dtype), torch.tensor(STD, dtype=dtype)
    losses, gradients = [], {}
    for step in range(c["steps"]):
        x = ((pixels[step].to(dtype) / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
        feature = F.normalize(model.neck(model.backbone(x)))
        loss = model.loss(feature, bank, index[step], draws[step])
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
        optimizer.step()
        with torch.no_grad():
            model.update(feature.detach(), bank, index[step])
        losses.append(loss.item())
    final = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    return np.array(losses), gradients, bank, final, margin[0]


def distance(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-6)).item()


def initial_parameters(c, seed):
    torch.manual_seed(seed)
    model = NPID(c)
    # Scale and shift away from 1 and 0, where sums of two small batches' norms vanish exactly.
    for name, p in model.named_parameters():
        if p.dim() == 4:
            nn.init.kaiming_normal_(p, mode="fan_out", nonlinearity="relu")
        if p.dim() == 1 and "neck" not in name:
            offset = 1.0 if name.endswith("weight") else 0.0
            # Branches start small. Otherwise batch norms over a few dozen values, one after
            # another, multiply rounding by thousands.
            small = name.endswith("bn3.weight" if c["depth"] == 50 else "bn2.weight")
            nn.init.normal_(p, 0.2 if small else offset, 0.05 if small else 0.2)
    return {k: v.detach() for k, v in model.named_parameters()}


def main():
    torch.set_num_threads(1)
    out, about = {}, {}
    starts = {
        "r18": initial_parameters(CASES["softmax"], 1),
        "r50": initial_parameters(CASES["resnet50"], 2),
    }
    for name, c in CASES.items():
        start = "r18" if c["depth"] == 18 else "r50"
        for seed in range(200):
            data = inputs(c, seed)
            losses, gradients, bank, final, margin = run(c, starts[start], data, torch.float32)
            if margin < MARGIN:
                continue
            want, want_gradients, want_bank, _, _ = run(c, starts[start], data, torch.float64)
            off = {
                "losses": float(np.abs(losses / want - 1).max()),
                "bank": distance(bank, want_bank),
                "gradients": max(
                    distance(g, want_gradients[n])
                    for n, g in gradients.items()
                    if not (c["norm"] and n == "neck.fc.bias")  # 0 in truth
                ),
            }
            if off["losses"] < 1e-5 and off["bank"] < 1e-5 and off["gradients"] < 1e-4:
                break
        else:
            raise SystemExit(f"{name}: every seed comes too near a kink")
        print(f"{name}: seed {seed}, margin {margin:.1e}, f32 from f64: {off}")
        print(f"  losses {losses}")
        pixels, index, draws, first_bank = data
        out[f"{name}.pixels"] = pixels.numpy()
        out[f"{name}.rows"] = index.numpy().astype(np.uint8)
        out[f"{name}.draws"] = draws.numpy().astype(np.uint8)
        out[f"{name}.bank_initial"] = first_bank.numpy()
        out[f"{name}.bank"] = bank.numpy()
        out[f"{name}.losses"] = losses.astype(np.float32)
        for n, g in gradients.items():
            out[f"{name}.gradient.{n}"] = g.numpy()
        if c["final"]:
            # The large tensors are left out: the file stays below a megabyte.
            for n, v in final.items():
                if v.numel() > 1500:
                    continue
                out[f"{name}.final.{n}"] = v.numpy()
        about[name] = dict(c, seed=seed, start=start)
    for start, parameters in starts.items():
        for n, p in parameters.items():
            out[f"{start}.{n}"] = p.numpy()
    versions = {m.__name__: m.__version__ for m in (torch, torchvision, np, safetensors)}
    # One entry, as the order of several is not fixed.
    about = {
        "versions": versions,
        "cases": about,
        "momentum": MOMENTUM,
        "weight_decay": DECAY,
        "mean": MEAN,
        "std": STD,
    }
    path = pathlib.Path(__file__).with_name("npid.safetensors")
    out = {k: np.ascontiguousarray(v) for k, v in out.items()}
    safetensors.numpy.save_file(out, path, {"about": json.dumps(about)})
    path.chmod(0o644)
    print(versions, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
