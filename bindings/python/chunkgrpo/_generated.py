"""include/chunkgrpo.h as Python sees it. Written by scripts/generate-bindings: do not edit.

The names are those of the header without their prefix. Keywords are the options that Python's functions take.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_double, c_int, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Optional, TypedDict, Union


class Field(NamedTuple):
    """How _options.py fills a field: by kind, with None for what the library takes by itself where it is optional."""

    name: str
    kind: str
    choices: Optional[dict[str, int]] = None
    optional: bool = False
    counted: str = ""


ABI_VERSION = 2
INITIAL_NOISE = -1

STATUS = {
    "ok": 0, "invalid_argument": 1, "wrong_type": 2, "non_finite": 3, "out_of_memory": 4,
    "callback_failed": 5, "io_error": 6, "device_failed": 7
}
Status = Literal[
    "ok", "invalid_argument", "wrong_type", "non_finite", "out_of_memory", "callback_failed", "io_error",
    "device_failed"
]

TYPE = {"f32": 1, "f64": 2, "bf16": 3, "f16": 4}
Type = Literal["f32", "f64", "bf16", "f16"]

DEVICE = {"cpu": 0, "cuda": 1}
Device = Literal["cpu", "cuda"]

SCHEDULE_BASE = {"linear": 1, "diffusers": 2, "unipc": 3}
ScheduleBase = Literal["linear", "diffusers", "unipc"]

SCHEDULE_SHIFT = {"static": 1, "exponential": 2, "linear": 3}
ScheduleShift = Literal["static", "exponential", "linear"]

SCHEDULE_SPACING = {"shifted": 1, "karras": 2, "exponential": 3, "beta": 4}
ScheduleSpacing = Literal["shifted", "karras", "exponential", "beta"]

DYNAMICS = {
    "flow_sde": 1, "dance_sde": 2, "cps": 3, "ode": 4, "dpm_sde": 5, "dpm_ode": 6, "wan_sde": 7,
    "precise": 8, "precise_dance": 9, "sage": 10, "flash_sde": 11, "edm_churn": 12, "consistency": 13
}
Dynamics = Literal[
    "flow_sde", "dance_sde", "cps", "ode", "dpm_sde", "dpm_ode", "wan_sde", "precise", "precise_dance",
    "sage", "flash_sde", "edm_churn", "consistency"
]

LOG_PROB_FORM = {"gaussian": 1, "squared_error": 2}
LogProbForm = Literal["gaussian", "squared_error"]

LAST_STEP = {"as_others": 1, "ode": 2}
LastStep = Literal["as_others", "ode"]

WINDOW_STRATEGY = {"fixed": 1, "random": 2, "subset": 3, "progressive": 4, "linear_decay": 5, "exponential_decay": 6}
WindowStrategy = Literal["fixed", "random", "subset", "progressive", "linear_decay", "exponential_decay"]

WINDOW_END = {"wrap": 1, "stop": 2, "stay": 3}
WindowEnd = Literal["wrap", "stop", "stay"]

WEIGHTING = {"normalised": 1, "softmax": 2}
Weighting = Literal["normalised", "softmax"]

BASELINE = {"group": 1, "leave_one_out": 2, "batch": 3}
Baseline = Literal["group", "leave_one_out", "batch"]

SCALE = {"group": 1, "batch": 2, "none": 3}
Scale = Literal["group", "batch", "none"]

DEVIATION = {"unbiased": 1, "population": 2}
Deviation = Literal["unbiased", "population"]

MIXING = {"sum": 1, "normalised_sum": 2, "gdpo": 3}
Mixing = Literal["sum", "normalised_sum", "gdpo"]

SURROGATE = {
    "clipped": 1, "unclipped": 2, "log_clipped": 3, "cispo": 4, "divergence_mask": 5, "spo": 6, "sapo": 7,
    "vespo": 8
}
Surrogate = Literal["clipped", "unclipped", "log_clipped", "cispo", "divergence_mask", "spo", "sapo", "vespo"]

KL_ESTIMATOR = {"k1": 1, "k2": 2, "k3": 3}
KlEstimator = Literal["k1", "k2", "k3"]

KL_LEVEL = {"chunk": 1, "step": 2}
KlLevel = Literal["chunk", "step"]

AVERAGE = {"chunk": 1, "sample": 2, "step": 3}
Average = Literal["chunk", "sample", "step"]

ADVANTAGE_LEVEL = {"sample": 1, "chunk": 2, "step": 3}
AdvantageLevel = Literal["sample", "chunk", "step"]

DIVERGENCE = {"gaussian": 1, "gaussian_per_time": 2, "mean": 3, "velocity": 4}
Divergence = Literal["gaussian", "gaussian_per_time", "mean", "velocity"]

GRADIENT_WEIGHTING = {"flash": 1, "sage": 2, "precise": 3}
GradientWeighting = Literal["flash", "sage", "precise"]

IMPORTANCE_LEVEL = {"step": 1, "chunk": 2, "sample": 3}
ImportanceLevel = Literal["step", "chunk", "sample"]

IMPORTANCE_MODE = {"truncate": 1, "mask": 2, "reject": 3, "reject_k2": 4, "reject_k3": 5}
ImportanceMode = Literal["truncate", "mask", "reject", "reject_k2", "reject_k3"]

GAIN = {"step": 1, "turning_point": 2}
Gain = Literal["step", "turning_point"]

NFT_WEIGHTING = {"adaptive": 1, "image": 2, "velocity": 3}
NftWeighting = Literal["adaptive", "image", "velocity"]

NFT_ADVANTAGES = {"all": 1, "positive_only": 2, "negative_only": 3, "one_only": 4, "binary": 5}
NftAdvantages = Literal["all", "positive_only", "negative_only", "one_only", "binary"]

MATCHING_WEIGHTING = {"uniform": 1, "time": 2, "time_squared": 3, "huber": 4, "generalised_huber": 5}
MatchingWeighting = Literal["uniform", "time", "time_squared", "huber", "generalised_huber"]

CRD_REGRESSION = {"mean_square": 1, "cross_entropy": 2}
CrdRegression = Literal["mean_square", "cross_entropy"]

TIME_DISTRIBUTION = {"uniform": 1, "logit_normal": 2, "discrete": 3}
TimeDistribution = Literal["uniform", "logit_normal", "discrete"]

FORWARD_OBJECTIVE = {"nft": 1, "matching": 2, "dgpo": 3, "crd": 4, "dpo": 5}
ForwardObjective = Literal["nft", "matching", "dgpo", "crd", "dpo"]

PARAMETERS = {"trained": 1, "averaged": 2}
Parameters = Literal["trained", "averaged"]


class Cuda(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("stream", c_void_p),
        ("workspace", c_void_p),
        ("workspace_size", c_size_t),
        ("status", c_void_p),
        ("seed", c_void_p),
        ("sample_ids", c_void_p),
    ]
    init = "cgrpo_cuda_init"
    keywords = {
        "workspace_size": Field("workspace_size", "size"),
        "seed": Field("seed", "uint64*", optional=True),
        "sample_ids": Field("sample_ids", "uint64*", optional=True),
    }


class Part(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("first_element", c_int64),
        ("total_elements", c_int64),
        ("lengths", c_void_p),
        ("sums", c_void_p),
        ("reduced", c_int32),
        ("reserved", c_int32),
    ]
    init = "cgrpo_part_init"
    keywords = {
        "first_element": Field("first_element", "int64"),
        "total_elements": Field("total_elements", "int64", optional=True),
        "lengths": Field("lengths", "int64*", optional=True),
        "reduced": Field("reduced", "flag"),
    }


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("shape", c_void_p),
        ("strides", c_void_p),
        ("ndim", c_int32),
        ("type", c_int32),
        ("device", c_int32),
        ("reserved", c_int32),
        ("cuda", POINTER(Cuda)),
        ("part", c_void_p),
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
    init = "cgrpo_schedule_options_init"
    keywords = {
        "base": Field("base", "choice", SCHEDULE_BASE),
        "shift_kind": Field("shift_kind", "choice", SCHEDULE_SHIFT),
        "shift": Field("shift", "float64"),
        "mu": Field("mu", "float64"),
        "terminal": Field("terminal", "float64", optional=True),
        "spacing": Field("spacing", "choice", SCHEDULE_SPACING),
    }


class SamplerOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("dynamics", c_int32),
        ("log_prob_form", c_int32),
        ("eta", c_double),
        ("wan_sigma_min", c_double),
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
    init = "cgrpo_sampler_options_init"
    keywords = {
        "dynamics": Field("dynamics", "choice", DYNAMICS),
        "log_prob": Field("log_prob_form", "choice", LOG_PROB_FORM),
        "eta": Field("eta", "float64"),
        "wan_sigma_min": Field("wan_sigma_min", "float64"),
        "last_step": Field("last_step", "choice", LAST_STEP),
        "threads": Field("threads", "int32"),
        "etas": Field("etas", "float64*", optional=True),
        "window": Field("window", "int64*", optional=True, counted="window_count"),
        "outside": Field("outside", "choice", DYNAMICS),
        "after": Field("after", "choice", DYNAMICS, optional=True),
        "dpm_order": Field("dpm_order", "int32"),
    }


class Noise(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("given", POINTER(Tensor)),
        ("seed", c_uint64),
        ("sample_ids", c_void_p),
    ]
    init = "cgrpo_noise_init"
    keywords = {
        "seed": Field("seed", "uint64"),
        "sample_ids": Field("sample_ids", "uint64*", optional=True),
    }


class StepExtras(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("unconditional", POINTER(Tensor)),
        ("guidance", c_double),
        ("previous_image", POINTER(Tensor)),
        ("steps", c_void_p),
        ("guidances", c_void_p),
    ]
    init = "cgrpo_step_extras_init"
    keywords = {
        "guidance": Field("guidance", "float64"),
        "steps": Field("steps", "int64*", optional=True),
        "guidances": Field("guidances", "float64*", optional=True),
    }


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
    init = "cgrpo_window_options_init"
    keywords = {
        "size": Field("size", "int64"),
        "first": Field("first", "int64"),
        "end": Field("end", "int64"),
        "stride": Field("stride", "int64", optional=True),
        "strategy": Field("strategy", "choice", WINDOW_STRATEGY),
        "at_end": Field("at_end", "choice", WINDOW_END),
        "iterations": Field("iterations", "int64"),
        "least": Field("least", "int64"),
        "threshold": Field("threshold", "int64"),
        "decay": Field("decay", "float64"),
        "seed": Field("seed", "uint64"),
    }


class Trajectory(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("latents", Tensor),
        ("log_probs", c_void_p),
        ("relative_l1", c_void_p),
        ("position", c_int64),
        ("previous_image", POINTER(Tensor)),
        ("velocity_type", c_int32),
        ("reserved", c_int32),
    ]
    init = "cgrpo_trajectory_init"
    keywords = {
        "position": Field("position", "int64"),
        "velocity_type": Field("velocity_type", "choice", TYPE),
    }


class AdaptiveOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("max_size", c_int64),
        ("min_size", c_int64),
    ]
    init = "cgrpo_adaptive_options_init"
    keywords = {
        "max_size": Field("max_size", "int64"),
        "min_size": Field("min_size", "int64"),
    }


class OptimalOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("chunk_count", c_int64),
        ("explained", c_double),
        ("min_size", c_int64),
        ("max_size", c_int64),
    ]
    init = "cgrpo_optimal_options_init"
    keywords = {
        "count": Field("chunk_count", "int64", optional=True),
        "explained": Field("explained", "float64"),
        "min_size": Field("min_size", "int64"),
        "max_size": Field("max_size", "int64", optional=True),
    }


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
    init = "cgrpo_select_options_init"
    keywords = {
        "fraction": Field("fraction", "float64"),
        "weights": Field("weights", "float64*", optional=True),
        "weighting": Field("weighting", "choice", WEIGHTING),
        "chunks": Field("fixed", "int64*", optional=True, counted="fixed_count"),
        "seed": Field("seed", "uint64"),
        "sample_ids": Field("sample_ids", "uint64*", optional=True),
    }


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
        ("present", c_void_p),
    ]
    init = "cgrpo_advantage_options_init"
    keywords = {
        "group_size": Field("group_size", "int64", optional=True),
        "clamp": Field("clamp", "float64"),
        "epsilon": Field("epsilon", "float64"),
        "floor": Field("floor", "float64"),
        "groups": Field("group_ids", "int64*", optional=True),
        "baseline": Field("baseline", "choice", BASELINE),
        "scale": Field("scale", "choice", SCALE),
        "deviation": Field("deviation", "choice", DEVIATION),
        "subtract_median": Field("subtract_median", "flag"),
        "trim": Field("trim", "float64"),
        "weights": Field("reward_weights", "float64*", optional=True),
        "mixing": Field("mixing", "choice", MIXING),
        "present": Field("present", "uint8*", optional=True),
    }


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
        ("advantage_level", c_int32),
        ("reserved2", c_int32),
        ("kl_weights", c_void_p),
        ("sapo_temperature_pos", c_double),
        ("sapo_temperature_neg", c_double),
        ("vespo_k_pos", c_double),
        ("vespo_lambda_pos", c_double),
        ("vespo_k_neg", c_double),
        ("vespo_lambda_neg", c_double),
    ]
    init = "cgrpo_chunk_loss_options_init"
    keywords = {
        "surrogate": Field("surrogate", "choice", SURROGATE),
        "average": Field("average", "choice", AVERAGE),
        "clip": Field("clip_low", "pair", optional=True),
        "ratio_cap": Field("ratio_cap", "float64"),
        "dual_clip": Field("dual_clip", "float64"),
        "kl": Field("kl", "float64"),
        "kl_estimator": Field("kl_estimator", "choice", KL_ESTIMATOR),
        "kl_level": Field("kl_level", "choice", KL_LEVEL),
        "normaliser": Field("normaliser", "float64", optional=True),
        "divergence_threshold": Field("divergence_threshold", "float64"),
        "selection": Field("selection", "uint8*", optional=True),
        "mask": Field("mask", "uint8*", optional=True),
        "reference_log_probs": Field("reference_log_probs", "float64*", optional=True),
        "weights": Field("weights", "float64*", optional=True),
        "ratio_bias": Field("ratio_bias", "float64*", optional=True),
        "ratio_scale": Field("ratio_scale", "float64*", optional=True),
        "divergence": Field("divergence", "float64*", optional=True),
        "kl_weights": Field("kl_weights", "float64*", optional=True),
        "sapo_temperature_pos": Field("sapo_temperature_pos", "float64"),
        "sapo_temperature_neg": Field("sapo_temperature_neg", "float64"),
        "vespo_k_pos": Field("vespo_k_pos", "float64"),
        "vespo_lambda_pos": Field("vespo_lambda_pos", "float64"),
        "vespo_k_neg": Field("vespo_k_neg", "float64"),
        "vespo_lambda_neg": Field("vespo_lambda_neg", "float64"),
    }


class ChunkStatsStruct(ctypes.Structure):
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
        ("log_ratio_max", c_double),
    ]


class ImportanceOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("level", c_int32),
        ("mode", c_int32),
        ("low", c_double),
        ("high", c_double),
        ("mask", c_void_p),
        ("geometric", c_int32),
        ("reserved", c_int32),
    ]
    init = "cgrpo_importance_options_init"
    keywords = {
        "level": Field("level", "choice", IMPORTANCE_LEVEL),
        "mode": Field("mode", "choice", IMPORTANCE_MODE),
        "low": Field("low", "float64"),
        "high": Field("high", "float64"),
        "mask": Field("mask", "uint8*", optional=True),
        "geometric": Field("geometric", "flag"),
    }


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


class ForwardExtras(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("old_velocity", POINTER(Tensor)),
        ("reference_velocity", POINTER(Tensor)),
        ("nft_beta", c_double),
        ("absolute", c_void_p),
        ("old_distance", c_void_p),
        ("old_absolute", c_void_p),
        ("reference_distance", c_void_p),
        ("positive_distance", c_void_p),
        ("positive_absolute", c_void_p),
        ("negative_distance", c_void_p),
        ("negative_absolute", c_void_p),
        ("old_divergence", c_void_p),
        ("reference_divergence", c_void_p),
        ("grad_positive_distance", c_void_p),
        ("grad_negative_distance", c_void_p),
        ("grad_old_divergence", c_void_p),
        ("grad_reference_divergence", c_void_p),
    ]
    init = "cgrpo_forward_extras_init"
    keywords = {
        "nft_beta": Field("nft_beta", "float64", optional=True),
        "grad_positive_distance": Field("grad_positive_distance", "float64*", optional=True),
        "grad_negative_distance": Field("grad_negative_distance", "float64*", optional=True),
        "grad_old_divergence": Field("grad_old_divergence", "float64*", optional=True),
        "grad_reference_divergence": Field("grad_reference_divergence", "float64*", optional=True),
    }


class ForwardStatsStruct(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("policy_loss", c_double),
        ("kl", c_double),
        ("weight_mean", c_double),
        ("clip_fraction", c_double),
        ("reward_mean", c_double),
        ("accuracy", c_double),
    ]


class NftOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("beta", c_double),
        ("advantage_clip", c_double),
        ("weighting", c_int32),
        ("mode", c_int32),
        ("floor", c_double),
        ("times", c_void_p),
        ("positive_absolute", c_void_p),
        ("negative_absolute", c_void_p),
        ("kl", c_double),
        ("reference_divergence", c_void_p),
        ("grad_reference_divergence", c_void_p),
    ]
    init = "cgrpo_nft_options_init"
    keywords = {
        "beta": Field("beta", "float64"),
        "advantage_clip": Field("advantage_clip", "float64"),
        "weighting": Field("weighting", "choice", NFT_WEIGHTING),
        "mode": Field("mode", "choice", NFT_ADVANTAGES),
        "floor": Field("floor", "float64"),
        "times": Field("times", "float64*", optional=True),
        "positive_absolute": Field("positive_absolute", "float64*", optional=True),
        "negative_absolute": Field("negative_absolute", "float64*", optional=True),
        "kl": Field("kl", "float64"),
        "reference_divergence": Field("reference_divergence", "float64*", optional=True),
    }


class DgpoOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("beta", c_double),
        ("group_size", c_int64),
        ("group_ids", c_void_p),
        ("old_distance", c_void_p),
        ("clip_low", c_double),
        ("clip_high", c_double),
        ("clip_distance", c_int32),
        ("clip_kl", c_int32),
        ("kl", c_double),
        ("reference_divergence", c_void_p),
        ("grad_reference_divergence", c_void_p),
    ]
    init = "cgrpo_dgpo_options_init"
    keywords = {
        "beta": Field("beta", "float64"),
        "group_size": Field("group_size", "int64", optional=True),
        "groups": Field("group_ids", "int64*", optional=True),
        "old_distance": Field("old_distance", "float64*", optional=True),
        "clip": Field("clip_low", "pair", optional=True),
        "clip_distance": Field("clip_distance", "flag"),
        "clip_kl": Field("clip_kl", "flag"),
        "kl": Field("kl", "float64"),
        "reference_divergence": Field("reference_divergence", "float64*", optional=True),
    }


class CrdOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("beta", c_double),
        ("advantage_clip", c_double),
        ("regression", c_int32),
        ("reserved", c_int32),
        ("temperature", c_double),
        ("absolute", c_void_p),
        ("old_absolute", c_void_p),
        ("floor", c_double),
        ("kl", c_double),
        ("kl_least", c_double),
        ("reference_divergence", c_void_p),
        ("grad_reference_divergence", c_void_p),
    ]
    init = "cgrpo_crd_options_init"
    keywords = {
        "beta": Field("beta", "float64"),
        "advantage_clip": Field("advantage_clip", "float64"),
        "regression": Field("regression", "choice", CRD_REGRESSION),
        "temperature": Field("temperature", "float64"),
        "absolute": Field("absolute", "float64*", optional=True),
        "old_absolute": Field("old_absolute", "float64*", optional=True),
        "floor": Field("floor", "float64"),
        "kl": Field("kl", "float64"),
        "kl_least": Field("kl_least", "float64"),
        "reference_divergence": Field("reference_divergence", "float64*", optional=True),
    }


class DpoOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("beta", c_double),
    ]
    init = "cgrpo_dpo_options_init"
    keywords = {
        "beta": Field("beta", "float64"),
    }


class TimeOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("distribution", c_int32),
        ("stratified", c_int32),
        ("shift", c_double),
        ("mean", c_double),
        ("std", c_double),
        ("low", c_double),
        ("high", c_double),
        ("least", c_double),
        ("values", c_void_p),
        ("values_count", c_int64),
        ("seed", c_uint64),
        ("sample_ids", c_void_p),
    ]
    init = "cgrpo_time_options_init"
    keywords = {
        "distribution": Field("distribution", "choice", TIME_DISTRIBUTION),
        "stratified": Field("stratified", "flag"),
        "shift": Field("shift", "float64"),
        "mean": Field("mean", "float64"),
        "std": Field("std", "float64"),
        "low": Field("low", "float64"),
        "high": Field("high", "float64"),
        "least": Field("least", "float64"),
        "values": Field("values", "float64*", optional=True, counted="values_count"),
        "seed": Field("seed", "uint64"),
        "sample_ids": Field("sample_ids", "uint64*", optional=True),
    }


class ForwardMethod(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("objective", c_int32),
        ("share_noise", c_int32),
        ("steps", c_int64),
        ("group_size", c_int64),
        ("draws", c_int64),
        ("learning_rate", c_double),
        ("first_time_step", c_int64),
        ("end_time_step", c_int64),
        ("times", TimeOptions),
        ("nft", NftOptions),
        ("dgpo", DgpoOptions),
        ("crd", CrdOptions),
        ("dpo", DpoOptions),
        ("crd_adaptive", c_int32),
        ("matching_weighting", c_int32),
        ("matching_power", c_double),
        ("draws_per_chunk", c_int64),
        ("reference_kl", c_double),
        ("chunk_loss", ChunkLossOptions),
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
        ("reference_kl", c_double),
        ("reference_divergence", c_int32),
        ("reserved", c_int32),
        ("chunk_weights", c_void_p),
        ("chunk_weights_count", c_int64),
        ("reference_last_step", c_double),
    ]
    init = "cgrpo_trainer_options_init"
    keywords = {
        "latent_size": Field("latent_size", "int64"),
        "condition_size": Field("condition_size", "int64"),
        "width": Field("width", "int64"),
        "blocks": Field("blocks", "int64"),
        "embedding_size": Field("embedding_size", "int64"),
        "steps": Field("steps", "int64"),
        "shift": Field("shift", "float64"),
        "dynamics": Field("dynamics", "choice", DYNAMICS),
        "share_noise": Field("share_noise", "flag"),
        "eta": Field("eta", "float64"),
        "chunk_sizes": Field("chunk_sizes", "int64*", optional=True, counted="chunk_count"),
        "group_size": Field("group_size", "int64"),
        "chunk_fraction": Field("chunk_fraction", "float64"),
        "weighted_selection": Field("weighted_selection", "flag"),
        "threads": Field("threads", "int32"),
        "advantage_clamp": Field("advantage_clamp", "float64"),
        "clip": Field("clip_low", "pair", optional=True),
        "kl": Field("kl", "float64"),
        "updates_per_rollout": Field("updates_per_rollout", "int64"),
        "learning_rate": Field("learning_rate", "float64"),
        "beta1": Field("beta1", "float64"),
        "beta2": Field("beta2", "float64"),
        "adam_epsilon": Field("adam_epsilon", "float64"),
        "weight_decay": Field("weight_decay", "float64"),
        "max_grad_norm": Field("max_grad_norm", "float64"),
        "ema_decay": Field("ema_decay", "float64"),
        "seed": Field("seed", "uint64"),
        "reference_kl": Field("reference_kl", "float64"),
        "reference_divergence": Field("reference_divergence", "choice", DIVERGENCE),
        "chunk_weights": Field("chunk_weights", "float64*", optional=True, counted="chunk_weights_count"),
        "reference_last_step": Field("reference_last_step", "float64"),
    }


class PretrainOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("steps", c_int64),
        ("batch_size", c_int64),
        ("learning_rate", c_double),
        ("ema_decay", c_double),
    ]
    init = "cgrpo_pretrain_options_init"
    keywords = {
        "steps": Field("steps", "int64"),
        "batch_size": Field("batch_size", "int64"),
        "learning_rate": Field("learning_rate", "float64"),
        "ema_decay": Field("ema_decay", "float64"),
    }


class IterationReportStruct(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("iteration", c_int64),
        ("reward_mean", c_double),
        ("reward_std", c_double),
        ("loss", c_double),
        ("grad_norm", c_double),
        ("stats", ChunkStatsStruct),
        ("rollout_seconds", c_double),
        ("reward_seconds", c_double),
        ("update_seconds", c_double),
        ("reference_divergence", c_double),
        ("last_step_divergence", c_double),
    ]


@dataclass(frozen=True)
class ChunkStats:
    """Over the selected chunks that have a step.

    selected               N, their number
    ratio_mean             of the ratios of the N chunks, exp of the mean log-ratio of a chunk's steps
    ratio_std              their population standard deviation
    ratio_min              the smallest
    ratio_max              the largest
    clip_fraction_low      share of the N, 0 ... 1: A < 0 and ratio < 1 - clip_low. Their gradient is zero
    clip_fraction_high     the same: A > 0 and ratio > 1 + clip_high. Other surrogates count a chunk whose ratio a
                           bound limits as low below 1 and as high above; log-clipped counts one with any limited
                           step as low where A < 0 and as high where A > 0
    approximate_kl         mean of the KL estimate, without its weight
    effective_sample_size  (sum ratio)^2 / (N sum ratio^2), in (0, 1]; 1 = on policy
    log_ratio_max          the largest |log ratio| of a chunk, in nats per element; 0 = on policy
    """

    selected: int
    ratio_mean: float
    ratio_std: float
    ratio_min: float
    ratio_max: float
    clip_fraction_low: float
    clip_fraction_high: float
    approximate_kl: float
    effective_sample_size: float
    log_ratio_max: float


@dataclass(frozen=True)
class ForwardStats:
    """Means over samples and times of an objective of the forward process; 0 where it has no such number.

    policy_loss    the loss without its KL term
    kl             mean |v - v_ref|^2, without its weight
    weight_mean    0 ... 1; NFT: of r; DGPO: of sigmoid(s)
    clip_fraction  0 ... 1; DGPO: share of distances that are clipped
    reward_mean    CRD: of the implicit reward; DPO: of its margin between chosen and rejected
    accuracy       0 ... 1; DPO: share of pairs whose chosen image has the higher implicit reward
    """

    policy_loss: float
    kl: float
    weight_mean: float
    clip_fraction: float
    reward_mean: float
    accuracy: float


@dataclass(frozen=True)
class IterationReport:
    """The report of one `Trainer.iterate`.

    iteration             counted from 1
    reward_mean           of the rewards of the rollouts, in their own unit
    reward_std            their population standard deviation
    loss                  mean over the optimiser steps, as are those below
    grad_norm             L2 norm of the gradient, before it is clipped
    stats                 of the last optimiser step
    rollout_seconds       wall time of the rollouts
    reward_seconds        in the reward callback
    update_seconds        of the optimiser steps
    reference_divergence  mean over the trained steps and the optimiser steps; 0 where reference_kl is 0
    last_step_divergence  mean (v - v_ref)^2 at the last step, over the samples and the optimiser steps; 0 where
                          reference_last_step is 0
    """

    iteration: int
    reward_mean: float
    reward_std: float
    loss: float
    grad_norm: float
    stats: ChunkStats
    rollout_seconds: float
    reward_seconds: float
    update_seconds: float
    reference_divergence: float
    last_step_divergence: float


class ScheduleKeywords(TypedDict, total=False):
    """Keywords for cgrpo_schedule_options."""
    base: ScheduleBase
    """'linear'"""
    shift_kind: ScheduleShift
    """'static'"""
    shift: float
    """1; > 0; for the static shift"""
    terminal: Optional[float]
    """0 = none; else in (0, 1): the last sigma before the final 0 is stretched to it"""
    spacing: ScheduleSpacing
    """'shifted'"""


class SamplerKeywords(TypedDict, total=False):
    """Keywords for cgrpo_sampler_options."""
    log_prob: LogProbForm
    """'gaussian'"""
    wan_sigma_min: float
    """0; in [0, 1]; for WAN_SDE and FLASH_SDE"""
    last_step: LastStep
    """'as_others'; Flow-GRPO's, as dynamics and eta are. The embedded policy and Python's scheduler, which make
    pictures, have the ODE"""
    threads: int
    """1; 0 ... 256, 0 = one per core. The results are the same for any number."""
    etas: Optional[Any]
    """None, or one for each of the T steps instead of eta"""
    window: Optional[Any]
    """None: every step takes `dynamics`. Else the steps that do, in rising order; see cgrpo_window_steps"""
    outside: Dynamics
    """'ode' for the other steps; or 'dpm_ode'"""
    after: Optional[Dynamics]
    """0 = outside; for the steps after the window's last (MixGRPO-Flash: 'dpm_ode', with cgrpo_schedule_flash)"""
    dpm_order: int
    """2; 1 or 2; the first and the last step are of order 1"""


