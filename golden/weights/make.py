"""Files of weights as PyTorch writes them, and what is in them.

Writes, beside this script, small .pth files in the layouts that people bring (narrow networks with
random weights), and cases.json: the numbers of every tensor, and the features that PyTorch computes
with the networks for four generated pictures.

  plain-zip.pth, plain-legacy.pth   every dtype and layout, in both of PyTorch's formats
  resnet.pth                        a state_dict with torchvision's names, and its classifier
  moco.pth                          MoCo v2's: encoder_q and encoder_k, a two-layer head, DataParallel
  mmselfsup.pth                     MMSelfSup's NPID: meta, state_dict with memory bank, optimizer
  mmselfsup-0.pth                   the same as 0.x saves it, without memory bank
  lemniscate.pth.tar                lemniscate's main.py: the memory is a pickled module
  lemniscate-cifar.t7               lemniscate's cifar.py: the network too is a pickled module

Run: python golden/weights/make.py   (torch and numpy)
"""

import json
import pathlib
import sys
import types
import warnings
from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

HERE = pathlib.Path(__file__).parent
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
WIDTH, DIM, ROWS, SIZE = 2, 4, 12, 32


def pixels(i):
    """Picture i, SIZE x SIZE x 3 bytes, as the tests make it."""
    y, x, c = np.meshgrid(np.arange(SIZE), np.arange(SIZE), np.arange(3), indexing="ij")
    return ((x * (5 + i) + y * (11 + 3 * i) + c * 60 + x * y * (i + 1)) % 256).astype(np.uint8)


def batch(mean, std):
    images = np.stack([pixels(i) for i in range(ROWS)]).astype(np.float32) / 255
    images = (images - np.array(mean, np.float32)) / np.array(std, np.float32)
    return torch.from_numpy(images).permute(0, 3, 1, 2)


