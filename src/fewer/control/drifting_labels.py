"""Digits whose labels are drawn at random at first and become true by and by: a supervised picture of early bootstrapping.

In phase i of T each row has its true label with probability i/T and a new random one otherwise.  The ratio is the number of
updates in a phase, and may rise when the share of active units has settled.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewer.claim import Measures
from fewer.control.activity import FAUMonitor
from fewer.control.policies import mlp
from fewer.control.settling import SettlingSwitch
from fewer.core.loop import own_randomness
from fewer.tasks.classification import Split
from fewer.tasks.mnist import mnist5k


def measure_drift(seed: int, tiny: bool) -> Measures:
    """Learn digits whose labels are drawn at random at first and become true by and by, as early targets of a critic do.

    In phase i of T each row has its true label with probability i/T and a new random one otherwise.  The ratio is the number
    of updates in a phase.
    """
    split = mnist5k(test=1000).split(seed)
    phases, seldom, often = (3, 2, 4) if tiny else (20, 50, 400)
    arms = {
        "low": (SettlingSwitch(seldom, seldom, 1e-9), False),
        "high": (SettlingSwitch(often, often, 1e-9), False),
        "adaptive": (SettlingSwitch(seldom, often, 0.005), False),
        "high, shifted images": (SettlingSwitch(often, often, 1e-9), True),
    }
    return {name: _drift(split, seed, switch, shift, phases) for name, (switch, shift) in arms.items()}


def _drift(split: Split, seed: int, switch: SettlingSwitch, shift: bool, phases: int) -> dict[str, float]:
    x, y = torch.from_numpy(split.x), torch.from_numpy(split.y)
    padded, side = functional.pad(x, (2, 2, 2, 2)), x.shape[-1]
    updates = 0
    with own_randomness(seed, "drift"):
        network = nn.Sequential(*mlp(x[0].numel(), (128, 128), 10))
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
        monitor = FAUMonitor(network)
        for phase in range(1, phases + 1):
            labels = torch.where(torch.rand(len(y)) < phase / phases, y, torch.randint(10, (len(y),)))
            monitor.reset()
            for _ in range(int(switch.ratio)):
                rows, down, right = torch.randint(len(y), (256,)), 2, 2
                if shift:
                    down, right = torch.randint(5, (2,)).tolist()
                images = padded[rows, :, down : down + side, right : right + side]
                with monitor:
                    predicted = network(images.flatten(1))
                optimiser.zero_grad()
                functional.cross_entropy(predicted, labels[rows]).backward()
                optimiser.step()
                updates += 1
                if switch.last is None:
                    switch.observe(monitor.average())
            switch.observe(monitor.average())
        with torch.inference_mode():
            test = network(torch.from_numpy(split.test_x).flatten(1)).argmax(1) == torch.from_numpy(split.test_y)
        # what is still learned of labels that mean nothing
        left = _left_of_new_labels(network, x.flatten(1), torch.randint(10, (len(y),)), 3 if phases < 10 else 300)
    return {
        "active units": monitor.average(),
        "accuracy": float(test.float().mean()),
        "updates": updates,
        "error left on new labels": left,
    }


def _left_of_new_labels(network: nn.Module, x: Tensor, labels: Tensor, steps: int) -> float:
    """Cross-entropy after some steps of Adam."""
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    for _ in range(steps):
        rows = torch.randint(len(x), (256,))
        optimiser.zero_grad()
        functional.cross_entropy(network(x[rows]), labels[rows]).backward()
        optimiser.step()
    with torch.inference_mode():
        return float(functional.cross_entropy(network(x), labels))