class WindowKeywords(TypedDict, total=False):
    """Keywords for cgrpo_window_options."""
    first: int
    """0"""
    stride: Optional[int]
    """0 = size; >= 1; less than `size` lets windows overlap"""
    strategy: WindowStrategy
    """'progressive'"""
    at_end: WindowEnd
    """'wrap'"""
    iterations: int
    """25; >= 1"""
    least: int
    """1; 1 ... iterations; for linear decay"""
    threshold: int
    """13; >= 0; for exponential decay"""
    decay: float
    """0.1; >= 0; for exponential decay"""
    seed: int
    """0; for random and subset"""


class OptimalKeywords(TypedDict, total=False):
    """Keywords for cgrpo_optimal_options."""
    explained: float
    """0.9; in (0, 1): share of the variance of the logarithm of the curve"""
    min_size: int
    """1"""
    max_size: Optional[int]
    """0 = no bound"""


class SelectKeywords(TypedDict, total=False):
    """Keywords for cgrpo_select_options."""
    weighting: Weighting
    """'normalised'"""
    chunks: Optional[Any]
    """None, or the chunks to train in every sample; excludes fraction < 1 and weights"""
    seed: int
    """0"""
    sample_ids: Optional[Any]
    """None: 0 ... B - 1; else B of them"""


