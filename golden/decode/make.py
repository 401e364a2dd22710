"""Golden pictures for npid's decoding: encoded files and what PIL makes of them.

    python golden/decode/make.py        writes the files, cases.json and pixels.bin beside this file

The expected pixels (uint8, H x W x 3, in pixels.bin) are PIL's convert("RGB") with the EXIF
orientation applied; 16-bit grey is scaled (v >> 8), where PIL would clip.
"""
import io
import json
import pathlib
import struct
import sys
import zlib

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
    """picture: an Image to be saved with these options, or the bytes of a file."""
    path = HERE / name
    if isinstance(picture, bytes):
        path.write_bytes(picture)
    else:
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

# 16 bits of colour and of grey with alpha, which PIL reads but doesn't write.
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(colour_type, samples, interlace=0):
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", W, H, 16, colour_type, 0, 0, interlace)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


deep_rgb = rng.integers(0, 65536, (H, W, 3)).astype(np.uint16)
case("rgb-16bit.png", png(2, deep_rgb), deep_rgb >> 8)
deep_rgba = rng.integers(0, 65536, (H, W, 4)).astype(np.uint16)
case("rgba-16bit.png", png(6, deep_rgba), deep_rgba[..., :3] >> 8)
deep_la = rng.integers(0, 65536, (H, W, 2)).astype(np.uint16)
case("grey-alpha-16bit.png", png(4, deep_la), np.repeat(deep_la[..., :1] >> 8, 3, -1))

# YCCK: PIL's CMYK file with the transform of its Adobe segment set to 2, so that the same samples
# mean YCCK.
cmyk = (HERE / "cmyk.jpg").read_bytes()
at = cmyk.index(b"Adobe") + 11
case("ycck.jpg", cmyk[:at] + b"\2" + cmyk[at + 1 :])

case("lossless.webp", image, lossless=True)
case("lossless-alpha.webp", rgba, lossless=True, exact=True)
case("lossy.webp", image, quality=90)
case("lossy-low.webp", image, quality=20)
case("lossy-alpha.webp", rgba, quality=80, exact=True)
case("turned-6.webp", image, lossless=True, exif=oriented(6))
case("animated.webp", image, lossless=True, save_all=True, append_images=[image.rotate(180)])

case("rgb.bmp", image)
case("grey.bmp", image.convert("L"))
case("palette.bmp", image.quantize(200))
case("one-bit.bmp", image.convert("1"))
case("rgba.bmp", rgba)


def bmp(bits, rows, palette=b"", compression=0, extra=b"", height=H, colours=0):
    """rows: the bytes of the rows as stored."""
    data = rows if isinstance(rows, bytes) else b"".join(r + b"\0" * (-len(r) % 4) for r in rows)
    info = struct.pack(
        "<IiiHHIIiiII", 40, W, height, 1, bits, compression, len(data), 0, 0, colours, 0
    )
    offset = 14 + len(info) + len(extra) + len(palette)
    head = struct.pack("<2sIHHI", b"BM", offset + len(data), 0, 0, offset)
    return head + info + extra + palette + data


few = np.asarray(image.quantize(16))
colours = np.asarray(image.quantize(16).getpalette()[: 3 * 16], np.uint8).reshape(-1, 3)
bgr0 = b"".join(bytes(c[::-1]) + b"\0" for c in colours)
nibbles = [np.append(r, np.zeros(W % 2, np.uint8)).reshape(-1, 2) for r in few]
packed = [bytes(r[:, 0] << 4 | r[:, 1]) for r in nibbles]
case("palette-4bit.bmp", bmp(4, packed[::-1], bgr0))
case("top-down.bmp", bmp(24, [bytes(r[:, ::-1].copy()) for r in rgb], height=-H))
wide = rgb.astype(np.uint16)
p555 = wide[..., 0] >> 3 << 10 | wide[..., 1] >> 3 << 5 | wide[..., 2] >> 3
p565 = wide[..., 0] >> 3 << 11 | wide[..., 1] >> 2 << 5 | wide[..., 2] >> 3
case("555.bmp", bmp(16, [r.tobytes() for r in p555[::-1]]))
masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
case("565.bmp", bmp(16, [r.tobytes() for r in p565[::-1]], compression=3, extra=masks))
quads = np.dstack([rgb[..., ::-1], alpha])
case("32bit.bmp", bmp(32, [bytes(r.copy()) for r in quads[::-1]]))


