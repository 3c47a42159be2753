"""Two readers of small pictures of text. Both take pictures (B, H, W) uint8, dark on light.

`Recogniser` is PP-OCRv4 (PaddleOCR, Apache-2.0) as it lies in the package rapidocr-onnxruntime, recognition only; it
also says how probable a given text is, which makes a smooth reward. `tesseract` is the program of Debian's package
tesseract-ocr: slower to fool for being different, it is the judge.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
HEIGHT = 48  # what the recogniser was trained on


class Recogniser:
    def __init__(self) -> None:
        import onnxruntime

        # Found, and not imported: the package itself would load its detector, and OpenCV.
        found = find_spec("rapidocr_onnxruntime")
        if found is None or not found.submodule_search_locations:
            raise ModuleNotFoundError("The recogniser needs rapidocr: pip install rapidocr-onnxruntime")
        package = Path(found.submodule_search_locations[0])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))  # 0 = one per core
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session: Any = onnxruntime.InferenceSession(
            package / "models/ch_PP-OCRv4_rec_infer.onnx", options, providers=["CPUExecutionProvider"]
        )
        characters = self.session.get_modelmeta().custom_metadata_map["character"].splitlines()
        self.characters = ["", *characters, " "]  # class 0 is CTC's blank
        self.index = {character: i for i, character in enumerate(self.characters)}

    def __call__(self, pictures: Array, texts: Sequence[str], batch: int = 32) -> tuple[list[str], Array]:
        """The text read in each picture, and the log-probability (B,) that it gives to texts[i], all of one length."""
        probabilities = np.concatenate(
            [self.frames(pictures[first : first + batch]) for first in range(0, len(pictures), batch)]
        )
        labels = np.array([[self.index[character] for character in text] for text in texts])
        return [self.decode(best) for best in probabilities.argmax(2)], ctc_log_prob(probabilities, labels)

    def frames(self, pictures: Array) -> Array:
        """(B, frames, classes): the probability of each character, 8 columns of the enlarged picture a frame."""
        width = round(pictures.shape[2] * HEIGHT / pictures.shape[1])
        large = np.stack([enlarged(picture, (width, HEIGHT)) for picture in pictures])
        x = np.repeat(large[:, None].astype(np.float32) / 127.5 - 1, 3, axis=1)
        return self.session.run(None, {self.session.get_inputs()[0].name: x})[0]

    def decode(self, best: Array) -> str:
        """The text of the most probable class of each frame: repetitions, then blanks, are left out."""
        kept = best[np.diff(best, prepend=-1) != 0]
        return "".join(self.characters[i] for i in kept)


def ctc_log_prob(probabilities: Array, labels: Array) -> Array:
    """log p(labels | frames), the forward algorithm of Graves et al. 2006: (B,) from (B, T, classes) and (B, L)."""
    batch, frames, _ = probabilities.shape
    states = np.zeros((batch, 2 * labels.shape[1] + 1), int)  # the labels with a blank on either side
    states[:, 1::2] = labels
    emission = np.log(np.take_along_axis(probabilities, states[:, None].repeat(frames, 1), 2).astype(np.float64) + 1e-12)
    jump = np.zeros(states.shape, bool)  # over the blank, between two labels that differ
    jump[:, 3::2] = labels[:, 1:] != labels[:, :-1]

    def moved(alpha: Array, by: int) -> Array:
        return np.pad(alpha, ((0, 0), (by, 0)), constant_values=-np.inf)[:, : alpha.shape[1]]

    alpha = np.where(np.arange(states.shape[1]) < 2, emission[:, 0], -np.inf)
    for frame in range(1, frames):
        stay_or_next = np.logaddexp(alpha, moved(alpha, 1))
        alpha = np.logaddexp(stay_or_next, np.where(jump, moved(alpha, 2), -np.inf)) + emission[:, frame]
    return np.logaddexp(alpha[:, -1], alpha[:, -2])


def has_tesseract() -> bool:
    return shutil.which("tesseract") is not None


def tesseract(pictures: Array, alphabet: str, scale: int = 4, margin: int = 16) -> list[str]:
    """Tesseract's reading of each picture, as one line of characters of the alphabet: four times as large, on paper."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for i, picture in enumerate(pictures):
            large = enlarged(picture, (scale * picture.shape[1], scale * picture.shape[0]))
            files.append(f"{folder}/{i}.png")
            paper = np.pad(large, margin, constant_values=255)
            Image.fromarray(paper).save(files[-1], dpi=(300, 300))
        Path(folder, "list.txt").write_text("\n".join(files) + "\n")
        command = ["tesseract", f"{folder}/list.txt", "-", "--psm", "7", "-c", "page_separator=\f"]
        command += ["-c", f"tessedit_char_whitelist={alphabet}"]
        pages = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_THREAD_LIMIT": "1"}
        ).stdout.split("\f")
    return ["".join(page.split()) for page in pages[: len(pictures)]]


def enlarged(picture: Array, size: tuple[int, int]) -> Array:
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
