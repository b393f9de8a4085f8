"""The room for who is short of episodes: agents that explore finite worlds, with proofs of what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewer.core.lazy import lazily

# imported when first asked for: looking around should not wait for numpy and torch
_HOMES: dict[str, str] = {
    "CascadeRecommender": "fewer.explore.click_log",
    "CascadingMDP": "fewer.explore.recommending",
    "CascadingVI": "fewer.explore.cascading",
    "CertaintyEquivalence": "fewer.explore.greedy_agents",
    "Exploration": "fewer.explore.loop",
    "FiniteMDP": "fewer.explore.worlds",
    "PSRL": "fewer.explore.psrl",
    "QLearning": "fewer.explore.greedy_agents",
    "Recommendation": "fewer.explore.recommending",
    "UCBVI": "fewer.explore.ucbvi",
    "best_list": "fewer.explore.ordered_lists",
}

__all__ = [
    "PSRL",
    "UCBVI",
    "CascadeRecommender",
    "CascadingMDP",
    "CascadingVI",
    "CertaintyEquivalence",
    "Exploration",
    "FiniteMDP",
    "QLearning",
    "Recommendation",
    "best_list",
]

if TYPE_CHECKING:
    from fewer.explore.cascading import CascadingVI
    from fewer.explore.click_log import CascadeRecommender
    from fewer.explore.greedy_agents import CertaintyEquivalence, QLearning
    from fewer.explore.loop import Exploration
    from fewer.explore.ordered_lists import best_list
    from fewer.explore.psrl import PSRL
    from fewer.explore.recommending import CascadingMDP, Recommendation
    from fewer.explore.ucbvi import UCBVI
    from fewer.explore.worlds import FiniteMDP

__getattr__, __dir__ = lazily(__name__, _HOMES)
