"""The room for who is short of prompts and rollouts: language models that learn from rewards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewer.core.lazy import lazily

# imported when first asked for: looking around should not wait for torch
_HOMES: dict[str, str] = {
    "AnnealedTemperature": "fewer.rollouts.ead",
    "Balanced": "fewer.rollouts.bapo",
    "ChainSums": "fewer.rollouts.chain_sums",
    "Clipped": "fewer.rollouts.objectives",
    "DPO": "fewer.rollouts.preference",
    "DualDownSampling": "fewer.rollouts.d3s",
    "EfficiencyWhereRight": "fewer.rollouts.grpo_lambda",
    "Experience": "fewer.rollouts.experience",
    "Exploratory": "fewer.rollouts.xpo",
    "GreedyBaseline": "fewer.rollouts.remax",
    "GroupRelative": "fewer.rollouts.advantages",
    "InterleavedCompression": "fewer.rollouts.siri",
    "LIM": "fewer.rollouts.impact_scores",
    "Language": "fewer.rollouts.problems",
    "LearningImpact": "fewer.rollouts.limr",
    "LeaveOneOut": "fewer.rollouts.advantages",
    "PolicyGradient": "fewer.rollouts.objectives",
    "PostTraining": "fewer.rollouts.loop",
    "PreferenceLearning": "fewer.rollouts.preference",
    "Preferences": "fewer.rollouts.preference",
    "Problem": "fewer.rollouts.problems",
    "Problems": "fewer.rollouts.problems",
    "Sampled": "fewer.rollouts.decoding",
    "TrainedPolicy": "fewer.rollouts.policy",
    "BAPO": "fewer.rollouts.bapo",
    "clipped_surrogate": "fewer.rollouts.objectives",
    "D3S": "fewer.rollouts.d3s",
    "decode": "fewer.rollouts.decoding",
    "divergence": "fewer.rollouts.objectives",
    "EAD": "fewer.rollouts.ead",
    "group_relative": "fewer.rollouts.advantages",
    "grpo": "fewer.rollouts.baselines",
    "GRPOLambda": "fewer.rollouts.grpo_lambda",
    "leave_one_out": "fewer.rollouts.advantages",
    "LIMR": "fewer.rollouts.limr",
    "lm": "fewer.rollouts.language_task",
    "ReMax": "fewer.rollouts.remax",
    "rloo": "fewer.rollouts.baselines",
    "sequence_mean": "fewer.rollouts.experience",
    "SIRI": "fewer.rollouts.siri",
    "teacher_forced": "fewer.rollouts.decoding",
    "token_mean": "fewer.rollouts.experience",
    "XPO": "fewer.rollouts.xpo",
}

__all__ = [
    "BAPO",
    "D3S",
    "DPO",
    "EAD",
    "LIM",
    "LIMR",
    "SIRI",
    "XPO",
    "AnnealedTemperature",
    "Balanced",
    "ChainSums",
    "Clipped",
    "DualDownSampling",
    "EfficiencyWhereRight",
    "Experience",
    "Exploratory",
    "GRPOLambda",
    "GreedyBaseline",
    "GroupRelative",
    "InterleavedCompression",
    "Language",
    "LearningImpact",
    "LeaveOneOut",
    "PolicyGradient",
    "PostTraining",
    "PreferenceLearning",
    "Preferences",
    "Problem",
    "Problems",
    "ReMax",
    "Sampled",
    "TrainedPolicy",
    "clipped_surrogate",
    "decode",
    "divergence",
    "group_relative",
    "grpo",
    "leave_one_out",
    "lm",
    "rloo",
    "sequence_mean",
    "teacher_forced",
    "token_mean",
]

if TYPE_CHECKING:
    from fewer.rollouts.advantages import GroupRelative, LeaveOneOut, group_relative, leave_one_out
    from fewer.rollouts.bapo import BAPO, Balanced
    from fewer.rollouts.baselines import grpo, rloo
    from fewer.rollouts.chain_sums import ChainSums
    from fewer.rollouts.d3s import D3S, DualDownSampling
    from fewer.rollouts.decoding import Sampled, decode, teacher_forced
    from fewer.rollouts.ead import EAD, AnnealedTemperature
    from fewer.rollouts.experience import Experience, sequence_mean, token_mean
    from fewer.rollouts.grpo_lambda import EfficiencyWhereRight, GRPOLambda
    from fewer.rollouts.impact_scores import LIM
    from fewer.rollouts.language_task import lm
    from fewer.rollouts.limr import LIMR, LearningImpact
    from fewer.rollouts.loop import PostTraining
    from fewer.rollouts.objectives import Clipped, PolicyGradient, clipped_surrogate, divergence
    from fewer.rollouts.policy import TrainedPolicy
    from fewer.rollouts.preference import DPO, PreferenceLearning, Preferences
    from fewer.rollouts.problems import Language, Problem, Problems
    from fewer.rollouts.remax import GreedyBaseline, ReMax
    from fewer.rollouts.siri import SIRI, InterleavedCompression
    from fewer.rollouts.xpo import XPO, Exploratory

__getattr__, __dir__ = lazily(__name__, _HOMES)
