"""PNG files for the examples, drawn by Pillow alone: samples before and after, and a reward curve."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, GREY, BLUE, SKY, RED = (38, 42, 50), (196, 200, 206), (36, 92, 200), (160, 190, 240), (204, 52, 44)


def samples_png(path, panels, columns, captions, scale=2):
    """One panel beside the other; in each a grid of pictures with its caption below.

    panels    (title, pictures (B, H, W) uint8, wrong (B,) bool: drawn in red) each
    captions  (B,) texts, the same for all panels
    """
    height, width = panels[0][1].shape[1:]
    cell = (width * scale + 12, height * scale + 22)
    rows = -(-len(captions) // columns)
    panel_width, top = columns * cell[0], 34
    image = Image.new("RGB", (len(panels) * (panel_width + 24) + 24, top + rows * cell[1] + 34), "white")
    draw, font, small = ImageDraw.Draw(image), ImageFont.load_default(15), ImageFont.load_default(11)
    for number, (title, pictures, wrong) in enumerate(panels):
        left = 24 + number * (panel_width + 24)
        draw.text((left, 8), title, INK, font)
        for i, (picture, caption) in enumerate(zip(pictures, captions)):
            x, y = left + i % columns * cell[0], top + i // columns * cell[1]
            share = np.asarray(picture, np.float32)[..., None] / 255  # of paper
            colour = np.array(RED if wrong[i] else INK)
            tinted = Image.fromarray((255 * share + colour * (1 - share)).astype(np.uint8))
            image.paste(tinted.resize((width * scale, height * scale), Image.Resampling.NEAREST), (x, y))
            draw.text((x + width * scale / 2, y + height * scale + 1), caption, BLUE, small, anchor="ma")
    draw.text((24, image.height - 24), "blue: asked for", BLUE, font)
    draw.text((160, image.height - 24), "red: the judge reads something else", RED, font)
    image.save(path)


def tiled(images, columns=8):
    """One picture of several of PIL, of one size."""
    width, height = images[0].size
    columns = min(columns, len(images))
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet


def curve_png(path, title, values, window=9):
    """values[i] of iteration i + 1, and their moving mean."""
    image = Image.new("RGB", (720, 400), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    left, right, top, bottom = 70, 696, 44, 352
    low, high = min(values), max(values)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low) + 1e-9

    def point(i, value):
        x = left + (right - left) * i / max(1, len(values) - 1)
        return x, bottom - (bottom - top) * (value - low) / (high - low)

    draw.text((left, 12), title, INK, font)
    for tick in np.linspace(low, high, 6):
        y = point(0, tick)[1]
        draw.line([(left, y), (right, y)], GREY)
        draw.text((left - 8, y), f"{tick:.2f}", INK, font, anchor="rm")
    for i in sorted({round(share * (len(values) - 1)) for share in np.linspace(0, 1, 6)}):
        draw.text((point(i, low)[0], bottom + 8), str(i + 1), INK, font, anchor="ma")
    draw.text((right, bottom + 26), "iteration", INK, font, anchor="ra")
    reach = window // 2
    smooth = [np.mean(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))]
    for line, colour, thickness in ((values, SKY, 2), (smooth, BLUE, 3)):
        draw.line([point(i, value) for i, value in enumerate(line)], colour, thickness, joint="curve")
    image.save(path)
