"""The process that makes pictures smaller: `python -m homeserver.media.shrinking PIXELS`.

Owns the reading of pictures that strangers have made. Each line of its input is a JSON object
(`path`, `width`, `height`, `crop`, `animated`); each answer is a line of JSON, `type` and `size` of
the bytes that follow it, or `same` for a picture that is small already, or `error`. Invariant: what
it can be made to do is bounded in memory, in the bytes it writes and in pixels; whoever starts it
bounds its time. It has no secrets and asks nobody.
"""

import json
import sys
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from homeserver.media.confined import confine

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF")
MEMORY = 1_536 * 1_048_576
FRAMES = 200
QUALITY = 82


def shrink(order: dict[str, Any], pixels: int) -> tuple[dict[str, Any], bytes]:
    """The answer to one order; raises what the picture makes the library raise."""
    box = order["width"], order["height"]
    with Image.open(Path(order["path"]), formats=FORMATS) as picture:
        if picture.width * picture.height > pixels:
            return {"error": "the picture has too many pixels"}, b""
        moves = bool(order["animated"]) and getattr(picture, "n_frames", 1) > 1
        if (
            picture.width <= box[0]
            and picture.height <= box[1]
            and (moves or getattr(picture, "n_frames", 1) == 1)
        ):
            picture.load()
            if picture.format != "AVIF" and picture.getexif().get(0x0112, 1) == 1:
                return {"same": True}, b""
        data = BytesIO()
        if moves:
            kind = _animation(picture, box, bool(order["crop"]), pixels, data)
        else:
            kind = _still(picture, box, bool(order["crop"]), data)
    return {"type": kind, "size": data.tell()}, data.getvalue()


def _still(picture: Image.Image, box: tuple[int, int], crop: bool, out: BytesIO) -> str:
    picture.draft("RGB", (2 * box[0], 2 * box[1]))
    upright = ImageOps.exif_transpose(picture)
    small = _fitted(_plain(upright), box, crop)
    if small.mode == "RGBA":
        small.save(out, "PNG")
        return "image/png"
    small.save(out, "JPEG", quality=QUALITY)
    return "image/jpeg"


def _animation(picture: Any, box: tuple[int, int], crop: bool, pixels: int, out: BytesIO) -> str:
    frames: list[Image.Image] = []
    durations: list[int] = []
    most = min(FRAMES, picture.n_frames, max(1, 10 * pixels // (picture.width * picture.height)))
    for number in range(most):
        picture.seek(number)
        durations.append(int(picture.info.get("duration", 100)) or 100)
        frames.append(_fitted(picture.convert("RGBA"), box, crop))
    frames[0].save(
        out,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=int(picture.info.get("loop", 0)),
        quality=QUALITY,
    )
    return "image/webp"


def _plain(picture: Image.Image) -> Image.Image:
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        return picture.convert("RGBA")
    return picture.convert("RGB")


def _fitted(picture: Image.Image, box: tuple[int, int], crop: bool) -> Image.Image:
    """The picture within the box, or filling it where it is large enough for that."""
    if crop:
        size = min(box[0], picture.width), min(box[1], picture.height)
        return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    picture = picture.copy() if picture.readonly else picture
    picture.thumbnail(box, Image.Resampling.LANCZOS)
    return picture


def main() -> None:
    """Answer until the input ends."""
    pixels = int(sys.argv[1])
    Image.MAX_IMAGE_PIXELS = pixels
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    confine(MEMORY)
    for line in sys.stdin.buffer:
        try:
            answer, data = shrink(json.loads(line), pixels)
        except Exception as error:  # whatever a picture is able to cause
            answer, data = {"error": f"{type(error).__name__}: {error}"[:500]}, b""
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + data)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
