"""Golden pictures for npid's decoding: encoded files and what PIL makes of them.

    python golden/decode/make.py        writes the files, cases.json and pixels.bin beside this file

The expected pixels (uint8, H x W x 3, in pixels.bin) are PIL's convert("RGB") with the EXIF
orientation applied; 16-bit grey is scaled (v >> 8), where PIL would clip.
"""
import json
import pathlib
import sys

import numpy as np
import PIL
from PIL import Image, ImageOps, features

HERE = pathlib.Path(__file__).parent
rng = np.random.default_rng(77)
H, W = 29, 41
y, x = np.mgrid[0:H, 0:W].astype(np.float64)
base = np.stack(
    [
        127 + 110 * np.sin(x / 5 + y / 9),
        127 + 110 * np.cos(x / 8 - y / 6),
        255 * ((x // 9 + y // 7) % 2),
    ],
    -1,
)
rgb = np.clip(base + rng.normal(0, 6, base.shape), 0, 255).astype(np.uint8)
image = Image.fromarray(rgb)
pixels = bytearray()
cases = []


def case(name, picture, expected=None, **options):
    path = HERE / name
    picture.save(path, **options)
    if expected is None:
        expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    at = len(pixels)
    pixels.extend(np.ascontiguousarray(expected, dtype=np.uint8).tobytes())
    cases.append({"file": name, "offset": at, "height": expected.shape[0], "width": expected.shape[1]})


def oriented(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


case("444.jpg", image, quality=92, subsampling=0)
case("422.jpg", image, quality=92, subsampling=1)
case("420.jpg", image, quality=92, subsampling=2)
case("progressive.jpg", image, quality=90, subsampling=2, progressive=True)
case("progressive-444.jpg", image, quality=90, subsampling=0, progressive=True)
case("restarts.jpg", image, quality=90, subsampling=0, restart_marker_blocks=3)
case("optimized.jpg", image, quality=60, subsampling=2, optimize=True)
case("grey.jpg", image.convert("L"), quality=92)
case("cmyk.jpg", image.convert("CMYK"), quality=95)
case("turned-6.jpg", image, quality=92, subsampling=0, exif=oriented(6))
case("mirrored-5.jpg", image, quality=92, subsampling=0, exif=oriented(5))
alpha = Image.fromarray(np.clip(3 * x + 4 * y, 0, 255).astype(np.uint8))
rgba = image.copy()
rgba.putalpha(alpha)
grey_alpha = image.convert("L")
grey_alpha.putalpha(alpha)
case("rgb.png", image)
case("rgba.png", rgba)
case("grey.png", image.convert("L"))
case("grey-alpha.png", grey_alpha)
case("palette.png", image.quantize(200))
case("palette-4bit.png", image.quantize(13), bits=4)
case("palette-transparent.png", image.quantize(100), transparency=7)
case("one-bit.png", image.convert("1"))
case("rgb-transparent.png", image, transparency=tuple(int(v) for v in rgb[3, 4]))
case("turned-8.png", image, exif=oriented(8))
deep = (rng.integers(0, 65536, (H, W))).astype(np.uint16)
case("grey-16bit.png", Image.fromarray(deep), np.repeat((deep >> 8)[..., None], 3, -1))

report = {
    "versions": {
        "pillow": PIL.__version__,
        "libjpeg_turbo": features.version("libjpeg_turbo"),
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    },
    "cases": cases,
}
(HERE / "pixels.bin").write_bytes(pixels)
(HERE / "cases.json").write_text(json.dumps(report, indent=1) + "\n")
print(len(cases), "cases,", len(pixels), "bytes")
