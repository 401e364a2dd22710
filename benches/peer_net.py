"""The network that npid is held against, in PyTorch: a ResNet of any width, a linear layer, L2 norm."""
import torch
from torch import nn
from torch.nn import functional as F

# Kernel of each convolution of a block, where its stride sits, and how much wider it ends.
BASIC = ([3, 3], 0, 1)
BOTTLENECK = ([1, 3, 1], 1, 4)
STAGES = {18: (BASIC, [2, 2, 2, 2]), 34: (BASIC, [3, 4, 6, 3]), 50: (BOTTLENECK, [3, 4, 6, 3])}


def conv_norm(inputs, outputs, kernel, stride=1):
    return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)]


class Block(nn.Module):
    """relu(convolutions(x) + shortcut(x)), with ReLUs between the convolutions."""

    def __init__(self, inputs, planes, stride, kind):
        super().__init__()
        kernels, strided, growth = kind
        layers, width = [], inputs
        for i, kernel in enumerate(kernels):
            last = i == len(kernels) - 1
            outputs = planes * growth if last else planes
            layers += conv_norm(width, outputs, kernel, stride if i == strided else 1)
            layers += [] if last else [nn.ReLU(inplace=True)]
            width = outputs
        self.convolutions = nn.Sequential(*layers)
        same = stride == 1 and inputs == width
        self.shortcut = nn.Identity() if same else nn.Sequential(*conv_norm(inputs, width, 1, stride))

    def forward(self, x):
        return F.relu(self.convolutions(x) + self.shortcut(x), inplace=True)


class Network(nn.Module):
    """Images, normalised, B x 3 x H x W, to unit features, B x dim.

    `norm` puts a batch norm without affine parameters before the L2 norm.
    """

    def __init__(self, depth, stem, width, dim, norm=False):
        super().__init__()
        kind, counts = STAGES[depth]
        layers = conv_norm(3, width, 3) if stem == "cifar" else conv_norm(3, width, 7, 2)
        layers += [nn.ReLU(inplace=True)]
        layers += [] if stem == "cifar" else [nn.MaxPool2d(3, 2, 1)]
        channels = width
        for stage, count in enumerate(counts):
            planes = width * 2**stage
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(Block(channels, planes, stride, kind))
                channels = planes * kind[2]
        self.backbone = nn.Sequential(*layers)
        self.linear = nn.Linear(channels, dim)
        self.norm = nn.BatchNorm1d(dim, affine=False) if norm else nn.Identity()

    def forward(self, x):
        x = self.backbone(x).mean((2, 3))
        return F.normalize(self.norm(self.linear(x)).float())


def blend(bank, rows, features, momentum=0.5):
    """The bank's update, in place: `momentum` weights the new feature."""
    with torch.no_grad():
        bank[rows] = F.normalize((1 - momentum) * bank[rows] + momentum * features.detach())
