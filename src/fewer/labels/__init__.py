"""Short of labels: a budget of labels is spent round by round on the rows that teach the most.

>>> from fewer.labels import HAST
>>> HAST(beta=0.2).k
15
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewer.core.lazy import lazily

# imported when first asked for: looking around should not wait for torch
_HOMES = {
    "AcTune": "fewer.labels.self_training",
    "ActiveKD": "fewer.labels.distillation",
    "ActiveLearning": "fewer.labels.loop",
    "BADGE": "fewer.labels.queries",
    "ClassBalanced": "fewer.labels.queries",
    "DMixMatch": "fewer.labels.dmixmatch",
    "Entropy": "fewer.labels.queries",
    "FixMatch": "fewer.labels.fixmatch",
    "HAST": "fewer.labels.hast",
    "KCentre": "fewer.labels.queries",
    "LabelBudget": "fewer.labels.label_budget",
    "LeastConfidence": "fewer.labels.queries",
    "LinearFirst": "fewer.labels.linear_first",
    "Logistic": "fewer.labels.learners",
    "Margin": "fewer.labels.queries",
    "NEST": "fewer.labels.self_training",
    "Network": "fewer.labels.learners",
    "PCoreSet": "fewer.labels.pcoreset",
    "Random": "fewer.labels.queries",
    "SetFit": "fewer.labels.setfit",
    "SimpleLinear": "fewer.labels.linear_first",
    "Threshold": "fewer.labels.self_training",
    "UST": "fewer.labels.self_training",
    "VERIPS": "fewer.labels.self_training",
    "k_centre_greedy": "fewer.labels.k_centre",
}

__all__ = [
    "BADGE",
    "HAST",
    "NEST",
    "UST",
    "VERIPS",
    "AcTune",
    "ActiveKD",
    "ActiveLearning",
    "ClassBalanced",
    "DMixMatch",
    "Entropy",
    "FixMatch",
    "KCentre",
    "LabelBudget",
    "LeastConfidence",
    "LinearFirst",
    "Logistic",
    "Margin",
    "Network",
    "PCoreSet",
    "Random",
    "SetFit",
    "SimpleLinear",
    "Threshold",
    "k_centre_greedy",
]

if TYPE_CHECKING:
    from fewer.labels.distillation import ActiveKD
    from fewer.labels.dmixmatch import DMixMatch
    from fewer.labels.fixmatch import FixMatch
    from fewer.labels.hast import HAST
    from fewer.labels.k_centre import k_centre_greedy
    from fewer.labels.label_budget import LabelBudget
    from fewer.labels.learners import Logistic, Network
    from fewer.labels.linear_first import LinearFirst, SimpleLinear
    from fewer.labels.loop import ActiveLearning
    from fewer.labels.pcoreset import PCoreSet
    from fewer.labels.queries import BADGE, ClassBalanced, Entropy, KCentre, LeastConfidence, Margin, Random
    from fewer.labels.self_training import NEST, UST, VERIPS, AcTune, Threshold
    from fewer.labels.setfit import SetFit


__getattr__, __dir__ = lazily(__name__, _HOMES)
