"""The quality PyTorch reaches by the recipe cifar10-resnet18-w16-10e: kNN top-1 on CIFAR-10.

    python benches/peer_knn_quality.py DATA --seed 0
    npid train cifar10-resnet18-w16-10e --data DATA/cifar10-train.parquet --val DATA/cifar10-test.parquet

DATA holds cifar10-train.parquet and cifar10-test.parquet (the README says where they come from). Prints
a JSON object an epoch and one at the end. Needs torch, torchvision, pyarrow and pillow.
"""
import argparse
import io
import json
import pathlib
import time

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision import transforms as T

from peer_net import Network, blend

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
DIM, TEMPERATURE, NEIGHBOURS, CLASSES = 128, 0.1, 200, 10
LR = 0.03
AT_ONCE = 500  # images embedded, or queries answered


def flags():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps-at", type=float, nargs="*", default=[0.6, 0.8], help="when the learning rate falls to a tenth, as shares of the run")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--published", action="store_true", help="as lemniscate's cifar.py: uniform bank, no norm, no flips")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=2, help="processes that augment")
    return parser.parse_args()


def load(path):
    """Pictures, N x 32 x 32 x 3 bytes, and labels."""
    table = pyarrow.parquet.read_table(path)
    column = "image" if "image" in table.column_names else "img"
    encoded = table[column].combine_chunks().field("bytes").to_pylist()
    pictures = [np.asarray(Image.open(io.BytesIO(b)).convert("RGB")) for b in encoded]
    return np.stack(pictures), torch.tensor(table["label"].to_pylist())


class Augmented(torch.utils.data.Dataset):
    """Pictures as training sees them, with their rows."""

    def __init__(self, pictures, flip):
        self.pictures = pictures
        steps = [T.RandomResizedCrop(32, scale=(0.2, 1.0)), T.ColorJitter(0.4, 0.4, 0.4, 0.4), T.RandomGrayscale(0.2)]
        steps += [T.RandomHorizontalFlip()] if flip else []
        self.transform = T.Compose(steps + [T.ToTensor(), T.Normalize(MEAN, STD)])

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, row):
        return self.transform(Image.fromarray(self.pictures[row])), row


@torch.no_grad()
def embed(network, pictures, device, batch_statistics=False):
    """Features of the pictures as they are, in their order."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    network.train(batch_statistics)
    parts = []
    for at in range(0, len(pictures), AT_ONCE):
        x = torch.tensor(pictures[at : at + AT_ONCE]).permute(0, 3, 1, 2).float()
        x = (x / 255 - mean) / std
        parts.append(network(x.to(device, memory_format=torch.channels_last)))
    network.train()
    return torch.cat(parts)


def knn_top1(queries, query_labels, rows, row_labels):
    """Share of queries, percent, whose class gets the largest vote, each neighbour's exp(s / temperature)."""
    right = 0
    for at in range(0, len(queries), AT_ONCE):
        similarity, nearest = (queries[at : at + AT_ONCE] @ rows.t()).topk(NEIGHBOURS)
        votes = torch.zeros(len(similarity), CLASSES, device=rows.device)
        votes.scatter_add_(1, row_labels[nearest], (similarity / TEMPERATURE).exp())
        right += (votes.argmax(1) == query_labels[at : at + AT_ONCE]).sum().item()
    return 100 * right / len(queries)


def main():
    args = flags()
    torch.manual_seed(args.seed)
    pictures, labels = load(args.data / "cifar10-train.parquet")
    asked, asked_labels = load(args.data / "cifar10-test.parquet")
    labels, asked_labels = labels.to(args.device), asked_labels.to(args.device)

    network = Network(18, "cifar", args.width, DIM, norm=not args.published)
    network = network.to(args.device, memory_format=torch.channels_last)
    if args.published:
        bound = (3 / DIM) ** 0.5
        bank = torch.empty(len(pictures), DIM, device=args.device).uniform_(-bound, bound)
    else:
        bank = embed(network, pictures, args.device, batch_statistics=True)
    optimizer = torch.optim.SGD(network.parameters(), LR, momentum=0.9, weight_decay=5e-4)
    loader = torch.utils.data.DataLoader(
        Augmented(pictures, flip=not args.published), args.batch, shuffle=True, num_workers=args.workers
    )
    falls = [int(args.epochs * share) for share in args.steps_at]

    def quality(rows):
        return knn_top1(embed(network, asked, args.device), asked_labels, rows, labels)

    for epoch in range(args.epochs):
        start, losses = time.time(), []
        for group in optimizer.param_groups:
            group["lr"] = LR * 0.1 ** sum(epoch >= fall for fall in falls)
        for images, rows in loader:
            images, rows = images.to(args.device, memory_format=torch.channels_last), rows.to(args.device)
            features = network(images)
            loss = F.cross_entropy(features @ bank.t() / TEMPERATURE, rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            blend(bank, rows, features)
            losses.append(loss.item())
        seconds = round(time.time() - start, 1)
        line = {"epoch": epoch, "loss": round(sum(losses) / len(losses), 4), "seconds": seconds, "knn_bank": quality(bank)}
        print(json.dumps(line), flush=True)
    clean = embed(network, pictures, args.device)
    report = {
        "peer": f"torch {torch.__version__}",
        "width": args.width,
        "epochs": args.epochs,
        "seed": args.seed,
        "published": args.published,
        "knn_top1": quality(clean),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
