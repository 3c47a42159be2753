"""The C ABI as ctypes sees it: find libchunkgrpo, declare its structs and functions. No logic.

`include/chunkgrpo.h` is the manual; the names here are its names without the prefix, in its order.
"""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import POINTER, c_double, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

ABI_VERSION = 1

# ----------------------------------------------------------------------------------------------------------------------
# Numbers

OK, INVALID_ARGUMENT, WRONG_TYPE, NON_FINITE, OUT_OF_MEMORY, CALLBACK_FAILED, IO_ERROR = range(7)

F32, F64, BF16, F16 = 1, 2, 3, 4
CPU = 0

SCHEDULE_BASE = {"linear": 1, "diffusers": 2}
SCHEDULE_SHIFT = {"static": 1, "exponential": 2, "linear": 3}
SCHEDULE_SPACING = {"shifted": 1, "karras": 2, "exponential": 3, "beta": 4}
DYNAMICS = {"flow_sde": 1, "dance_sde": 2, "cps": 3, "ode": 4, "dpm_sde": 5, "dpm_ode": 6, "wan_sde": 7}
WINDOW_STRATEGY = {
    **{"fixed": 1, "random": 2, "subset": 3},
    **{"progressive": 4, "linear_decay": 5, "exponential_decay": 6},
}
WINDOW_END = {"wrap": 1, "stop": 2, "stay": 3}
LOG_PROB_FORM = {"gaussian": 1, "squared_error": 2}
LAST_STEP = {"as_others": 1, "ode": 2}
WEIGHTING = {"normalised": 1, "softmax": 2}
BASELINE = {"group": 1, "leave_one_out": 2, "batch": 3}
SCALE = {"group": 1, "batch": 2, "none": 3}
DEVIATION = {"unbiased": 1, "population": 2}
MIXING = {"sum": 1, "normalised_sum": 2, "gdpo": 3}
SURROGATE = {"clipped": 1, "unclipped": 2, "log_clipped": 3, "cispo": 4, "divergence_mask": 5}
KL_ESTIMATOR = {"k1": 1, "k2": 2, "k3": 3}
KL_LEVEL = {"chunk": 1, "step": 2}
AVERAGE = {"chunk": 1, "sample": 2, "step": 3}
DIVERGENCE = {"gaussian": 1, "gaussian_per_time": 2, "mean": 3, "velocity": 4}
WEIGHTS = {"trained": 1, "averaged": 2}

INITIAL_NOISE = -1


# ----------------------------------------------------------------------------------------------------------------------
# Structs


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("ndim", c_int32),
        ("type", c_int32),
        ("device", c_int32),
        ("reserved", c_int32),
    ]


class ScheduleOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("base", c_int32),
        ("shift_kind", c_int32),
        ("shift", c_double),
        ("mu", c_double),
        ("terminal", c_double),
        ("spacing", c_int32),
        ("reserved", c_int32),
    ]


class SamplerOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("dynamics", c_int32),
        ("log_prob_form", c_int32),
        ("eta", c_double),
        ("last_step", c_int32),
        ("threads", c_int32),
        ("etas", c_void_p),
        ("window", c_void_p),
        ("window_count", c_int64),
        ("outside", c_int32),
        ("after", c_int32),
        ("dpm_order", c_int32),
        ("reserved", c_int32),
    ]


class Noise(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("given", POINTER(Tensor)),
        ("seed", c_uint64),
        ("sample_ids", c_void_p),
    ]


class StepExtras(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("unconditional", POINTER(Tensor)),
        ("guidance", c_double),
        ("previous_image", POINTER(Tensor)),
    ]


class WindowOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("size", c_int64),
        ("first", c_int64),
        ("end", c_int64),
        ("stride", c_int64),
        ("strategy", c_int32),
        ("at_end", c_int32),
        ("iterations", c_int64),
        ("least", c_int64),
        ("threshold", c_int64),
        ("decay", c_double),
        ("seed", c_uint64),
    ]