class AdvantageKeywords(TypedDict, total=False):
    """Keywords for cgrpo_advantage_options."""
    clamp: float
    """5; > 0, math.inf for none; the last thing done"""
    epsilon: float
    """1e-8; >= 0; added to the standard deviation"""
    floor: float
    """0; >= 0; the standard deviation is at least this (Flow-Factory: 1e-6, epsilon 0)"""
    groups: Optional[Any]
    """None, or one id per sample: any order, unequal sizes; excludes group_size"""
    baseline: Baseline
    """'group'"""
    scale: Scale
    """'group'"""
    deviation: Deviation
    """'unbiased'"""
    subtract_median: bool
    """0; 1: the median of a group's advantages is subtracted (GCPO's half-half)"""
    trim: float
    """0; in [0, 1): share of a group's lowest rewards that mean and deviation leave out (MixGRPO)"""
    weights: Optional[Any]
    """None: 1 each; R of them"""
    mixing: Mixing
    """'sum'"""
    present: Optional[Any]
    """None: every reward; (count, R), 0 = does not apply: not read, and left out of the group's mean and deviation
    and of the sample's sum. Each sample has one"""


class ChunkLossKeywords(TypedDict, total=False):
    """Keywords for cgrpo_chunk_loss_options."""
    surrogate: Surrogate
    """'clipped'"""
    average: Average
    """'chunk'"""
    clip: Optional[Union[float, tuple[float, float]]]
    """5e-5 (GCPO); in [0, 1]. Log-clipped: a bound on r_t, >= 0. Leave it where nothing is clipped"""
    ratio_cap: float
    """math.inf = none; >= 1: max(-A min(rho, cap), -A clip(rho)) (TRL's delta). For the clipped surrogate; excludes
    dual_clip"""
    dual_clip: float
    """math.inf = none; > 1: where A < 0 the term is at most -A dual_clip (arXiv 1912.09729; verl: 3). For the
    clipped surrogate"""
    kl: float
    """0; >= 0: weight of the KL estimate. With 0, estimator, level and reference are of the statistic
    approximate_kl alone"""
    kl_estimator: KlEstimator
    """'k3'"""
    kl_level: KlLevel
    """'chunk'"""
    normaliser: Optional[float]
    """0 = the count; > 0: divide the summed loss by this instead of the number of chunks, samples or steps. With
    'step', B times the longest completion is TRL's dr_grpo, the tokens of the global batch are its dapo"""
    divergence_threshold: float
    """1e-5 (verl-omni); >= 0. For the divergence mask"""
    selection: Optional[Any]
    """None: every chunk; (B, K), non-zero = train; the steps of others may be NaN"""
    mask: Optional[Any]
    """None: every step; (B, S), 0 = absent: not read, means are over the others, and a chunk without any is
    skipped. Samples may so have their own lengths"""
    reference_log_probs: Optional[Any]
    """None: KL against old_log_probs; (B, S)"""
    weights: Optional[Any]
    """None: 1; w >= 0 of the policy terms, (K) or (B, K)"""
    ratio_scale: Optional[Any]
    """None: 1; (S), >= 0"""
    divergence: Optional[Any]
    """None; (B, S), >= 0; a chunk's is the mean over its steps. The divergence mask needs it"""
    kl_weights: Optional[Any]
    """None: 1; (B), >= 0: factors of a kl > 0 for each sample (GARDO, arXiv 2512.24138: 1 where the reward is
    uncertain, else 0)"""
    sapo_temperature_pos: float
    """1; > 0: tau where A > 0. For SAPO; the others are TRL's too"""
    sapo_temperature_neg: float
    """1.05; > 0: tau elsewhere"""
    vespo_k_pos: float
    """2; >= 0: k where A >= 0. For VESPO"""
    vespo_lambda_pos: float
    """3; > 0: lambda where A >= 0"""
    vespo_k_neg: float
    """3; >= 0: k elsewhere"""
    vespo_lambda_neg: float
    """2; > 0: lambda elsewhere"""


