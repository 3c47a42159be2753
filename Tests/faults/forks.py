"""multiprocessing's "fork": children that train with two threads while the parent has only imported the package.

    python forks.py [CHILDREN]
"""

import multiprocessing
import sys

import numpy as np

import chunkgrpo
from chunkgrpo.training import Trainer

WAIT = 10


def train():
    trainer = Trainer(latent_size=8, condition_size=2, width=24, blocks=1, embedding_size=8, steps=5,
                      chunk_fraction=1, threads=2)
    trainer.iterate(np.eye(2, dtype=np.float32), lambda images, prompts: images[:, 0])


def outcome(context):
    child = context.Process(target=train)
    child.start()
    child.join(WAIT)
    if child.exitcode is None:
        child.kill()
        child.join()
        return "hung"
    return "" if child.exitcode == 0 else f"exit {child.exitcode}"


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    context = multiprocessing.get_context("fork")
    outcomes = [outcome(context) for _ in range(count)]
    hung, other = outcomes.count("hung"), sum(bool(o) for o in outcomes if o != "hung")
    print(f"forks of Python ({chunkgrpo.__version__}): {count} children: {hung} hung, {other} went wrong")
    sys.exit(hung + other > 0)


if __name__ == "__main__":
    main()
