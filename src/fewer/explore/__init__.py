"""The room for who is short of episodes: agents that explore finite worlds, with proofs of what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewer.core.lazy import lazily

# imported when first asked for: looking around should not wait for numpy and torch
_HOMES: dict[str, str] = {
    "ActionGrouping": "fewer.explore.groupings",
    "BoundedGrouping": "fewer.explore.action_grouping",
    "CascadeRecommender": "fewer.explore.click_log",
    "CascadingMDP": "fewer.explore.recommending",
    "CascadingVI": "fewer.explore.cascading",
    "CertaintyEquivalence": "fewer.explore.greedy_agents",
    "DiscountedMDP": "fewer.explore.sampled_worlds",
    "Exploration": "fewer.explore.loop",
    "FiniteMDP": "fewer.explore.worlds",
    "GenerativeLearning": "fewer.explore.generative",
    "GroupedActions": "fewer.explore.grouped_actions",
    "PSRL": "fewer.explore.psrl",
    "QLearning": "fewer.explore.greedy_agents",
    "Recommendation": "fewer.explore.recommending",
    "SampledWorld": "fewer.explore.sampled_worlds",
    "UCBVI": "fewer.explore.ucbvi",
    "best_list": "fewer.explore.ordered_lists",
    "select_grouping": "fewer.explore.action_grouping",
}

__all__ = [
    "PSRL",
    "UCBVI",
    "ActionGrouping",
    "BoundedGrouping",
    "CascadeRecommender",
    "CascadingMDP",
    "CascadingVI",
    "CertaintyEquivalence",
    "DiscountedMDP",
    "Exploration",
    "FiniteMDP",
    "GenerativeLearning",
    "GroupedActions",
    "QLearning",
    "Recommendation",
    "SampledWorld",
    "best_list",
    "select_grouping",
]

if TYPE_CHECKING:
    from fewer.explore.action_grouping import BoundedGrouping, select_grouping
    from fewer.explore.cascading import CascadingVI
    from fewer.explore.click_log import CascadeRecommender
    from fewer.explore.generative import GenerativeLearning
    from fewer.explore.greedy_agents import CertaintyEquivalence, QLearning
    from fewer.explore.grouped_actions import GroupedActions
    from fewer.explore.groupings import ActionGrouping
    from fewer.explore.loop import Exploration
    from fewer.explore.ordered_lists import best_list
    from fewer.explore.psrl import PSRL
    from fewer.explore.recommending import CascadingMDP, Recommendation
    from fewer.explore.sampled_worlds import DiscountedMDP, SampledWorld
    from fewer.explore.ucbvi import UCBVI
    from fewer.explore.worlds import FiniteMDP

__getattr__, __dir__ = lazily(__name__, _HOMES)
