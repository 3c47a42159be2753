"""The pictures of the docs are those that the version at hand draws: `make pictures`."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

import chunkgrpo as cg

pytest.importorskip("matplotlib")

IMAGES = ROOT / "examples" / "images"
AGAIN = "run `make pictures`, look at examples/images/plan.svg, and commit it"


def test_the_plans_picture_is_drawn_from_the_version_at_hand(tmp_path):
    """Its model is trained anew, and BLAS is not the same on every machine: the curve is, but for some per cent."""
    subprocess.run(
        [sys.executable, ROOT / "scripts" / "pictures", "--output", tmp_path], check=True, capture_output=True
    )
    kept, drawn = (json.loads((folder / "plan.json").read_text()) for folder in (IMAGES, tmp_path))
    assert kept["version"] == cg.__version__, AGAIN
    assert kept["sizes"] == drawn["sizes"], AGAIN
    np.testing.assert_allclose(kept["relative_l1"], drawn["relative_l1"], rtol=0.05, err_msg=AGAIN)
    assert (IMAGES / "plan.svg").read_bytes()[:200] == (tmp_path / "plan.svg").read_bytes()[:200]
    assert kept["sizes"] == cg.ChunkPlan.optimal([kept["relative_l1"]], 4, min_size=2).plan.sizes.tolist()