class NftKeywords(TypedDict, total=False):
    """Keywords for cgrpo_nft_options."""
    advantage_clip: float
    """5; > 0"""
    weighting: NftWeighting
    """'adaptive'"""
    mode: NftAdvantages
    """'all'"""
    floor: float
    """1e-5; > 0; of the adaptive weight"""
    kl: float
    """0; >= 0"""


class DgpoKeywords(TypedDict, total=False):
    """Keywords for cgrpo_dgpo_options."""
    beta: float
    """100; > 0"""
    group_size: Optional[int]
    """0 = all samples are one group; must divide the batch"""
    groups: Optional[Any]
    """None, or (B): any order, unequal sizes; excludes group_size"""
    clip: Optional[Union[float, tuple[float, float]]]
    """1e-4; in [0, 1]; for clipping"""
    clip_distance: bool
    """1: a clipped distance has no gradient; 0: it has, for clip_kl alone"""
    clip_kl: bool
    """0; 1: nor has the KL of a clipped distance; needs old_distance"""
    kl: float
    """0; >= 0"""


class CrdKeywords(TypedDict, total=False):
    """Keywords for cgrpo_crd_options."""
    beta: float
    """1; > 0"""
    advantage_clip: float
    """5; > 0"""
    regression: CrdRegression
    """'mean_square'"""
    temperature: float
    """math.inf = a centre is a plain mean; > 0: the mean of the losses for two centres, weighted by
    softmax(A'/temperature) and softmax(-A'/temperature); 0: by softmax(A') where A' > 0, and equally
    (Flow-Factory's weight_temp)"""
    floor: float
    """1e-5; > 0; the least divisor"""
    kl: float
    """0; >= 0"""
    kl_least: float
    """-1 = kl; >= 0: the weight of the KL goes from this at A' = 0 to kl at A' = 1 (Flow-Factory's
    reward_adaptive_kl: 1e-4)"""


