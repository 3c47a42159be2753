"""Pictures for the examples with pipelines, by Pillow alone; the others use chunkgrpo.plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, GREY, BLUE, SKY = (38, 42, 50), (196, 200, 206), (36, 92, 200), (160, 190, 240)


def tiled(images: Sequence[Image.Image], columns: int = 8) -> Image.Image:
    """One picture of several of PIL, of one size."""
    width, height = images[0].size
    columns = min(columns, len(images))
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet


def curve_png(path: Path, title: str, values: Sequence[float], window: int = 9) -> None:
    """values[i] of iteration i + 1, and their moving mean."""
    image = Image.new("RGB", (720, 400), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    left, right, top, bottom = 70, 696, 44, 352
    low, high = min(values), max(values)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low) + 1e-9

    def point(i: float, value: float) -> tuple[float, float]:
        x = left + (right - left) * i / max(1, len(values) - 1)
        return x, bottom - (bottom - top) * (value - low) / (high - low)

    draw.text((left, 12), title, INK, font)
    digits = max(2, 1 - int(np.floor(np.log10((high - low) / 5))))
    for tick in np.linspace(low, high, 6):
        y = point(0, tick)[1]
        draw.line([(left, y), (right, y)], GREY)
        draw.text((left - 8, y), f"{tick:.{digits}f}", INK, font, anchor="rm")
    for i in sorted({round(share * (len(values) - 1)) for share in np.linspace(0, 1, 6)}):
        draw.text((point(i, low)[0], bottom + 8), str(i + 1), INK, font, anchor="ma")
    draw.text((right, bottom + 26), "iteration", INK, font, anchor="ra")
    reach = window // 2
    smooth = [float(np.mean(values[max(0, i - reach) : i + reach + 1])) for i in range(len(values))]
    for line, colour, thickness in ((values, SKY, 2), (smooth, BLUE, 3)):
        draw.line([point(i, value) for i, value in enumerate(line)], colour, thickness, joint="curve")
    image.save(path)
