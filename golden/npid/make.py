#!/usr/bin/env python3
"""Writes npid.safetensors: training steps of small NPID models, computed by PyTorch in f32.

    python make.py            (needs torch, torchvision, numpy, safetensors)

The model is MMSelfSup 0.x's NPID, written anew: backbone, neck (with an optional batch norm
without affine parameters), L2 norm, a head over a memory bank, and the bank's update after the
loss. Blocks are torchvision's, so parameters have torchvision's names. The NCE head is lemniscate's
NCEAverage and NCECriterion without its eps, by logarithms (exp(s/0.01) overflows in f32), with Z
kept or as a running mean, and the paper's proximal term. The optimiser is torch.optim.SGD, or LARS
by MMSelfSup's formula. With accumulation a loss is divided by the number of micro-batches, as
mmcv's optimizer hooks do; batch norm and bank act on each micro-batch.

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

# What a case has unless it says otherwise.
DEFAULT = dict(neck="linear", hid=7, frozen_stages=-1, norm_eval=False, accumulate=1, lars=None,
               all_gradients=True)
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
    # Z from the first batch, then kept; the paper's temperature.
    "nce": dict(
        SMALL, head="nce", tau=0.07, k=5, bank_momentum=0.5, norm=True, ensure_neg=False, lr=0.001,
        steps=4, z_momentum=0.0, proximal=0.0, final=True, all_gradients=False,
    ),
    "nce_running": dict(
        SMALL, head="nce", tau=0.2, k=9, bank_momentum=0.9, norm=True, ensure_neg=True, lr=0.003,
        steps=6, z_momentum=0.3, proximal=0.7, final=True, all_gradients=False,
    ),
    # exp(s/tau) reaches 1e40 here, beyond f32.
    "nce_cold": dict(
        SMALL, head="nce", tau=0.01, k=5, bank_momentum=0.5, norm=True, ensure_neg=False, lr=1e-5,
        steps=3, z_momentum=0.1, proximal=0.5, final=True, all_gradients=False,
    ),
    "mocov2_neck": dict(
        SMALL, head="softmax", tau=0.5, bank_momentum=0.5, norm=False, neck="MoCoV2Neck", final=True,
        all_gradients=False,
    ),
    "nonlinear_neck": dict(
        SMALL, head="softmax", tau=0.5, bank_momentum=0.5, norm=False, neck="NonLinearNeck",
        lr=0.001, steps=6, final=True, all_gradients=False,
    ),
    # Three micro-batches a step.
    "accumulation": dict(
        SMALL, head="contrastive", tau=0.5, k=5, bank_momentum=0.5, norm=True, ensure_neg=False,
        steps=9, accumulate=3, final=True, all_gradients=False,
    ),
    # Norms and biases excluded and without decay.
    "lars": dict(
        SMALL, head="softmax", tau=0.5, bank_momentum=0.5, norm=True, lars=0.02, lr=0.03, steps=6, final=True,
        all_gradients=False,
    ),
    "frozen_stages": dict(
        SMALL, head="softmax", tau=0.5, bank_momentum=0.5, norm=True, frozen_stages=2, final=True,
        all_gradients=False,
    ),
    "norm_eval": dict(
        SMALL, head="softmax", tau=0.5, bank_momentum=0.5, norm=False, frozen_stages=0,
        norm_eval=True, lr=0.003, final=True, all_gradients=False,
    ),
}
CASES = {name: dict(DEFAULT, **c) for name, c in CASES.items()}


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


class MLPNeck(nn.Module):
    """MoCoV2Neck or NonLinearNeck of two layers, with MMSelfSup's names."""

    def __init__(self, kind, width, hid, dim):
        super().__init__()
        self.kind = kind
        if kind == "MoCoV2Neck":
            self.mlp = nn.Sequential(nn.Linear(width, hid), nn.ReLU(), nn.Linear(hid, dim))
        else:
            self.fc0, self.bn0 = nn.Linear(width, hid, bias=False), nn.BatchNorm1d(hid)
            self.relu = nn.ReLU()
            self.fc1, self.bn1 = nn.Linear(hid, dim, bias=False), nn.BatchNorm1d(dim)

    def forward(self, x):
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        if self.kind == "MoCoV2Neck":
            return self.mlp(x)
        return self.bn1(self.fc1(self.relu(self.bn0(self.fc0(x)))))


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
        if c["neck"] == "linear":
            self.neck = LinearNeck(self.backbone.width, c["dim"], c["norm"])
        else:
            self.neck = MLPNeck(c["neck"], self.backbone.width, c["hid"], c["dim"])
        self.case = c
        self.log_z = None

    def freeze(self):
        """MMSelfSup's frozen_stages and norm_eval, on top of train()."""
        body, stages = self.backbone, self.case["frozen_stages"]
        for stage in range(stages + 1):
            for module in [body.conv1, body.bn1] if stage == 0 else [getattr(body, f"layer{stage}")]:
                module.eval().requires_grad_(False)
        if self.case["norm_eval"]:
            for module in body.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def loss(self, feature, bank, rows, draws):
        tau = self.case["tau"]
        if self.case["head"] == "softmax":
            return F.cross_entropy(feature @ bank.t() / tau, rows)
        positive = (bank[rows] * feature).sum(1, keepdim=True)
        negative = torch.bmm(bank[draws], feature.unsqueeze(2)).squeeze(2)
        logits = torch.cat([positive, negative], 1) / tau
        if self.case["head"] == "nce":
            return self.nce(feature, bank, rows, logits)
        return F.cross_entropy(logits, torch.zeros(len(rows), dtype=torch.long))

    def nce(self, feature, bank, rows, logits):
        n, k = self.case["rows"], self.case["k"]
        estimate = np.log(n) + logits.detach().flatten().logsumexp(0) - np.log(logits.numel())
        first = self.log_z is None
        if first:
            self.log_z = estimate
        x = logits - self.log_z - np.log(k / n)
        loss = F.softplus(-x[:, :1]).sum() + F.softplus(x[:, 1:]).sum()
        loss = loss + self.case["proximal"] * (feature - bank[rows]).square().sum()
        r = self.case["z_momentum"]
        if not first and r > 0:
            both = torch.stack([np.log(1 - r) + self.log_z, np.log(r) + estimate])
            self.log_z = both.logsumexp(0)
        return loss / len(rows)

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