class Trajectory(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("latents", Tensor),
        ("log_probs", c_void_p),
        ("relative_l1", c_void_p),
        ("position", c_int64),
        ("previous_image", POINTER(Tensor)),
    ]


class AdaptiveOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("max_size", c_int64), ("min_size", c_int64)]


class OptimalOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("chunk_count", c_int64),
        ("explained", c_double),
        ("min_size", c_int64),
        ("max_size", c_int64),
    ]


class SelectOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("fraction", c_double),
        ("weights", c_void_p),
        ("weighting", c_int32),
        ("reserved", c_int32),
        ("fixed", c_void_p),
        ("fixed_count", c_int64),
        ("seed", c_uint64),
        ("sample_ids", c_void_p),
    ]


class AdvantageOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("group_size", c_int64),
        ("clamp", c_double),
        ("epsilon", c_double),
        ("floor", c_double),
        ("group_ids", c_void_p),
        ("baseline", c_int32),
        ("scale", c_int32),
        ("deviation", c_int32),
        ("subtract_median", c_int32),
        ("trim", c_double),
        ("reward_count", c_int64),
        ("reward_weights", c_void_p),
        ("mixing", c_int32),
        ("reserved", c_int32),
    ]


class ChunkLossOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("surrogate", c_int32),
        ("average", c_int32),
        ("clip_low", c_double),
        ("clip_high", c_double),
        ("ratio_cap", c_double),
        ("dual_clip", c_double),
        ("kl", c_double),
        ("kl_estimator", c_int32),
        ("kl_level", c_int32),
        ("normaliser", c_double),
        ("divergence_threshold", c_double),
        ("selection", c_void_p),
        ("mask", c_void_p),
        ("reference_log_probs", c_void_p),
        ("weights", c_void_p),
        ("ratio_bias", c_void_p),
        ("ratio_scale", c_void_p),
        ("divergence", c_void_p),
        ("grad_ratio_bias", c_void_p),
        ("weights_per_sample", c_int32),
        ("reserved", c_int32),
    ]


class ChunkStats(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("selected", c_int64),
        ("ratio_mean", c_double),
        ("ratio_std", c_double),
        ("ratio_min", c_double),
        ("ratio_max", c_double),
        ("clip_fraction_low", c_double),
        ("clip_fraction_high", c_double),
        ("approximate_kl", c_double),
        ("effective_sample_size", c_double),
    ]


class Recipe(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("steps", c_int64),
        ("schedule", ScheduleOptions),
        ("flash_ratio", c_double),
        ("sampler", SamplerOptions),
        ("has_window", c_int32),
        ("truncated_timesteps", c_int32),
        ("window", WindowOptions),
        ("group_size", c_int64),
        ("share_noise", c_int32),
        ("reserved", c_int32),
        ("advantages", AdvantageOptions),
        ("chunk_count", c_int64),
        ("chunk_sizes", c_int64 * 16),
        ("chunk_fraction", c_double),
        ("loss", ChunkLossOptions),
        ("learning_rate", c_double),
        ("weight_decay", c_double),
        ("max_grad_norm", c_double),
    ]


class TrainerOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("latent_size", c_int64),
        ("condition_size", c_int64),
        ("width", c_int64),
        ("blocks", c_int64),
        ("embedding_size", c_int64),
        ("steps", c_int64),
        ("shift", c_double),
        ("dynamics", c_int32),
        ("share_noise", c_int32),
        ("eta", c_double),
        ("chunk_sizes", c_void_p),
        ("chunk_count", c_int64),
        ("group_size", c_int64),
        ("chunk_fraction", c_double),
        ("weighted_selection", c_int32),
        ("threads", c_int32),
        ("advantage_clamp", c_double),
        ("clip_low", c_double),
        ("clip_high", c_double),
        ("kl", c_double),
        ("updates_per_rollout", c_int64),
        ("learning_rate", c_double),
        ("beta1", c_double),
        ("beta2", c_double),
        ("adam_epsilon", c_double),
        ("weight_decay", c_double),
        ("max_grad_norm", c_double),
        ("ema_decay", c_double),
        ("seed", c_uint64),
    ]


class PretrainOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("steps", c_int64),
        ("batch_size", c_int64),
        ("learning_rate", c_double),
        ("ema_decay", c_double),
    ]


class IterationReport(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("iteration", c_int64),
        ("reward_mean", c_double),
        ("reward_std", c_double),
        ("loss", c_double),
        ("grad_norm", c_double),
        ("stats", ChunkStats),
        ("rollout_seconds", c_double),
        ("reward_seconds", c_double),
        ("update_seconds", c_double),
    ]


# ----------------------------------------------------------------------------------------------------------------------
# Callbacks

VelocityFn = ctypes.CFUNCTYPE(c_int, c_void_p, c_int64, c_double, POINTER(Tensor), POINTER(Tensor))
ProgressFn = ctypes.CFUNCTYPE(c_int, c_void_p, c_int64, c_int64, c_double)
RewardFn = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(Tensor), POINTER(c_int64), POINTER(c_double))


# ----------------------------------------------------------------------------------------------------------------------
# Functions


class _Array:
    """An argument type: a contiguous numpy array of one dtype, or None for a null pointer."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)

    def from_param(self, array: Any) -> Any:
        if array is None:
            return None
        if array.dtype != self.dtype or not array.flags.c_contiguous:
            raise TypeError(f"internal: expected a contiguous {self.dtype} array")
        return array.ctypes  # holds the array alive during the call


_f64, _i64, _u64, _u8 = _Array(np.float64), _Array(np.int64), _Array(np.uint64), _Array(np.uint8)
_tensor = POINTER(Tensor)
_handle = c_void_p
_new_handle = POINTER(c_void_p)
_out_f64 = POINTER(c_double)
_out_i64 = POINTER(c_int64)
_status = c_int32


def _init(struct: Any) -> tuple[Any, list[Any]]:
    return None, [POINTER(struct), c_size_t]


_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    # 1. Basics
    "cgrpo_abi_version": (c_uint32, []),
    "cgrpo_version": (ctypes.c_char_p, []),
    "cgrpo_last_error": (ctypes.c_char_p, []),
    "cgrpo_status_name": (ctypes.c_char_p, [_status]),
    "cgrpo_set_thread_limit": (_status, [c_int32]),
    "cgrpo_instruction_set": (ctypes.c_char_p, []),
    # 2. Schedules
    "cgrpo_schedule_linear": (_status, [c_int64, _f64]),
    "cgrpo_schedule_shifted": (_status, [c_int64, c_double, _f64]),
    "cgrpo_schedule_options_init": _init(ScheduleOptions),
    "cgrpo_schedule_make": (_status, [c_int64, POINTER(ScheduleOptions), _f64]),
    "cgrpo_schedule_flash": (_status, [c_int64, c_double, c_int64, c_double, _f64, c_int64, _out_i64]),
    "cgrpo_timesteps": (_status, [_f64, c_int64, c_double, c_int32, _f64]),
    "cgrpo_flux_mu": (_status, [c_double, c_double, c_double, _out_f64]),
    # 3. Sampler
    "cgrpo_sampler_options_init": _init(SamplerOptions),
    "cgrpo_sampler_create": (_status, [_f64, c_int64, POINTER(SamplerOptions), _new_handle]),
    "cgrpo_sampler_destroy": (None, [_handle]),
    "cgrpo_sampler_coefficients": (_status, [_handle, c_int64, _out_f64, _out_f64, _out_f64, _out_f64]),
    "cgrpo_noise_init": _init(Noise),
    "cgrpo_normal": (_status, [c_uint64, _u64, c_int64, c_int32, _tensor]),
    "cgrpo_step": (_status, [_handle, c_int64, _tensor, _tensor, POINTER(Noise), _tensor, _f64, _f64]),
    "cgrpo_log_prob": (_status, [_handle, c_int64, _tensor, _tensor, _tensor, _f64]),
    "cgrpo_log_prob_vjp": (_status, [_handle, c_int64, _tensor, _tensor, _tensor, _f64, _tensor, _f64]),
    "cgrpo_step_extras_init": _init(StepExtras),
    "cgrpo_step_with_extras": (
        _status,
        [_handle, c_int64, _tensor, _tensor, POINTER(StepExtras), POINTER(Noise), _tensor, _f64, _f64],
    ),
    "cgrpo_log_prob_with_extras": (
        _status,
        [_handle, c_int64, _tensor, _tensor, POINTER(StepExtras), _tensor, _f64],
    ),
    "cgrpo_log_prob_vjp_with_extras": (
        _status,
        [_handle, c_int64, _tensor, _tensor, POINTER(StepExtras), _tensor, _f64, _tensor, _tensor, _f64],
    ),
    "cgrpo_predicted_image": (_status, [_handle, c_int64, _tensor, _tensor, POINTER(StepExtras), _tensor]),
    "cgrpo_window_options_init": _init(WindowOptions),
    "cgrpo_window_steps": (_status, [POINTER(WindowOptions), c_int64, _i64, c_int64, _out_i64]),
    # 4. Rollouts
    "cgrpo_trajectory_init": _init(Trajectory),
    "cgrpo_rollout": (_status, [_handle, POINTER(Trajectory), c_int64, POINTER(Noise), VelocityFn, c_void_p]),
    "cgrpo_trajectory_log_probs": (_status, [_handle, c_int64, _tensor, _tensor, _f64]),
    "cgrpo_trajectory_log_probs_vjp": (_status, [_handle, c_int64, _tensor, _tensor, _f64, _tensor]),
    "cgrpo_relative_l1": (_status, [_tensor, c_int32, _f64]),
    # 5. Chunks
    "cgrpo_plan_fixed": (_status, [c_int64, c_int64, _i64, c_int64, _out_i64]),
    "cgrpo_adaptive_options_init": _init(AdaptiveOptions),
    "cgrpo_plan_adaptive": (
        _status,
        [_f64, c_int64, c_int64, POINTER(AdaptiveOptions), _i64, c_int64, _out_i64],
    ),
    "cgrpo_optimal_options_init": _init(OptimalOptions),
    "cgrpo_plan_optimal": (
        _status,
        [_f64, c_int64, c_int64, POINTER(OptimalOptions), _i64, c_int64, _out_i64, _f64, _out_f64],
    ),
    "cgrpo_plan_describe": (_status, [_i64, c_int64, c_void_p, c_size_t, POINTER(c_size_t)]),
    "cgrpo_plan_carry": (_status, [_i64, c_int64, _f64, c_int64, _f64, c_int64, _i64]),
    "cgrpo_chunk_weights": (_status, [_f64, c_int64, c_int64, _i64, c_int64, _f64]),
    "cgrpo_select_options_init": _init(SelectOptions),
    "cgrpo_chunk_select": (_status, [c_int64, c_int64, POINTER(SelectOptions), _u8]),
    # 6. Objective
    "cgrpo_advantage_options_init": _init(AdvantageOptions),
    "cgrpo_advantages": (_status, [_f64, c_int64, POINTER(AdvantageOptions), _f64]),
    "cgrpo_history_create": (_status, [c_int64, c_int64, _new_handle]),
    "cgrpo_history_destroy": (None, [_handle]),
    "cgrpo_history_update": (_status, [_handle, _i64, _f64, c_int64, _f64]),
    "cgrpo_best_of_n": (_status, [_f64, c_int64, c_int64, _u8]),
    "cgrpo_chunk_loss_options_init": _init(ChunkLossOptions),
    "cgrpo_chunk_loss": (
        _status,
        [_f64, _f64, _f64, c_int64, c_int64, _i64, c_int64]
        + [POINTER(ChunkLossOptions), _out_f64, _f64, _f64, POINTER(ChunkStats)],
    ),
    "cgrpo_divergence_from_velocity": (
        _status,
        [_handle, c_int64, c_int32, _tensor, _tensor, _f64, _f64, _tensor],
    ),
    "cgrpo_divergence_from_sampled": (
        _status,
        [_handle, c_int64, c_int32, _tensor, _tensor, POINTER(Noise), _tensor, _f64, _f64, _tensor],
    ),
    "cgrpo_gcpo_weights": (_status, [_i64, c_int64, _f64]),
    "cgrpo_tempflow_weights": (_status, [_handle, _i64, c_int64, _f64]),
    "cgrpo_recipe_named": (_status, [ctypes.c_char_p, POINTER(Recipe)]),
    "cgrpo_recipe_describe": (_status, [ctypes.c_char_p, c_void_p, c_size_t, POINTER(c_size_t)]),
    # 7. Embedded policy and trainer
    "cgrpo_trainer_options_init": _init(TrainerOptions),
    "cgrpo_trainer_create": (_status, [POINTER(TrainerOptions), _new_handle]),
    "cgrpo_trainer_destroy": (None, [_handle]),
    "cgrpo_trainer_info": (_status, [_handle, _out_i64, _out_i64]),
    "cgrpo_pretrain_options_init": _init(PretrainOptions),
    "cgrpo_trainer_pretrain": (
        _status,
        [_handle, _tensor, _tensor, POINTER(PretrainOptions), ProgressFn, c_void_p],
    ),
    "cgrpo_trainer_iterate": (_status, [_handle, _tensor, RewardFn, c_void_p, POINTER(IterationReport)]),
    "cgrpo_trainer_sample": (_status, [_handle, _tensor, c_int32, c_double, c_uint64, _tensor]),
    "cgrpo_trainer_velocity": (_status, [_handle, c_int32, _tensor, c_double, _tensor, _tensor]),
    "cgrpo_trainer_save": (_status, [_handle, ctypes.c_char_p]),
    "cgrpo_trainer_load": (_status, [ctypes.c_char_p, _new_handle]),
}


# ----------------------------------------------------------------------------------------------------------------------
# The library

_NAME = "libchunkgrpo.dylib" if sys.platform == "darwin" else "libchunkgrpo.so"


def _candidates() -> list[Path]:
    """Where the library may be, best first. CHUNKGRPO_LIBRARY, where set, is the only place."""
    chosen = os.environ.get("CHUNKGRPO_LIBRARY")
    if chosen:
        return [Path(chosen)]
    package = Path(__file__).resolve().parent
    tree = package.parents[2]  # bindings/python/chunkgrpo -> the repository
    return [package / _NAME, tree / "build" / "lib" / _NAME]


def _load() -> ctypes.CDLL:
    tried = []
    for path in _candidates():
        if not path.is_file():
            tried.append(f"  {path}: no such file")
            continue
        try:
            return _declare(ctypes.CDLL(str(path)), path)
        except OSError as error:
            tried.append(f"  {path}: {error}")
    raise ImportError(
        "chunkgrpo could not load its library. Tried:\n"
        + "\n".join(tried)
        + "\nBuild it with `make lib` in the repository, or set CHUNKGRPO_LIBRARY to its path."
    )


def _declare(library: ctypes.CDLL, path: Path) -> ctypes.CDLL:
    try:
        library.cgrpo_abi_version.restype = c_uint32
        found = library.cgrpo_abi_version()
        if found != ABI_VERSION:
            raise ImportError(
                f"{path} has version {found} of the binary interface, this package needs {ABI_VERSION}. "
                "Build the library again with `make lib`."
            )
        for name, (restype, argtypes) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = restype, argtypes
    except AttributeError as error:
        raise ImportError(f"{path} is not a whole libchunkgrpo ({error}). Build it again with `make lib`.") from None
    return library


lib: Any = _load()


def new(struct: Any) -> Any:
    """A struct with its size and every default set by the library."""
    value = struct()
    for name, (_, argtypes) in _FUNCTIONS.items():
        if name.endswith("_init") and argtypes[0] is POINTER(struct):
            getattr(lib, name)(ctypes.byref(value), ctypes.sizeof(struct))
            return value
    value.struct_size = ctypes.sizeof(struct)  # results have no _init
    return value
