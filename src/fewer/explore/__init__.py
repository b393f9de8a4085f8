"""The room for who is short of episodes: agents that explore finite worlds, with proofs of what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewer.core.lazy import lazily

# imported when first asked for: looking around should not wait for numpy and torch
_HOMES: dict[str, str] = {
    "ActionGrouping": "fewer.explore.groupings",
    "AverageReward": "fewer.explore.average_reward",
    "BoundedGrouping": "fewer.explore.action_grouping",
    "CascadeRecommender": "fewer.explore.click_log",
    "CascadingMDP": "fewer.explore.recommending",
    "CascadingVI": "fewer.explore.cascading",
    "CertaintyEquivalence": "fewer.explore.greedy_agents",
    "Cloning": "fewer.explore.cloning",
    "ContrastiveFeatures": "fewer.explore.contrastive_features",
    "ContrastiveUCB": "fewer.explore.contrastive_ucb",
    "CountingRounds": "fewer.explore.contrastive_ucb",
    "DemoRegularized": "fewer.explore.demo_regularized",
    "DiscountedMDP": "fewer.explore.sampled_worlds",
    "EllipticBonus": "fewer.explore.elliptic",
    "EndlessAgent": "fewer.explore.driven",
    "EndlessMDP": "fewer.explore.endless_worlds",
    "EpisodicAgent": "fewer.explore.driven",
    "Exploration": "fewer.explore.loop",
    "FiniteMDP": "fewer.explore.worlds",
    "GenerativeLearning": "fewer.explore.generative",
    "GroupedActions": "fewer.explore.grouped_actions",
    "Hypotheses": "fewer.explore.hypotheses",
    "KLToPrior": "fewer.explore.kl_to_prior",
    "LOOP": "fewer.explore.local_fitted_optimism",
    "LSVIUCB": "fewer.explore.least_squares",
    "LinearDemoRegularized": "fewer.explore.linear_demo_regularized",
    "LinearLOOP": "fewer.explore.linear_optimism",
    "LinearMEX": "fewer.explore.linear_mex",
    "MEX": "fewer.explore.mex",
    "MarkovGame": "fewer.explore.markov_games",
    "MixtureLOOP": "fewer.explore.linear_optimism",
    "OptimisticCriticTerm": "fewer.explore.deep_mex",
    "OptimisticModelTerm": "fewer.explore.deep_mex",
    "PSRL": "fewer.explore.psrl",
    "QLearning": "fewer.explore.greedy_agents",
    "Recommendation": "fewer.explore.recommending",
    "ReplayBonus": "fewer.explore.elliptic",
    "SampledWorld": "fewer.explore.sampled_worlds",
    "TaughtRewards": "fewer.explore.preferences",
    "Trajectories": "fewer.explore.trajectories",
    "UCBVI": "fewer.explore.ucbvi",
    "UCRL2": "fewer.explore.ucrl2",
    "best_list": "fewer.explore.ordered_lists",
    "mex_loss": "fewer.explore.deep_mex",
    "select_grouping": "fewer.explore.action_grouping",
}

__all__ = [
    "LOOP",
    "LSVIUCB",
    "MEX",
    "PSRL",
    "UCBVI",
    "UCRL2",
    "ActionGrouping",
    "AverageReward",
    "BoundedGrouping",
    "CascadeRecommender",
    "CascadingMDP",
    "CascadingVI",
    "CertaintyEquivalence",
    "Cloning",
    "ContrastiveFeatures",
    "ContrastiveUCB",
    "CountingRounds",
    "DemoRegularized",
    "DiscountedMDP",
    "EllipticBonus",
    "EndlessAgent",
    "EndlessMDP",
    "EpisodicAgent",
    "Exploration",
    "FiniteMDP",
    "GenerativeLearning",
    "GroupedActions",
    "Hypotheses",
    "KLToPrior",
    "LinearDemoRegularized",
    "LinearLOOP",
    "LinearMEX",
    "MarkovGame",
    "MixtureLOOP",
    "OptimisticCriticTerm",
    "OptimisticModelTerm",
    "QLearning",
    "Recommendation",
    "ReplayBonus",
    "SampledWorld",
    "TaughtRewards",
    "Trajectories",
    "best_list",
    "mex_loss",
    "select_grouping",
]

if TYPE_CHECKING:
    from fewer.explore.action_grouping import BoundedGrouping, select_grouping
    from fewer.explore.average_reward import AverageReward
    from fewer.explore.cascading import CascadingVI
    from fewer.explore.click_log import CascadeRecommender
    from fewer.explore.cloning import Cloning
    from fewer.explore.contrastive_features import ContrastiveFeatures
    from fewer.explore.contrastive_ucb import ContrastiveUCB, CountingRounds
    from fewer.explore.deep_mex import OptimisticCriticTerm, OptimisticModelTerm, mex_loss
    from fewer.explore.demo_regularized import DemoRegularized
    from fewer.explore.driven import EndlessAgent, EpisodicAgent
    from fewer.explore.elliptic import EllipticBonus, ReplayBonus
    from fewer.explore.endless_worlds import EndlessMDP
    from fewer.explore.generative import GenerativeLearning
    from fewer.explore.greedy_agents import CertaintyEquivalence, QLearning
    from fewer.explore.grouped_actions import GroupedActions
    from fewer.explore.groupings import ActionGrouping
    from fewer.explore.hypotheses import Hypotheses
    from fewer.explore.kl_to_prior import KLToPrior
    from fewer.explore.least_squares import LSVIUCB
    from fewer.explore.linear_demo_regularized import LinearDemoRegularized
    from fewer.explore.linear_mex import LinearMEX
    from fewer.explore.linear_optimism import LinearLOOP, MixtureLOOP
    from fewer.explore.local_fitted_optimism import LOOP
    from fewer.explore.loop import Exploration
    from fewer.explore.markov_games import MarkovGame
    from fewer.explore.mex import MEX
    from fewer.explore.ordered_lists import best_list
    from fewer.explore.preferences import TaughtRewards
    from fewer.explore.psrl import PSRL
    from fewer.explore.recommending import CascadingMDP, Recommendation
    from fewer.explore.sampled_worlds import DiscountedMDP, SampledWorld
    from fewer.explore.trajectories import Trajectories
    from fewer.explore.ucbvi import UCBVI
    from fewer.explore.ucrl2 import UCRL2
    from fewer.explore.worlds import FiniteMDP

__getattr__, __dir__ = lazily(__name__, _HOMES)
