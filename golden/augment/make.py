"""Golden numbers for npid's augmentation: what torchvision does to PIL pictures with fixed parameters.

    python golden/augment/make.py        writes cases.json and pixels.bin beside this file

Each case names an input, a list of operations with all chance removed, and where the expected
pixels (uint8, H x W x 3) lie in pixels.bin. The versions that made them are in cases.json.
"""
import json
import pathlib
import sys

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image, ImageFilter
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

HERE = pathlib.Path(__file__).parent
rng = np.random.default_rng(20240607)
pixels = bytearray()
cases = []


def put(array):
    array = np.ascontiguousarray(array, dtype=np.uint8)
    at = len(pixels)
    pixels.extend(array.tobytes())
    return {"offset": at, "height": array.shape[0], "width": array.shape[1]}


def smooth(height, width):
    """Waves of different length in each channel, with a little noise and hard edges."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    channels = []
    for c in range(3):
        a, b, phase = rng.uniform(0.05, 0.6, 3)
        wave = 127.5 + 127.5 * np.sin(a * x + b * y + 9 * phase)
        wave += rng.normal(0, 8, (height, width))
        wave[(x + 2 * y) % (19 + 4 * c) < 3] = 255 * (c % 2)
        channels.append(wave)
    return np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8)


def colours(height, width):
    """Every kind of colour: uniform ones, greys, and pure ones where channels are equal."""
    a = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    a[:2] = a[:2, :, :1]
    a[2:4, :, 1] = a[2:4, :, 0]
    a[4:6, :, 2] = a[4:6, :, 1]
    a[6:8, :, 2] = a[6:8, :, 0]
    a[8:10] = (a[8:10] > 127) * np.uint8(255)
    return a


inputs = {
    "odd": smooth(37, 23),
    "wide": smooth(48, 101),
    "tall": smooth(67, 31),
    "square": smooth(32, 32),
    "line": smooth(1, 13),
    "colours": colours(43, 61),
}
pictures = {name: Image.fromarray(a) for name, a in inputs.items()}


def filter_of(op):
    return InterpolationMode(op.get("interpolation", "bilinear"))


def random_crop(image, op):
    """torchvision's RandomCrop.forward with a given place."""
    fill, mode, (height, width) = tuple(op["fill"]), op["padding_mode"], op["size"]
    if op["padding"] is not None:
        image = F.pad(image, op["padding"], fill, mode)
    if op["pad_if_needed"] and image.width < width:
        image = F.pad(image, [width - image.width, 0], fill, mode)
    if op["pad_if_needed"] and image.height < height:
        image = F.pad(image, [0, height - image.height], fill, mode)
    return F.crop(image, op["top"], op["left"], height, width)


def lighting(image, alpha):
    """What MMSelfSup's Lighting adds to a tensor; rounded to 8 bits, which it leaves out."""
    values = torch.tensor([0.2175, 0.0188, 0.0045])
    vectors = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    rgb = (vectors * torch.tensor(alpha).view(1, 3) * values.view(1, 3)).sum(1)
    result = (F.to_tensor(image) + rgb.view(3, 1, 1)) * 255
    return Image.fromarray(result.round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


def apply(image, op):
    kind = op["op"]
    if kind == "crop":
        box = op["top"], op["left"], op["height"], op["width"]
        return F.resized_crop(image, *box, op["size"], filter_of(op))
    if kind == "resize":
        return F.resize(image, op["size"], filter_of(op))
    if kind == "center_crop":
        return F.center_crop(image, op["size"])
    if kind == "grayscale":
        return F.rgb_to_grayscale(image, num_output_channels=3)
    if kind == "flip":
        return F.hflip(image)
    if kind == "vertical_flip":
        return F.vflip(image)
    if kind == "random_crop":
        return random_crop(image, op)
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(radius=op["sigma"]))
    if kind == "solarize":
        return F.solarize(image, op["threshold"])
    if kind == "lighting":
        return lighting(image, op["alpha"])
    if kind == "apply":
        for inner in op["ops"]:
            image = apply(image, inner)
        return image
    if kind == "rotate":
        return F.rotate(image, op["degrees"], fill=op["fill"])
    if kind == "jitter":
        adjust = {
            "brightness": F.adjust_brightness,
            "contrast": F.adjust_contrast,
            "saturation": F.adjust_saturation,
            "hue": F.adjust_hue,
        }
        for step in op["order"]:
            if op.get(step) is not None:
                image = adjust[step](image, op[step])
        return image
    raise ValueError(kind)


def case(name, *ops):
    image = pictures[name]
    for op in ops:
        image = apply(image, op)
    cases.append({"input": name, "ops": list(ops), "expected": put(np.asarray(image))})


def crop(top, left, height, width, size):
    return dict(op="crop", top=top, left=left, height=height, width=width, size=size)


ORDER = ["brightness", "contrast", "saturation", "hue"]


def jitter(order=ORDER, **factors):
    return dict(op="jitter", order=list(order), **factors)


