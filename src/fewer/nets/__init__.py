"""The room for who is short of parameters and operations: networks that carry their knowledge in their shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewer.core.lazy import lazily

# imported when first asked for: looking around should not wait for torch
_HOMES: dict[str, str] = {
    "AdamWInBackward": "fewer.nets.per_layer_updates",
    "BlockFFT": "fewer.nets.block_fft",
    "ClosedLoop": "fewer.nets.spacetime_layers",
    "CompanionSSM": "fewer.nets.spacetime_layers",
    "ConViT": "fewer.nets.convit",
    "ConViTArchitecture": "fewer.nets.convit",
    "DLinear": "fewer.nets.direct_forecasts",
    "Dense": "fewer.nets.linears",
    "EarlyExitCascade": "fewer.nets.early_exit",
    "Either": "fewer.nets.rows",
    "Forecaster": "fewer.nets.forecaster",
    "Forecasting": "fewer.nets.forecasting",
    "GPSA": "fewer.nets.convit",
    "GaLore": "fewer.nets.galore",
    "H3Conv": "fewer.nets.h3_conv",
    "LanguageModelling": "fewer.nets.language",
    "LayerStack": "fewer.nets.direct_forecasts",
    "LearnFromRows": "fewer.nets.rows",
    "LinearBatchEnsemble": "fewer.nets.ensemble_layers",
    "LinearEnsemble": "fewer.nets.ensemble_layers",
    "LongConv": "fewer.nets.long_conv",
    "LongConvArchitecture": "fewer.nets.long_conv",
    "LongConvModel": "fewer.nets.long_conv_model",
    "LongKernel": "fewer.nets.long_kernel",
    "LowRank": "fewer.nets.low_rank",
    "LowRankLinear": "fewer.nets.low_rank",
    "NLinear": "fewer.nets.direct_forecasts",
    "PiecewiseLinearEmbedding": "fewer.nets.piecewise_linear",
    "PiecewiseLinearEncoding": "fewer.nets.piecewise_linear",
    "Preprocessing": "fewer.nets.spacetime_layers",
    "ReLoRA": "fewer.nets.relora",
    "RidgeForecaster": "fewer.nets.window_forecaster",
    "S4D": "fewer.nets.diagonal",
    "S4DArchitecture": "fewer.nets.sequence_network",
    "SLTrain": "fewer.nets.sltrain",
    "SeasonalNaive": "fewer.nets.window_forecaster",
    "SpaceTime": "fewer.nets.spacetime_layers",
    "SpaceTimeArchitecture": "fewer.nets.spacetime_network",
    "SpaceTimeClassifier": "fewer.nets.spacetime_network",
    "SpaceTimeForecaster": "fewer.nets.spacetime",
    "SpaceTimeNetwork": "fewer.nets.spacetime_network",
    "SparsePlusLowRank": "fewer.nets.sltrain",
    "TabM": "fewer.nets.tabm",
    "TabMClassifier": "fewer.nets.tabular_estimators",
    "TabMLearner": "fewer.nets.tabm",
    "TabMRegressor": "fewer.nets.tabular_estimators",
    "TransformerArchitecture": "fewer.nets.sequence_network",
    "WindowCascade": "fewer.nets.window_cascade",
    "causal_convolution": "fewer.nets.convolution",
    "companion_kernel": "fewer.nets.companion",
    "convit_base": "fewer.nets.convit",
    "convit_small": "fewer.nets.convit",
    "convit_tiny": "fewer.nets.convit",
    "quantile_bins": "fewer.nets.piecewise_linear",
    "sparse_plus_lowrank_": "fewer.nets.sltrain",
    "step_in_backward": "fewer.nets.per_layer_updates",
    "to_dense_": "fewer.nets.linears",
}

__all__ = [
    "GPSA",
    "S4D",
    "AdamWInBackward",
    "BlockFFT",
    "ClosedLoop",
    "CompanionSSM",
    "ConViT",
    "ConViTArchitecture",
    "DLinear",
    "Dense",
    "EarlyExitCascade",
    "Either",
    "Forecaster",
    "Forecasting",
    "GaLore",
    "H3Conv",
    "LanguageModelling",
    "LayerStack",
    "LearnFromRows",
    "LinearBatchEnsemble",
    "LinearEnsemble",
    "LongConv",
    "LongConvArchitecture",
    "LongConvModel",
    "LongKernel",
    "LowRank",
    "LowRankLinear",
    "NLinear",
    "PiecewiseLinearEmbedding",
    "PiecewiseLinearEncoding",
    "Preprocessing",
    "ReLoRA",
    "RidgeForecaster",
    "S4DArchitecture",
    "SLTrain",
    "SeasonalNaive",
    "SpaceTime",
    "SpaceTimeArchitecture",
    "SpaceTimeClassifier",
    "SpaceTimeForecaster",
    "SpaceTimeNetwork",
    "SparsePlusLowRank",
    "TabM",
    "TabMClassifier",
    "TabMLearner",
    "TabMRegressor",
    "TransformerArchitecture",
    "WindowCascade",
    "causal_convolution",
    "companion_kernel",
    "convit_base",
    "convit_small",
    "convit_tiny",
    "quantile_bins",
    "sparse_plus_lowrank_",
    "step_in_backward",
    "to_dense_",
]

if TYPE_CHECKING:
    from fewer.nets.block_fft import BlockFFT
    from fewer.nets.companion import companion_kernel
    from fewer.nets.convit import GPSA, ConViT, ConViTArchitecture, convit_base, convit_small, convit_tiny
    from fewer.nets.convolution import causal_convolution
    from fewer.nets.diagonal import S4D
    from fewer.nets.direct_forecasts import DLinear, LayerStack, NLinear
    from fewer.nets.early_exit import EarlyExitCascade
    from fewer.nets.ensemble_layers import LinearBatchEnsemble, LinearEnsemble
    from fewer.nets.forecaster import Forecaster
    from fewer.nets.forecasting import Forecasting
    from fewer.nets.galore import GaLore
    from fewer.nets.h3_conv import H3Conv
    from fewer.nets.language import LanguageModelling
    from fewer.nets.linears import Dense, to_dense_
    from fewer.nets.long_conv import LongConv, LongConvArchitecture
    from fewer.nets.long_conv_model import LongConvModel
    from fewer.nets.long_kernel import LongKernel
    from fewer.nets.low_rank import LowRank, LowRankLinear
    from fewer.nets.per_layer_updates import AdamWInBackward, step_in_backward
    from fewer.nets.piecewise_linear import PiecewiseLinearEmbedding, PiecewiseLinearEncoding, quantile_bins
    from fewer.nets.relora import ReLoRA
    from fewer.nets.rows import Either, LearnFromRows
    from fewer.nets.sequence_network import S4DArchitecture, TransformerArchitecture
    from fewer.nets.sltrain import SLTrain, SparsePlusLowRank, sparse_plus_lowrank_
    from fewer.nets.spacetime import SpaceTimeForecaster
    from fewer.nets.spacetime_layers import ClosedLoop, CompanionSSM, Preprocessing, SpaceTime
    from fewer.nets.spacetime_network import SpaceTimeArchitecture, SpaceTimeClassifier, SpaceTimeNetwork
    from fewer.nets.tabm import TabM, TabMLearner
    from fewer.nets.tabular_estimators import TabMClassifier, TabMRegressor
    from fewer.nets.window_cascade import WindowCascade
    from fewer.nets.window_forecaster import RidgeForecaster, SeasonalNaive

__getattr__, __dir__ = lazily(__name__, _HOMES)
