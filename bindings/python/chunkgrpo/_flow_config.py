"""Which configurations of diffusers' schedulers are those of a flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import InvalidArgument


def check_flow_matching(config: Mapping[str, Any], known: set[str]) -> None:
    """That a configuration is one of a model that returns the velocity of a rectified flow."""
    kind = config.get("_class_name", "config")
    prediction = config.get("prediction_type", "flow_prediction")
    if prediction != "flow_prediction":
        raise InvalidArgument(
            f"{kind} has prediction_type {prediction!r}; only the velocity of a flow (flow_prediction) can be sampled"
        )
    if not config.get("use_flow_sigmas", True):
        raise InvalidArgument(f"{kind} has use_flow_sigmas false: its sigmas are not those of a flow")
    foreign = [name for name in config if name not in known and not name.startswith("_")]
    if foreign and "use_flow_sigmas" not in config and "shift" not in config:
        raise InvalidArgument(
            f"{kind} has {foreign[0]!r} and no 'shift': it is not the configuration of a flow-matching scheduler"
        )
