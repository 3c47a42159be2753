"""Tokens in chunks: the same objective over the tokens of a language model, in numpy alone.

A step is a token, and a mask says which tokens a sample has. Chunks of one token are GRPO, one chunk of everything is
GSPO, and between the two lie chunks of a few tokens, or of words. The language model here is a table of the next
letter's logits; it learns to write abcabc... Put your own log-probabilities where `log_probs` is, and give
`out.grad_log_probs` to its backward pass.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Callable, Union

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[2] / "bindings/python"))  # where chunkgrpo is not installed

import chunkgrpo as cg

Array = NDArray[Any]
Clip = Union[float, tuple[float, float]]
LETTERS, END = "abcd", 4  # tokens 0 ... 3, and the end of a text
LENGTH, GROUP, PROMPTS = 12, 16, 4  # a prompt is the letter that a text begins with


def grpo(new: Array, old: Array, advantages: Array, mask: Array, *, clip: Clip = 0.2, **options: Any) -> cg.ChunkLoss[Any]:
    """TRL's loss_type="grpo": a ratio for each token; the mean of each text, then of the texts."""
    plan = cg.ChunkPlan.fixed(np.shape(new)[1], 1)
    return cg.chunk_loss(new, old, advantages, plan, mask=mask, clip=clip, average="sample", kl_level="step", **options)


def gspo(new: Array, old: Array, advantages: Array, mask: Array, *, clip: Clip = (3e-4, 4e-4), **options: Any) -> cg.ChunkLoss[Any]:
    """TRL's importance_sampling_level="sequence": one ratio a text (arXiv 2507.18071)."""
    plan = cg.ChunkPlan([np.shape(new)[1]])
    return cg.chunk_loss(new, old, advantages, plan, mask=mask, clip=clip, average="sample", kl_level="step", **options)


def chunked(new: Array, old: Array, advantages: Array, mask: Array, *, size: int = 3, clip: Clip = 0.05, **options: Any) -> cg.ChunkLoss[Any]:
    """A ratio for each `size` tokens."""
    plan = cg.ChunkPlan.fixed(np.shape(new)[1], size)
    return cg.chunk_loss(new, old, advantages, plan, mask=mask, clip=clip, average="sample", kl_level="step", **options)


def probabilities(logits: Array) -> Array:
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def write(logits: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Texts (B, LENGTH + 1) from their first letter on, and which of their tokens (B, LENGTH) were written."""
    texts = np.full((PROMPTS * GROUP, LENGTH + 1), END)
    texts[:, 0] = np.repeat(np.arange(PROMPTS), GROUP)
    mask = np.zeros((len(texts), LENGTH), bool)
    for t in range(LENGTH):
        mask[:, t] = texts[:, t] != END
        threshold = rng.random((len(texts), 1))
        drawn = (probabilities(logits)[texts[:, t] % END].cumsum(axis=1) < threshold).sum(axis=1).clip(0, END)
        texts[mask[:, t], t + 1] = drawn[mask[:, t]]
    return texts, mask


def log_probs(logits: Array, texts: Array) -> Array:
    return np.log(probabilities(logits))[texts[:, :-1] % END, texts[:, 1:]]


def reward(texts: Array) -> Array:
    """How many letters follow the one before them in abcabc...; d and the end of a text follow none."""
    before, after = texts[:, :-1], texts[:, 1:]
    return ((before < 3) & (after == (before + 1) % 3)).sum(axis=1) / LENGTH


def train(loss: Callable[..., cg.ChunkLoss[Any]], iterations: int = 60, learning_rate: float = 40.0) -> tuple[list[float], str]:
    logits, rng = np.zeros((len(LETTERS), END + 1)), np.random.default_rng(0)
    rewards: list[float] = []
    for _ in range(iterations):
        texts, mask = write(logits, rng)
        old = log_probs(logits, texts)
        rewards.append(float(reward(texts).mean()))
        adv = cg.advantages(reward(texts), group_size=GROUP)
        for _ in range(2):
            out = loss(log_probs(logits, texts), old, adv, mask)
            # The backward pass of this model: d log p(next)/d logits = one-hot - p.
            grad = np.zeros_like(logits)
            rows, g = texts[:, :-1] % END, out.grad_log_probs
            np.add.at(grad, (rows, texts[:, 1:]), g)
            np.add.at(grad, rows, -g[..., None] * probabilities(logits)[rows])
            logits -= learning_rate * grad
    texts, _ = write(logits, rng)
    return rewards, "".join((LETTERS + ".")[token] for token in texts[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=60, help="of each of the three")
    given = parser.parse_args()
    for name, loss in (("GRPO, a ratio a token", grpo), ("chunks of 3 tokens", chunked), ("GSPO, a ratio a text", gspo)):
        rewards, text = train(loss, given.iterations)
        print(f"{name:22}   reward {rewards[0]:.2f} -> {rewards[-1]:.2f}   {text}")