class TimeKeywords(TypedDict, total=False):
    """Keywords for cgrpo_time_options."""
    distribution: TimeDistribution
    """'uniform'"""
    stratified: bool
    """1: the N times of a sample are one of each N-th of the distribution, in random order; 0: drawn apart"""
    shift: float
    """1; > 0: t becomes shift t / (1 + (shift - 1) t). Not for discrete times"""
    mean: float
    """0; of the logit-normal"""
    std: float
    """1; > 0; of the logit-normal"""
    low: float
    """0; >= 0: t becomes low + (high - low) t, after the shift. Not for discrete times"""
    high: float
    """1; low < high <= 1"""
    least: float
    """0; in [0, 1): no time is below it (AWM, Flow-Factory: 0.01)"""
    values: Optional[Any]
    """None; the times of the discrete distribution, each in (0, 1]: sigmas of a schedule"""


class TrainerKeywords(TypedDict, total=False):
    """Keywords for cgrpo_trainer_options."""
    width: int
    """256; hidden size; 1 ... 16,384"""
    blocks: int
    """3; 1 ... 256"""
    embedding_size: int
    """128; of time and condition; even, 2 ... 16,384"""
    steps: int
    """17 = T; 2 ... 10,000"""
    shift: float
    """3"""
    dynamics: Dynamics
    """'flow_sde'"""
    share_noise: bool
    """1: one initial noise per group; 0: one per sample"""
    eta: float
    """0.7"""
    chunk_sizes: Optional[Any]
    """None: 2, 3, 4, 7 where S = 16, else chunks of 4; copied"""
    group_size: int
    """12; >= 2; samples per prompt"""
    chunk_fraction: float
    """0.5; of the chunks of each sample that are trained"""
    weighted_selection: bool
    """0; 1: drawn by relative L1"""
    threads: int
    """0; one per core. The results are the same for any number."""
    advantage_clamp: float
    """5"""
    clip: Optional[Union[float, tuple[float, float]]]
    """1e-3; for small images. cgrpo_chunk_loss has GCPO's, for latents of FLUX"""
    kl: float
    """0"""
    updates_per_rollout: int
    """2 optimiser steps: the prompts of a rollout are dealt out to them; >= 1"""
    learning_rate: float
    """3e-4"""
    beta1: float
    """0.9"""
    beta2: float
    """0.999"""
    adam_epsilon: float
    """1e-8"""
    weight_decay: float
    """1e-4, decoupled"""
    max_grad_norm: float
    """1; math.inf for none"""
    ema_decay: float
    """0.9 per optimiser step of Chunk-GRPO; [0, 1)"""
    seed: int
    """0: of the parameters and of every draw"""
    reference_kl: float
    """0; >= 0; weight of the mean divergence of the trained steps from the frozen reference: the network as
    pretraining left it, or a fresh one. On 8 x 8 digits 0.2 with GAUSSIAN is about as strong as 0.005 with VELOCITY"""
    reference_divergence: Divergence
    """'velocity'"""
    chunk_weights: Optional[Any]
    """None: 1; one for each chunk, finite, >= 0: weights of the policy terms, as those of cgrpo_chunk_loss_options;
    copied"""
    reference_last_step: float
    """0; >= 0; weight of the mean over the samples of mean (v - v_ref)^2 at the last step. It takes no noise, so no
    chunk trains it and reference_kl does not see it; but it shares the network, and drifts. One step more per
    sample is run, forward and back"""


