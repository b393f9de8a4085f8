"""Short of training examples: choose, prune, mix and weight the data; the model and its recipe stay fixed.

>>> from fewer.data import SeTa
>>> SeTa(drop=0.1)
SeTa(drop=0.1, groups=5, window=0.6, anneal=0.875, unseen=3.0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewer.core.lazy import lazily

# imported when first asked for: looking around should not wait for torch
_HOMES = {
    "AllRows": "fewer.data.loop",
    "CutMix": "fewer.data.mixing",
    "DecoupledMixup": "fewer.data.decoupled_mixup",
    "DecoupledMixupSigmoid": "fewer.data.decoupled_mixup",
    "DynamicRandom": "fewer.data.subsets",
    "InfoBatch": "fewer.data.infobatch",
    "MixUp": "fewer.data.mixing",
    "Pruner": "fewer.data.pruning",
    "SeTa": "fewer.data.seta",
    "StaticRandom": "fewer.data.subsets",
    "Supervised": "fewer.data.loop",
    "Target": "fewer.data.loop",
}

__all__ = [
    "AllRows",
    "CutMix",
    "DecoupledMixup",
    "DecoupledMixupSigmoid",
    "DynamicRandom",
    "InfoBatch",
    "MixUp",
    "Pruner",
    "SeTa",
    "StaticRandom",
    "Supervised",
    "Target",
]

if TYPE_CHECKING:
    from fewer.data.decoupled_mixup import DecoupledMixup, DecoupledMixupSigmoid
    from fewer.data.infobatch import InfoBatch
    from fewer.data.loop import AllRows, Supervised, Target
    from fewer.data.mixing import CutMix, MixUp
    from fewer.data.pruning import Pruner
    from fewer.data.seta import SeTa
    from fewer.data.subsets import DynamicRandom, StaticRandom


__getattr__, __dir__ = lazily(__name__, _HOMES)
