"""The room for who cannot change weights: networks that learn a new task from the prompt alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewer.core.lazy import lazily

# imported when first asked for: looking around should not wait for torch
_HOMES: dict[str, str] = {
    "Around": "fewer.incontext.networks",
    "Bandit": "fewer.incontext.bandits",
    "BarDistribution": "fewer.incontext.bar_distribution",
    "Boolean": "fewer.incontext.function_families",
    "CurvePrior": "fewer.incontext.curve_prior",
    "DarkRoom": "fewer.incontext.dark_room",
    "DecisionPretrained": "fewer.incontext.dpt",
    "Family": "fewer.incontext.loop",
    "FrozenLanguageModel": "fewer.incontext.language_models",
    "GRU": "fewer.incontext.networks",
    "GeneratedFunctions": "fewer.incontext.function_families",
    "Hyena": "fewer.incontext.long_filters",
    "InContextLearner": "fewer.incontext.boolean_icl",
    "LSTM": "fewer.incontext.networks",
    "LearnToLearn": "fewer.incontext.loop",
    "LearningCurveExtrapolator": "fewer.incontext.extrapolation",
    "LearningCurves": "fewer.incontext.lc_pfn",
    "LinearBandit": "fewer.incontext.bandits",
    "PriorFitted": "fewer.incontext.prior_fitted_network",
    "PromptedLanguageModel": "fewer.incontext.language_models",
    "Prompts": "fewer.incontext.loop",
    "Recorded": "fewer.incontext.interactions",
    "RecordedFunctions": "fewer.incontext.function_families",
    "RetNet": "fewer.incontext.retention",
    "ScoreRange": "fewer.incontext.extrapolation",
    "StateSpace": "fewer.incontext.long_filters",
    "StopHopeless": "fewer.incontext.extrapolation",
    "Transformer": "fewer.incontext.networks",
}

__all__ = [
    "GRU",
    "LSTM",
    "Around",
    "Bandit",
    "BarDistribution",
    "Boolean",
    "CurvePrior",
    "DarkRoom",
    "DecisionPretrained",
    "Family",
    "FrozenLanguageModel",
    "GeneratedFunctions",
    "Hyena",
    "InContextLearner",
    "LearnToLearn",
    "LearningCurveExtrapolator",
    "LearningCurves",
    "LinearBandit",
    "PriorFitted",
    "PromptedLanguageModel",
    "Prompts",
    "Recorded",
    "RecordedFunctions",
    "RetNet",
    "ScoreRange",
    "StateSpace",
    "StopHopeless",
    "Transformer",
]

if TYPE_CHECKING:
    from fewer.incontext.bandits import Bandit, LinearBandit
    from fewer.incontext.bar_distribution import BarDistribution
    from fewer.incontext.boolean_icl import InContextLearner
    from fewer.incontext.curve_prior import CurvePrior
    from fewer.incontext.dark_room import DarkRoom
    from fewer.incontext.dpt import DecisionPretrained
    from fewer.incontext.extrapolation import LearningCurveExtrapolator, ScoreRange, StopHopeless
    from fewer.incontext.function_families import Boolean, GeneratedFunctions, RecordedFunctions
    from fewer.incontext.interactions import Recorded
    from fewer.incontext.language_models import FrozenLanguageModel, PromptedLanguageModel
    from fewer.incontext.lc_pfn import LearningCurves
    from fewer.incontext.long_filters import Hyena, StateSpace
    from fewer.incontext.loop import Family, LearnToLearn, Prompts
    from fewer.incontext.networks import GRU, LSTM, Around, Transformer
    from fewer.incontext.prior_fitted_network import PriorFitted
    from fewer.incontext.retention import RetNet

__getattr__, __dir__ = lazily(__name__, _HOMES)