class PretrainKeywords(TypedDict, total=False):
    """Keywords for cgrpo_pretrain_options."""
    steps: int
    """2000 optimiser steps"""
    batch_size: int
    """256"""
    learning_rate: float
    """2e-3, cosine decay to a tenth"""
    ema_decay: float
    """0.99"""


VelocityFn = ctypes.CFUNCTYPE(c_int, c_void_p, c_int64, c_double, POINTER(Tensor), POINTER(Tensor))
ProgressFn = ctypes.CFUNCTYPE(c_int, c_void_p, c_int64, c_int64, c_double)
RewardFn = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(Tensor), POINTER(c_int64), POINTER(c_double))
AllReduceFn = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_int32, c_int64)

FUNCTIONS = {
    "cgrpo_abi_version": "uint32",
    "cgrpo_version": "text",
    "cgrpo_last_error": "text",
    "cgrpo_status_name": "text int32",
    "cgrpo_set_thread_limit": "int32 int32",
    "cgrpo_instruction_set": "text",
    "cgrpo_part_init": "nothing Part* size",
    "cgrpo_cuda_init": "nothing Cuda* size",
    "cgrpo_cuda_workspace": "int32 int64 int64 int64 size*",
    "cgrpo_cuda_prepare": "int32 int32",
    "cgrpo_cuda_status": "int32 uint64",
    "cgrpo_schedule_options_init": "nothing ScheduleOptions* size",
    "cgrpo_schedule_make": "int32 int64 ScheduleOptions* float64*",
    "cgrpo_schedule_flash": "int32 int64 float64 int64 float64 float64* int64 int64*",
    "cgrpo_timesteps": "int32 float64* int64 float64 int32 float64*",
    "cgrpo_flux_mu": "int32 float64 float64 float64 float64*",
    "cgrpo_sampler_options_init": "nothing SamplerOptions* size",
    "cgrpo_sampler_create": "int32 float64* int64 SamplerOptions* handle*",
    "cgrpo_sampler_destroy": "nothing handle",
    "cgrpo_sampler_info": "int32 handle SamplerOptions* float64** int64*",
    "cgrpo_sampler_coefficients": "int32 handle int64 float64* float64* float64* float64*",
    "cgrpo_noise_init": "nothing Noise* size",
    "cgrpo_normal": "int32 uint64 uint64* int64 int32 Tensor*",
    "cgrpo_step_extras_init": "nothing StepExtras* size",
    "cgrpo_step": "int32 handle int64 Tensor* Tensor* StepExtras* Noise* Tensor* float64* float64*",
    "cgrpo_log_prob": "int32 handle int64 Tensor* Tensor* StepExtras* Tensor* float64*",
    "cgrpo_log_prob_vjp": "int32 handle int64 Tensor* Tensor* StepExtras* Tensor* float64* Tensor* Tensor* float64*",
    "cgrpo_log_prob_residual": "int32 handle int64 Tensor* Tensor* StepExtras* Tensor* Tensor* float64*",
    "cgrpo_residual_vjp": "int32 handle int64 Tensor* StepExtras* float64* Tensor* Tensor*",
    "cgrpo_predicted_image": "int32 handle int64 Tensor* Tensor* StepExtras* Tensor*",
    "cgrpo_window_options_init": "nothing WindowOptions* size",
    "cgrpo_window_steps": "int32 WindowOptions* int64 int64* int64 int64*",
    "cgrpo_trajectory_init": "nothing Trajectory* size",
    "cgrpo_rollout": "int32 handle Trajectory* int64 Noise* VelocityFn pointer",
    "cgrpo_forked_ids": "int32 uint64* int64 int64 int64 uint64*",
    "cgrpo_trajectory_log_probs": "int32 handle int64 int64* Tensor* Tensor* float64*",
    "cgrpo_trajectory_log_probs_vjp": "int32 handle int64 int64* Tensor* Tensor* float64* Tensor*",
    "cgrpo_trajectory_residuals": "int32 handle int64 int64* Tensor* Tensor* Tensor* float64*",
    "cgrpo_trajectory_residuals_vjp": "int32 handle int64 int64* Tensor* float64* Tensor*",
    "cgrpo_relative_l1": "int32 Tensor* int32 float64*",
    "cgrpo_plan_fixed": "int32 int64 int64 int64* int64 int64*",
    "cgrpo_adaptive_options_init": "nothing AdaptiveOptions* size",
    "cgrpo_plan_adaptive": "int32 float64* int64 int64 AdaptiveOptions* int64* int64 int64*",
    "cgrpo_optimal_options_init": "nothing OptimalOptions* size",
    "cgrpo_plan_optimal": "int32 float64* int64 int64 OptimalOptions* int64* int64 int64* float64* float64*",
    "cgrpo_plan_describe": "int32 int64* int64 pointer size size*",
    "cgrpo_plan_carry": "int32 int64* int64 float64* int64 float64* int64 int64*",
    "cgrpo_chunk_weights": "int32 float64* int64 int64 int64* int64 float64*",
    "cgrpo_select_options_init": "nothing SelectOptions* size",
    "cgrpo_chunk_select": "int32 int64 int64 SelectOptions* uint8*",
    "cgrpo_advantage_options_init": "nothing AdvantageOptions* size",
    "cgrpo_advantages": "int32 float64* int64 AdvantageOptions* float64*",
    "cgrpo_history_create": "int32 int64 int64 handle*",
    "cgrpo_history_destroy": "nothing handle",
    "cgrpo_history_update": "int32 handle int64* float64* int64 float64*",
    "cgrpo_history_rewards": "int32 handle int64* float64* int64 int64*",
    "cgrpo_diversity": "int32 Tensor* int64 int32 float64*",
    "cgrpo_best_of_n": "int32 float64* int64 int64 uint8*",
    "cgrpo_chunk_loss_options_init": "nothing ChunkLossOptions* size",
    "cgrpo_chunk_loss": (
        "int32 float64* float64* float64* int64 int64 int64* int64 ChunkLossOptions* float64* float64* float64* "
        "ChunkStatsStruct*"
    ),
    "cgrpo_chunk_stats_merge": "int32 ChunkStatsStruct* ChunkStatsStruct*",
    "cgrpo_divergence_from_velocity": "int32 handle int64 int64* int32 Tensor* Tensor* float64* float64* Tensor*",
    "cgrpo_divergence_from_sampled": (
        "int32 handle int64 int64* int32 Tensor* Tensor* Noise* Tensor* float64* float64* Tensor*"
    ),
    "cgrpo_norm_hinge": "int32 Tensor* Tensor* int32 float64* float64* float64* Tensor*",
    "cgrpo_gcpo_weights": "int32 int64* int64 float64*",
    "cgrpo_tempflow_weights": "int32 handle int64* int64 float64*",
    "cgrpo_gradient_weights": "int32 handle int32 int64* int64 float64*",
    "cgrpo_importance_options_init": "nothing ImportanceOptions* size",
    "cgrpo_importance_weights": "int32 float64* float64* int64 int64 int64* int64 ImportanceOptions* float64*",
    "cgrpo_step_gains": "int32 float64* int64 int64 int32 float64*",
    "cgrpo_step_advantages": "int32 float64* int64 int64 AdvantageOptions* float64*",
    "cgrpo_tree_advantages": "int32 float64* int64* float64* int64 int64 AdvantageOptions* float64*",
    "cgrpo_zero_std_groups": "int32 float64* int64 AdvantageOptions* uint8* int64* int64*",
    "cgrpo_win_rates": "int32 float64* int64 AdvantageOptions* float64*",
    "cgrpo_recipe_named": "int32 text Recipe*",
    "cgrpo_recipe_describe": "int32 text pointer size size*",
    "cgrpo_forward_noised": "int32 Tensor* float64* Noise* int64 int32 Tensor*",
    "cgrpo_forward_extras_init": "nothing ForwardExtras* size",
    "cgrpo_forward_distance": "int32 Tensor* Tensor* Noise* int64 int32 ForwardExtras* float64* float64* Tensor*",
    "cgrpo_nft_options_init": "nothing NftOptions* size",
    "cgrpo_nft_loss": (
        "int32 float64* float64* float64* int64 int64 NftOptions* float64* float64* float64* ForwardStatsStruct*"
    ),
    "cgrpo_matching_log_probs": "int32 float64* float64* int64 int32 float64 float64* float64*",
    "cgrpo_dgpo_options_init": "nothing DgpoOptions* size",
    "cgrpo_dgpo_loss": (
        "int32 float64* float64* float64* int64 int64 DgpoOptions* float64* float64* ForwardStatsStruct*"
    ),
    "cgrpo_crd_options_init": "nothing CrdOptions* size",
    "cgrpo_crd_loss": "int32 float64* float64* float64* int64 int64 CrdOptions* float64* float64* ForwardStatsStruct*",
    "cgrpo_dpo_options_init": "nothing DpoOptions* size",
    "cgrpo_dpo_loss": (
        "int32 float64* float64* float64* float64* int64 int64 DpoOptions* float64* float64* float64* "
        "ForwardStatsStruct*"
    ),
    "cgrpo_preference_pairs": "int32 float64* int64 int64 int64* int64* int64* int64*",
    "cgrpo_time_options_init": "nothing TimeOptions* size",
    "cgrpo_times": "int32 int64 int64 int64 TimeOptions* float64*",
    "cgrpo_forward_method_named": "int32 text ForwardMethod*",
    "cgrpo_forward_method_describe": "int32 text pointer size size*",
    "cgrpo_trainer_options_init": "nothing TrainerOptions* size",
    "cgrpo_trainer_create": "int32 TrainerOptions* handle*",
    "cgrpo_trainer_destroy": "nothing handle",
    "cgrpo_trainer_info": "int32 handle TrainerOptions* int64* int64*",
    "cgrpo_pretrain_options_init": "nothing PretrainOptions* size",
    "cgrpo_trainer_pretrain": "int32 handle Tensor* Tensor* PretrainOptions* ProgressFn pointer",
    "cgrpo_trainer_iterate": "int32 handle Tensor* RewardFn pointer IterationReportStruct*",
    "cgrpo_trainer_set_replica": "int32 handle int64 int64 AllReduceFn pointer",
    "cgrpo_trainer_sample": "int32 handle Tensor* int32 float64 uint64 Tensor*",
    "cgrpo_trainer_velocity": "int32 handle int32 Tensor* float64 Tensor* Tensor*",
    "cgrpo_trainer_save": "int32 handle text",
    "cgrpo_trainer_load": "int32 text handle*",
}