case("odd", crop(3, 2, 29, 17, [16, 16]))
case("odd", crop(0, 0, 37, 23, [37, 23]))
case("odd", crop(5, 0, 32, 23, [32, 32]))
case("odd", crop(1, 4, 11, 13, [40, 27]))
case("odd", crop(20, 7, 1, 1, [5, 4]))
case("wide", crop(7, 50, 41, 51, [8, 11]))
case("wide", crop(0, 3, 48, 96, [32, 32]))
case("wide", crop(9, 8, 32, 90, [32, 19]))
case("tall", crop(11, 1, 50, 24, [24, 24]))
case("square", crop(0, 0, 32, 32, [32, 32]))
case("square", crop(6, 9, 15, 19, [32, 32]))
case("line", crop(0, 2, 1, 9, [6, 6]))
case("wide", dict(op="resize", size=20))
case("tall", dict(op="resize", size=40))
case("odd", dict(op="resize", size=[19, 41]))
case("wide", dict(op="center_crop", size=[31, 40]))
case("tall", dict(op="center_crop", size=[40, 40]))
case("odd", dict(op="center_crop", size=[24, 36]))
# The evaluation view at 80 pixels: the shorter side to round(80 * 256 / 224), then the middle.
case("wide", dict(op="resize", size=91), dict(op="center_crop", size=[80, 80]))
# And at 24: the shorter side to 24, then the middle.
case("tall", dict(op="resize", size=24), dict(op="center_crop", size=[24, 24]))
case("colours", dict(op="grayscale"))
case("odd", dict(op="flip"))
case("square", dict(op="flip"))
for factor in (0.0, 0.37, 1.0, 1.61):
    case("colours", jitter(brightness=factor))
    case("colours", jitter(contrast=factor))
    case("colours", jitter(saturation=factor))
for factor in (-0.5, -0.213, 0.0, 0.004, 0.1, 0.37, 0.5):
    case("colours", jitter(hue=factor))
case("odd", jitter(["hue", "saturation", "contrast", "brightness"], brightness=1.3, contrast=0.7, saturation=1.4, hue=-0.17))
case("odd", jitter(["saturation", "brightness", "hue", "contrast"], brightness=0.65, contrast=1.35, saturation=0.6, hue=0.33))
case(
    "wide",
    crop(4, 30, 40, 44, [32, 32]),
    dict(op="grayscale"),
    jitter(["contrast", "hue", "brightness", "saturation"], brightness=1.2, contrast=0.8, saturation=1.1, hue=0.25),
    dict(op="flip"),
)
case(
    "square",
    crop(2, 3, 22, 27, [32, 32]),
    jitter(["brightness", "saturation", "contrast", "hue"], brightness=0.9, contrast=1.2, saturation=0.7, hue=-0.08),
    dict(op="flip"),
)

for sigma in (0.1, 0.45, 0.8, 1.0, 1.37, 2.0, 3.3, 9.0):
    case("odd", dict(op="blur", sigma=sigma))
case("colours", dict(op="blur", sigma=1.2))
case("line", dict(op="blur", sigma=2.0))
for threshold in (0.0, 100.5, 128.0, 256.0):
    case("colours", dict(op="solarize", threshold=threshold))
case("colours", dict(op="lighting", alpha=[0.11, -0.08, 0.2]))
case("odd", dict(op="lighting", alpha=[-1.3, 0.9, -0.4]))
case("odd", dict(op="vertical_flip"))
case("square", dict(op="vertical_flip"))
for interpolation in ("box", "hamming", "bicubic", "lanczos"):
    how = dict(interpolation=interpolation)
    case("wide", dict(op="resize", size=20, **how))
    case("odd", dict(op="resize", size=[53, 41], **how))
    case("tall", dict(crop(11, 1, 50, 24, [24, 31]), **how))


def part(top, left, size, padding=None, pad_if_needed=False, fill=(0, 0, 0), padding_mode="constant"):
    return dict(op="random_crop", top=top, left=left, size=size, padding=padding, pad_if_needed=pad_if_needed,
                fill=list(fill), padding_mode=padding_mode)


case("odd", part(5, 3, [20, 16]))
case("square", part(0, 8, [32, 32], padding=4))
case("square", part(7, 1, [32, 32], padding=[4, 6], fill=(10, 200, 90)))
case("odd", part(2, 9, [40, 30], padding=[1, 2, 8, 4]))
case("odd", part(3, 11, [50, 40], pad_if_needed=True, fill=(1, 2, 3)))
case("odd", part(0, 5, [60, 40], padding=3, pad_if_needed=True, fill=(255, 0, 7)))
for padding_mode in ("edge", "reflect", "symmetric"):
    case("odd", part(1, 2, [60, 44], padding=13, padding_mode=padding_mode))
    case("odd", part(10, 4, [70, 60], padding=5, pad_if_needed=True, padding_mode=padding_mode))
for degrees in (-30.0, 0.0, 2.0, 45.0, 90.0, 137.3, 180.0, 270.0, 359.0):
    case("odd", dict(op="rotate", degrees=degrees, fill=[9, 8, 7]))
for degrees in (90.0, 180.0, 270.0, -13.5):
    case("square", dict(op="rotate", degrees=degrees, fill=[0, 0, 0]))
case(
    "wide",
    crop(4, 30, 40, 44, [32, 32]),
    dict(op="apply", ops=[jitter(["hue", "brightness", "saturation", "contrast"], brightness=1.2, contrast=0.8, saturation=1.1, hue=0.05)]),
    dict(op="grayscale"),
    dict(op="blur", sigma=0.9),
    dict(op="flip"),
)

report = {
    "versions": {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    },
    "inputs": {name: put(a) for name, a in inputs.items()},
    "cases": cases,
}
(HERE / "pixels.bin").write_bytes(pixels)
(HERE / "cases.json").write_text(json.dumps(report, indent=1) + "\n")
print(len(cases), "cases,", len(pixels), "bytes")
