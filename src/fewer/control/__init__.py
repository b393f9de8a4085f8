"""The room for who is short of environment steps: off-policy control with slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewer.core.lazy import lazily

# imported when first asked for: looking around should not wait for torch
_HOMES: dict[str, str] = {
    "AdaptiveRR": "fewer.control.adaptive_rr",
    "Critics": "fewer.control.critics",
    "Deterministic": "fewer.control.policies",
    "Diffusion": "fewer.control.diffusion_policies",
    "FAUMonitor": "fewer.control.activity",
    "FixedRatio": "fewer.control.loop",
    "FlowMatching": "fewer.control.generative_policies",
    "Gaussian": "fewer.control.policies",
    "GaussianNoise": "fewer.control.loop",
    "Given": "fewer.control.base_policies",
    "GymEnvironment": "fewer.control.environments",
    "LatentNoiseWrapper": "fewer.control.latent_noise",
    "OffPolicy": "fewer.control.loop",
    "PeriodicReset": "fewer.control.plasticity",
    "PlasticityInjection": "fewer.control.plasticity",
    "Replay": "fewer.control.replay",
    "TrainedPolicy": "fewer.control.trained",
    "Uniform": "fewer.control.loop",
    "dsrl_na": "fewer.control.dsrl",
    "dsrl_sac": "fewer.control.dsrl",
    "on_the_fly": "fewer.control.expo",
    "sac": "fewer.control.baselines",
    "td3": "fewer.control.baselines",
}

__all__ = [
    "AdaptiveRR",
    "Critics",
    "Deterministic",
    "Diffusion",
    "FAUMonitor",
    "FixedRatio",
    "FlowMatching",
    "Gaussian",
    "GaussianNoise",
    "Given",
    "GymEnvironment",
    "LatentNoiseWrapper",
    "OffPolicy",
    "PeriodicReset",
    "PlasticityInjection",
    "Replay",
    "TrainedPolicy",
    "Uniform",
    "dsrl_na",
    "dsrl_sac",
    "on_the_fly",
    "sac",
    "td3",
]

if TYPE_CHECKING:
    from fewer.control.activity import FAUMonitor
    from fewer.control.adaptive_rr import AdaptiveRR
    from fewer.control.base_policies import Given
    from fewer.control.baselines import sac, td3
    from fewer.control.critics import Critics
    from fewer.control.diffusion_policies import Diffusion
    from fewer.control.dsrl import dsrl_na, dsrl_sac
    from fewer.control.environments import GymEnvironment
    from fewer.control.expo import on_the_fly
    from fewer.control.generative_policies import FlowMatching
    from fewer.control.latent_noise import LatentNoiseWrapper
    from fewer.control.loop import FixedRatio, GaussianNoise, OffPolicy, Uniform
    from fewer.control.plasticity import PeriodicReset, PlasticityInjection
    from fewer.control.policies import Deterministic, Gaussian
    from fewer.control.replay import Replay
    from fewer.control.trained import TrainedPolicy

__getattr__, __dir__ = lazily(__name__, _HOMES)
