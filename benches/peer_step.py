"""Times PyTorch on the work of `npid bench step`, with its flags; prints one JSON object.

    python benches/peer_step.py --width 16 --threads 2
    npid bench step --json --width 16 --threads 2

A step is what training does: forward, exact softmax at temperature 0.1 over the whole bank, backward,
SGD, bank update. Three prepared batches take turns. With --eval it is the forward pass alone.

Take the better of plain and --compile for a CPU (for ResNet-50 in bf16 also --nchw), and add
--graphs for a GPU. Needs torch.
"""
import argparse
import json
import resource
import statistics
import time

import torch
from torch.nn import functional as F

from peer_net import STAGES, Network, blend

BATCHES = 3
TEMPERATURE = 0.1


def flags():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, choices=list(STAGES), default=18)
    parser.add_argument("--stem", choices=["cifar", "imagenet"], default="cifar")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--bank", type=int, default=50_000, help="rows of the memory bank")
    parser.add_argument("--dim", type=int, default=128, help="dimension of the features")
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed")
    parser.add_argument("--warmup", type=int, default=3, help="steps before those")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves it to PyTorch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--nchw", action="store_true", help="channels first; channels last is the default, and faster")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--graphs", action="store_true", help="torch.compile with max-autotune: CUDA graphs")
    parser.add_argument("--eval", action="store_true", help="forward pass only, in evaluation mode")
    return parser.parse_args()


def main():
    args = flags()
    cuda = args.device == "cuda"
    compiled = args.compile or args.graphs
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = True

    layout = torch.contiguous_format if args.nchw else torch.channels_last
    network = Network(args.depth, args.stem, args.width, args.dim)
    network = network.to(args.device, memory_format=layout).train(not args.eval)
    shape = (args.batch, 3, args.size, args.size)
    images = [torch.randn(shape, device=args.device).to(memory_format=layout) for _ in range(BATCHES)]
    rows = [torch.randint(args.bank, (args.batch,), device=args.device) for _ in range(BATCHES)]
    bank = F.normalize(torch.randn(args.bank, args.dim, device=args.device))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4, fused=True)

    def forward(batch):
        return network(batch)

    def loss_of(batch, own):
        features = network(batch)
        logits = (features / TEMPERATURE) @ bank.t()
        return F.cross_entropy(logits.float(), own), features

    if compiled:
        import torch._inductor.config as inductor

        inductor.freezing = args.eval
        mode = "max-autotune" if args.graphs else None
        forward = torch.compile(forward, mode=mode)
        loss_of = torch.compile(loss_of, mode=mode)

    def autocast():
        return torch.autocast(args.device, torch.bfloat16, enabled=args.dtype == "bf16")

    def step(k):
        batch, own = images[k % BATCHES], rows[k % BATCHES]
        if args.eval:
            with torch.no_grad(), autocast():
                forward(batch)
            return
        with autocast():
            loss, features = loss_of(batch, own)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        blend(bank, own, features)

    def wait():
        if cuda:
            torch.cuda.synchronize()

    def timed(ks):
        wait()
        start = time.perf_counter()
        for k in ks:
            step(k)
        wait()
        return time.perf_counter() - start

    for k in range(args.warmup):
        timed([k])
    ks = range(args.warmup, args.warmup + args.steps)
    # A GPU's steps may overlap, so they are timed together.
    times = [timed(ks) / args.steps] if cuda else [timed([k]) for k in ks]
    median = statistics.median(times)
    peak = torch.cuda.max_memory_allocated() / 1e6 if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    report = {
        "peer": f"torch {torch.__version__}",
        "what": "eval" if args.eval else "train",
        "depth": args.depth,
        "stem": args.stem,
        "width": args.width,
        "batch": args.batch,
        "size": args.size,
        "bank": args.bank,
        "dim": args.dim,
        "dtype": args.dtype,
        "device": args.device,
        "compile": compiled,
        "threads": torch.get_num_threads(),
        "median_s": round(median, 5),
        "min_s": round(min(times), 5),
        "images_per_s": round(args.batch / median, 1),
        "peak_mb": round(peak, 1),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