class Block(nn.Module):
    def __init__(self, before, planes, stride, shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(before, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.name = shortcut
        changes = stride != 1 or before != planes
        # lemniscate's CIFAR network has an empty Sequential where torchvision's has None.
        layers = [nn.Conv2d(before, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)] if changes else []
        setattr(self, shortcut, nn.Sequential(*layers) if layers or shortcut == "shortcut" else None)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        short = getattr(self, self.name)
        return F.relu(y + (x if short is None else short(x)))


class ResNet(nn.Module):
    """ResNet-18 of WIDTH channels; `head` is the name and size of its last layer."""

    def __init__(self, stem, head=None, shortcut="downsample"):
        super().__init__()
        self.stem = stem
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.conv1 = nn.Conv2d(3, WIDTH, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        before = WIDTH
        for stage in range(4):
            planes = WIDTH << stage
            blocks = [Block(before, planes, 2 if stage else 1, shortcut), Block(planes, planes, 1, shortcut)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            before = planes
        self.head = head and head[0]
        if head:
            setattr(self, head[0], nn.Linear(before, head[1]))

    def pooled(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        if self.stem == "imagenet":
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in range(4):
            x = getattr(self, f"layer{stage + 1}")(x)
        return x.mean((2, 3))

    def forward(self, x):
        x = self.pooled(x)
        return getattr(self, self.head)(x) if self.head else x


def random(net):
    """Weights and running statistics as after some training."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.num_batches_tracked.fill_(7)
    return net.eval()


def trained(net):
    """An SGD optimizer after two steps, so that it has momentum; the network is as it was."""
    before = {k: v.clone() for k, v in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)
    for _ in range(2):
        for parameter in net.parameters():
            parameter.grad = torch.randn_like(parameter) * 0.01
        optimizer.step()
    net.load_state_dict(before)
    return optimizer


def rounded(rows):
    return [[round(x, 7) for x in row] for row in rows.tolist()]


def features(net, mean, std):
    with torch.no_grad():
        return rounded(F.normalize(net(batch(mean, std))))


def describe(tensor):
    values = tensor.detach().double().flatten()
    few = values if len(values) <= 24 else values[:2]
    number = lambda x: float(f"{x:.9g}")
    return {"shape": list(tensor.shape), "values": [number(v) for v in few.tolist()], "sum": number(values.sum().item())}


def flat(value, name=""):
    """Names as npid gives them: dicts and modules joined by dots."""
    if isinstance(value, nn.Module):
        value = value.state_dict()
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))


CASES = {}


def save(name, value, legacy=False, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, HERE / name, _use_new_zipfile_serialization=not legacy)
    tensors = {key: describe(tensor) for key, tensor in flat(value)}
    CASES[name] = {"tensors": tensors, **more}


def plain():
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 7
    shared = torch.randn(10)
    ordered = OrderedDict(weight=torch.randn(3), bias=nn.Parameter(torch.randn(2, 2)))
    ordered._metadata = OrderedDict(version=1)
    dtypes = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
              torch.uint8, torch.bool]
    return {
        "f32": base,
        **{str(dtype).removeprefix("torch."): (base * 3).to(dtype) for dtype in dtypes},
        "transposed": base.permute(2, 0, 1),
        "sliced": base[1:, ::2, 1:3],
        "repeated": torch.tensor([2.5]).expand(3, 4),
        "shared_head": shared[:4],
        "shared_tail": shared[6:],
        "channels_last": torch.randn(1, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        "scalar": torch.tensor(-1.25),
        "empty": torch.empty(0, 5),
        "parameter": nn.Parameter(torch.randn(2)),
        "nested": {"deeper": ordered, 3: torch.ones(1)},
        "list": [torch.zeros(2)],
        "text": "a text",
        "number": np.float64(2.5),
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "none": None,
        "large": 1 << 70,
    }


def mmselfsup():
    net = nn.Module()
    net.backbone = random(ResNet("imagenet"))
    net.neck = nn.Module()
    net.neck.fc = nn.Linear(WIDTH * 8, DIM)
    net.memory_bank = nn.Module()
    net.memory_bank.register_buffer("feature_bank", torch.zeros(ROWS, DIM))
    net.forward = lambda x: net.neck.fc(net.backbone(x))
    optimizer = trained(net)
    net.eval()
    own = features(net, MEAN, STD)
    # Rows as after training: near the features.
    net.memory_bank.feature_bank += F.normalize(torch.tensor(own) + 0.001 * torch.randn(ROWS, DIM))
    for group in optimizer.param_groups:
        group.update(initial_lr=0.03, lr=0.0003)
    config = "model = dict(type='NPID', neg_num=8, head=dict(type='ContrastiveHead', temperature=0.07))\n"
    meta = dict(epoch=170, iter=170 * 3, config=config, mmcv_version="1.7.1", CLASSES=None, hook_msgs={})
    state = OrderedDict(net.state_dict())
    save("mmselfsup.pth", dict(meta=meta, state_dict=state, optimizer=optimizer.state_dict()), features=own)
    # 0.x keeps its bank as a plain attribute, which no state_dict has.
    state = OrderedDict((k, v) for k, v in state.items() if "memory_bank" not in k)
    save("mmselfsup-0.pth", dict(meta=dict(meta, epoch=3), state_dict=state), features=own)


def belongs(cls, module, name):
    """Makes pickles call the class `module.name`."""
    for part in (module.partition(".")[0], module):
        sys.modules.setdefault(part, types.ModuleType(part))
    cls.__module__, cls.__qualname__, cls.__name__ = module, name, name
    setattr(sys.modules[module], name, cls)
    return cls


def empty(name):
    return type(name, (nn.Module,), {})


def lemniscate():
    made = belongs(empty("NCEAverage"), "lib.NCEAverage", "NCEAverage")()
    made.nLem, made.K = ROWS, 8
    made.unigrams = torch.ones(ROWS)
    made.register_buffer("params", torch.tensor([8.0, 0.07, 123.5, 0.9]))
    made.register_buffer("memory", F.normalize(torch.randn(ROWS, DIM)))
    net = random(ResNet("imagenet", ("fc", DIM)))
    optimizer = trained(net)
    for group in optimizer.param_groups:
        group["lr"] = 0.003
    state = OrderedDict((f"module.{k}", v) for k, v in net.state_dict().items())
    value = dict(epoch=130, arch="resnet18", state_dict=state, lemniscate=made, best_prec1=41.5,
                 optimizer=optimizer.state_dict())
    save("lemniscate.pth.tar", value, legacy=True, features=features(net, MEAN, STD))


def lemniscate_cifar():
    made = belongs(empty("LinearAverage"), "lib.LinearAverage", "LinearAverage")()
    made.nLem = ROWS
    made.register_buffer("params", torch.tensor([0.1, 0.9]))
    made.register_buffer("memory", F.normalize(torch.randn(ROWS, DIM)))
    belongs(Block, "models.resnet_cifar", "BasicBlock")
    belongs(ResNet, "models.resnet_cifar", "ResNet")
    net = random(ResNet("cifar", ("linear", DIM), "shortcut"))
    own = features(net, CIFAR_MEAN, CIFAR_STD)
    save("lemniscate-cifar.t7", dict(net=net, lemniscate=made, acc=0.5, epoch=9), legacy=True, features=own)


def main():
    torch.manual_seed(0)
    save("plain-zip.pth", plain())
    torch.manual_seed(0)
    save("plain-legacy.pth", plain(), legacy=True)
    net = random(ResNet("imagenet", ("fc", 10)))
    with torch.no_grad():
        own = rounded(F.normalize(net.pooled(batch(MEAN, STD))))
    save("resnet.pth", OrderedDict(net.state_dict()), features=own)
    # MoCo v2's: a two-layer head.
    query, key = random(ResNet("imagenet", ("fc", DIM))), random(ResNet("imagenet", ("fc", DIM)))
    for net in (query, key):
        net.fc = nn.Sequential(nn.Linear(WIDTH * 8, 6), nn.ReLU(), nn.Linear(6, DIM))
    state = OrderedDict()
    for name, part in [("encoder_q", query), ("encoder_k", key)]:
        state.update((f"module.{name}.{k}", v) for k, v in part.state_dict().items())
    state["module.queue"] = torch.randn(DIM, 6)
    state["module.queue_ptr"] = torch.zeros(1, dtype=torch.long)
    save("moco.pth", dict(epoch=200, arch="resnet18", state_dict=state), features=features(query, MEAN, STD))
    mmselfsup()
    lemniscate()
    lemniscate_cifar()
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    text = json.dumps({"versions": versions, "files": CASES}, separators=(",", ":"))
    (HERE / "cases.json").write_text(text.replace('},"', '},\n"') + "\n")


main()