def runs(row, four):
    """RLE8 or RLE4 of a row, with runs and plain stretches in turn."""
    out, x = b"", 0
    while x < len(row):
        n = 1
        while x + n < len(row) and row[x + n] == row[x] and n < 255:
            n += 1
        plain = row[x : x + 5]
        if n == 1 and len(plain) >= 3:
            n = len(plain)
            if four:
                pairs = np.append(plain, np.zeros(n % 2, np.uint8)).reshape(-1, 2)
                data = bytes(pairs[:, 0] << 4 | pairs[:, 1])
            else:
                data = bytes(plain)
            out += bytes([0, n]) + data + b"\0" * (len(data) % 2)
        else:
            out += bytes([n, row[x] << 4 | row[x] if four else row[x]])
        x += n
    return out + b"\0\0"


many = image.quantize(90)
many_bgr0 = b"".join(
    bytes(c[::-1]) + b"\0" for c in np.asarray(many.getpalette()[: 3 * 90], np.uint8).reshape(-1, 3)
)
rle8 = b"".join(runs(r, False) for r in np.asarray(many)[::-1]) + b"\0\1"
case("rle8.bmp", bmp(8, rle8, many_bgr0, compression=1, colours=90))
rle4 = b"".join(runs(r, True) for r in few[::-1]) + b"\0\1"
case("rle4.bmp", bmp(4, rle4, bgr0, compression=2))

case("palette.gif", image.quantize(200))
case("few.gif", image.quantize(5))
case("grey.gif", image.convert("L"))
case("interlaced.gif", image.quantize(60), interlace=1)
case("transparent.gif", image.quantize(100), transparency=7)
case("animated.gif", image.quantize(50), save_all=True, append_images=[image.rotate(180).quantize(50)])
# A frame that covers a part of its canvas.
buffer = io.BytesIO()
image.quantize(40).save(buffer, "GIF", interlace=0)
part = bytearray(buffer.getvalue())
part[6:10] = struct.pack("<HH", W + 6, H + 4)
frame = part.index(b"\x2c\0\0\0\0" + struct.pack("<HH", W, H))
part[frame + 1 : frame + 5] = struct.pack("<HH", 3, 2)
case("part.gif", bytes(part))

for compression in ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"]:
    case(f"rgb-{compression.removeprefix('tiff_')}.tif", image, compression=compression)
case("jpeg.tif", image, compression="jpeg", quality=95)
case("grey.tif", image.convert("L"))
case("grey-alpha.tif", grey_alpha)
case("palette.tif", image.quantize(200))
case("one-bit.tif", image.convert("1"))
case("group4.tif", image.convert("1"), compression="group4")
case("white-is-zero.tif", image.convert("L"), tiffinfo={262: 0})
case("rgba.tif", rgba, compression="tiff_lzw")
case("rgba-associated.tif", rgba, tiffinfo={338: 1})
case("cmyk.tif", image.convert("CMYK"), compression="tiff_lzw")
case("ycbcr.tif", image.convert("YCbCr"), tiffinfo={530: (1, 1)})
case("turned-6.tif", image, tiffinfo={0x0112: 6})
case("grey-16bit.tif", Image.fromarray(deep), np.repeat((deep >> 8)[..., None], 3, -1))
case(
    "grey-16bit-big-endian.tif",
    Image.fromarray(deep.astype(">u2")),
    np.repeat((deep >> 8)[..., None], 3, -1),
)

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
