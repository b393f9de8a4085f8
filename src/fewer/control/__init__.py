"""The room for who is short of environment steps: off-policy control with slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewer.core.lazy import lazily

# imported when first asked for: looking around should not wait for torch
_HOMES: dict[str, str] = {
    "AdaptiveRR": "fewer.control.adaptive_rr",
    "Agent": "fewer.control.agent",
    "BehaviourRegularised": "fewer.control.behaviour_regularised",
    "CalQL": "fewer.control.cal_ql",
    "Conservative": "fewer.control.cal_ql",
    "Critics": "fewer.control.critics",
    "Deterministic": "fewer.control.policies",
    "Diffusion": "fewer.control.diffusion_policies",
    "FAUMonitor": "fewer.control.activity",
    "FixedRatio": "fewer.control.loop",
    "FlowMatching": "fewer.control.generative_policies",
    "ForwardBackward": "fewer.control.forward_backward",
    "Gaussian": "fewer.control.policies",
    "GaussianNoise": "fewer.control.loop",
    "Given": "fewer.control.base_policies",
    "GymEnvironment": "fewer.control.environments",
    "LatentNoiseWrapper": "fewer.control.latent_noise",
    "MeanFlow": "fewer.control.mean_flow",
    "OFQL": "fewer.control.ofql_agent",
    "OffPolicy": "fewer.control.loop",
    "Offline": "fewer.control.offline",
    "PeriodicReset": "fewer.control.plasticity",
    "PlasticityInjection": "fewer.control.plasticity",
    "Replay": "fewer.control.replay",
    "RewardClassifier": "fewer.control.reward_classifiers",
    "SERL": "fewer.control.serl",
    "TrainedPolicy": "fewer.control.trained",
    "Uniform": "fewer.control.loop",
    "VICE": "fewer.control.vice",
    "dsrl_na": "fewer.control.dsrl",
    "dsrl_sac": "fewer.control.dsrl",
    "finetune_noretain": "fewer.control.wsrl",
    "finetune_retain": "fewer.control.wsrl",
    "on_the_fly": "fewer.control.expo",
    "one_step_flow": "fewer.control.ofql",
    "sac": "fewer.control.baselines",
    "td3": "fewer.control.baselines",
    "warm_start": "fewer.control.wsrl",
}

__all__ = [
    "OFQL",
    "SERL",
    "VICE",
    "AdaptiveRR",
    "Agent",
    "BehaviourRegularised",
    "CalQL",
    "Conservative",
    "Critics",
    "Deterministic",
    "Diffusion",
    "FAUMonitor",
    "FixedRatio",
    "FlowMatching",
    "ForwardBackward",
    "Gaussian",
    "GaussianNoise",
    "Given",
    "GymEnvironment",
    "LatentNoiseWrapper",
    "MeanFlow",
    "OffPolicy",
    "Offline",
    "PeriodicReset",
    "PlasticityInjection",
    "Replay",
    "RewardClassifier",
    "TrainedPolicy",
    "Uniform",
    "dsrl_na",
    "dsrl_sac",
    "finetune_noretain",
    "finetune_retain",
    "on_the_fly",
    "one_step_flow",
    "sac",
    "td3",
    "warm_start",
]

if TYPE_CHECKING:
    from fewer.control.activity import FAUMonitor
    from fewer.control.adaptive_rr import AdaptiveRR
    from fewer.control.agent import Agent
    from fewer.control.base_policies import Given
    from fewer.control.baselines import sac, td3
    from fewer.control.behaviour_regularised import BehaviourRegularised
    from fewer.control.cal_ql import CalQL, Conservative
    from fewer.control.critics import Critics
    from fewer.control.diffusion_policies import Diffusion
    from fewer.control.dsrl import dsrl_na, dsrl_sac
    from fewer.control.environments import GymEnvironment
    from fewer.control.expo import on_the_fly
    from fewer.control.forward_backward import ForwardBackward
    from fewer.control.generative_policies import FlowMatching
    from fewer.control.latent_noise import LatentNoiseWrapper
    from fewer.control.loop import FixedRatio, GaussianNoise, OffPolicy, Uniform
    from fewer.control.mean_flow import MeanFlow
    from fewer.control.offline import Offline
    from fewer.control.ofql import one_step_flow
    from fewer.control.ofql_agent import OFQL
    from fewer.control.plasticity import PeriodicReset, PlasticityInjection
    from fewer.control.policies import Deterministic, Gaussian
    from fewer.control.replay import Replay
    from fewer.control.reward_classifiers import RewardClassifier
    from fewer.control.serl import SERL
    from fewer.control.trained import TrainedPolicy
    from fewer.control.vice import VICE
    from fewer.control.wsrl import finetune_noretain, finetune_retain, warm_start

__getattr__, __dir__ = lazily(__name__, _HOMES)
