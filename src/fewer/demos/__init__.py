"""The room for who is short of demonstrations: which are good, how to imitate them, and what to make of what was imitated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewer.core.lazy import lazily

# imported when first asked for: looking around should not wait for numpy and torch
_HOMES: dict[str, str] = {
    "BehaviourCloning": "fewer.demos.behaviour_cloning",
    "CausalTransformer": "fewer.demos.chunk_critics",
    "ChunkCloning": "fewer.demos.chunk_cloning",
    "ChunkPolicy": "fewer.demos.chunk_policies",
    "ChunkedImprovement": "fewer.demos.chunked_offline_rl",
    "ChunkedOfflineRL": "fewer.demos.chunked_offline_rl",
    "Demonstrations": "fewer.demos.demonstrations",
    "DiffusionCloning": "fewer.demos.diffusion_policy",
    "DiffusionPolicy": "fewer.demos.diffusion_policy",
    "Gate2D": "fewer.demos.gate_world",
    "GymPlay": "fewer.demos.gym_worlds",
    "Imitation": "fewer.demos.loop",
    "KeepConsistent": "fewer.demos.quality",
    "LearnedSearch": "fewer.demos.learned_search",
    "Obstacle": "fewer.demos.point_worlds",
    "PrefixMLP": "fewer.demos.chunk_critics",
    "QualityReport": "fewer.demos.report",
    "Sailor": "fewer.demos.search_agent",
    "Slot": "fewer.demos.slot_world",
    "TwoGates": "fewer.demos.point_worlds",
    "co_rft": "fewer.demos.chunked_offline_rl",
    "collect": "fewer.demos.rollouts",
    "load": "fewer.demos.files",
    "quality_report": "fewer.demos.quality",
    "rollout": "fewer.demos.rollouts",
    "sailor": "fewer.demos.sailor",
    "write_npz": "fewer.demos.files",
}

__all__ = [
    "BehaviourCloning",
    "CausalTransformer",
    "ChunkCloning",
    "ChunkPolicy",
    "ChunkedImprovement",
    "ChunkedOfflineRL",
    "Demonstrations",
    "DiffusionCloning",
    "DiffusionPolicy",
    "Gate2D",
    "GymPlay",
    "Imitation",
    "KeepConsistent",
    "LearnedSearch",
    "Obstacle",
    "PrefixMLP",
    "QualityReport",
    "Sailor",
    "Slot",
    "TwoGates",
    "co_rft",
    "collect",
    "load",
    "quality_report",
    "rollout",
    "sailor",
    "write_npz",
]

if TYPE_CHECKING:
    from fewer.demos.behaviour_cloning import BehaviourCloning
    from fewer.demos.chunk_cloning import ChunkCloning
    from fewer.demos.chunk_critics import CausalTransformer, PrefixMLP
    from fewer.demos.chunk_policies import ChunkPolicy
    from fewer.demos.chunked_offline_rl import ChunkedImprovement, ChunkedOfflineRL, co_rft
    from fewer.demos.demonstrations import Demonstrations
    from fewer.demos.diffusion_policy import DiffusionCloning, DiffusionPolicy
    from fewer.demos.files import load, write_npz
    from fewer.demos.gate_world import Gate2D
    from fewer.demos.gym_worlds import GymPlay
    from fewer.demos.learned_search import LearnedSearch
    from fewer.demos.loop import Imitation
    from fewer.demos.point_worlds import Obstacle, TwoGates
    from fewer.demos.quality import KeepConsistent, quality_report
    from fewer.demos.report import QualityReport
    from fewer.demos.rollouts import collect, rollout
    from fewer.demos.sailor import sailor
    from fewer.demos.search_agent import Sailor
    from fewer.demos.slot_world import Slot

__getattr__, __dir__ = lazily(__name__, _HOMES)