class Lars:
    """MMSelfSup's LARS, with norms and biases excluded and without decay."""

    def __init__(self, named, lr, eta):
        self.named, self.lr, self.eta, self.buffers = list(named), lr, eta, {}

    def zero_grad(self):
        for _, p in self.named:
            p.grad = None

    @torch.no_grad()
    def step(self):
        for name, p in self.named:
            if p.grad is None:
                continue
            decay, local = DECAY, 1.0
            if p.dim() == 1:
                decay = 0.0
            else:
                weight, gradient = p.norm(), p.grad.norm()
                if weight != 0 and gradient != 0:
                    local = self.eta * weight / (gradient + decay * weight + 1e-8)
            d = (p.grad + decay * p) * (self.lr * local)
            if name in self.buffers:
                self.buffers[name].mul_(MOMENTUM).add_(d)
            else:
                self.buffers[name] = d.clone()
            p.sub_(self.buffers[name])


def run(c, initial, data, dtype):
    """Losses, gradients of step one, bank, final state, smallest distance from a kink."""
    pixels, index, draws, bank = data
    bank = bank.to(dtype, copy=True)
    model = NPID(c).to(dtype).train().freeze()
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
    if c["lars"]:
        optimizer = Lars(model.named_parameters(), c["lr"], c["lars"])
    else:
        learning = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(learning, c["lr"], MOMENTUM, weight_decay=DECAY)
    mean, std = torch.tensor(MEAN, dtype=dtype), torch.tensor(STD, dtype=dtype)
    losses, gradients = [], {}
    for step in range(c["steps"]):
        x = ((pixels[step].to(dtype) / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
        feature = F.normalize(model.neck(model.backbone(x)))
        loss = model.loss(feature, bank, index[step], draws[step])
        if step % c["accumulate"] == 0:
            optimizer.zero_grad()
        (loss / c["accumulate"]).backward()
        if step == 0:
            gradients = {
                n: p.grad.clone() * c["accumulate"]
                for n, p in model.named_parameters()
                if p.requires_grad
            }
        if step % c["accumulate"] == c["accumulate"] - 1:
            optimizer.step()
        with torch.no_grad():
            model.update(feature.detach(), bank, index[step])
        losses.append(loss.item())
    final = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    if model.log_z is not None:
        final["head.log_z"] = model.log_z.reshape(1)
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
        initial = dict(starts[start])
        if c["neck"] != "linear":
            # The backbone is shared, the neck its own.
            own = {k: v for k, v in initial_parameters(c, 3).items() if k.startswith("neck.")}
            initial.update(own)
            for n, p in own.items():
                out[f"{name}.initial.{n}"] = p.numpy()
        for seed in range(200):
            data = inputs(c, seed)
            losses, gradients, bank, final, margin = run(c, initial, data, torch.float32)
            if margin < MARGIN:
                continue
            want, want_gradients, want_bank, _, _ = run(c, initial, data, torch.float64)
            off = {
                "losses": float(np.abs(losses / want - 1).max()),
                "bank": distance(bank, want_bank),
                "gradients": max(
                    distance(g, want_gradients[n])
                    for n, g in gradients.items()
                    if not (c["norm"] and n == "neck.fc.bias")  # 0 in truth
                ),
            }
            # A small temperature multiplies rounding by its inverse.
            limit = 1e-5 * max(1.0, 0.3 / c["tau"])
            if max(off["losses"], off["bank"]) < limit and off["gradients"] < 10 * limit:
                break
            if seed % 20 == 19:
                print(f"{name}: seed {seed}: {off}", flush=True)
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
            if g.numel() > 1500 and not c["all_gradients"]:
                continue
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
