"""examples/python/torch_digits.py: a short run of the whole, and its resumption."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from conftest import ROOT

for package in ("torch", "sklearn", "tensorboard", "tqdm", "PIL", "matplotlib"):
    pytest.importorskip(package)
sys.path.insert(0, str(ROOT / "examples" / "python"))

import torch_digits  # noqa: E402


def test_a_short_run_raises_the_reward_and_goes_on_from_its_checkpoint(tmp_path):
    arguments = ["--width", "32", "--pretrain-steps", "150", "--iterations", "5", "--output", str(tmp_path)]
    result = torch_digits.main(arguments)
    rewards = result["rewards"]
    assert len(rewards) == 5
    assert np.mean(rewards[-2:]) > np.mean(rewards[:2])
    for name in ("samples.png", "reward.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.glob("events.out.tfevents.*"))

    resumed = torch_digits.main([*arguments, "--resume", "--iterations", "6"])
    assert resumed["rewards"][:5] == rewards and len(resumed["rewards"]) == 6
    assert resumed["before"] == result["before"]
