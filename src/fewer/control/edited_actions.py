"""The policy of EXPO (see fewer.control.expo): the best of what a base policy proposes and of small edits to it."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from fewer.control.critics import Critics, QEnsemble
from fewer.control.diffusion_policies import Diffusion
from fewer.control.generative_policies import GenerativePolicy, Generator
from fewer.control.policies import Actions, Actor, Gaussian, Observations, Value, step
from fewer.control.replay import Batch
from fewer.core.errors import FewerError
from fewer.models.moving_average import follow

Candidates = Float[Tensor, "candidates batch actions"]

DECAY = 1e-4
"""Weight decay of the base policy."""


@dataclass(frozen=True)
class OnTheFly:
    """The policy that chooses among a base policy's actions and edits of them.

    Parameters
    ----------
    base : GenerativePolicy, default Diffusion()
        What proposes; one that is given as a black box is used as it is.
    n_base, n_edit : int, default 8 and 8
        Actions proposed, and how many of them are edited too.
    edit_scale : float, default 0.05
        The most that an edit changes a number of an action, whose range is [-1, 1]: little where precision is needed, 0.5 and
        more where what was shown is narrow.
    keep_base : bool, default True
        Choose among unedited actions, too.
    hidden : tuple of int, default (256, 256, 256)
        Widths of the edit policy.
    critic : Critics, default ten of which two are the judges at a time
        As in the loop's slot; slow copies choose, and are saved with the policy.
    lr : float, default 3e-4
        Of Adam, for the base and the edit policy; it falls by a cosine.
    falls_over : int, default 3,000,000
        Steps in which it falls to nothing.
    temperature : float, default 1
        What a nat of the edit's entropy is worth at the start; it is learned.
    target_entropy : float, optional
        Which entropy of the scaled edit the temperature aims at; by default minus half the number of actions.  That is out of
        reach for an edit scale below 0.3: then the temperature goes on rising, and edits become uniform.
    dropout : float, default 0
        In the edit policy, while it learns.
    average : float, default 0.001
        Share of the way that the base policy for acting moves at a time.
    delay : int, default 20
        Steps of the critic for each step of both policies.
    """

    base: GenerativePolicy = field(default_factory=Diffusion)
    n_base: int = 8
    n_edit: int = 8
    edit_scale: float = 0.05
    keep_base: bool = True
    hidden: tuple[int, ...] = (256, 256, 256)
    critic: Critics = field(default_factory=lambda: Critics(10, 2, (256, 256, 256), layer_norm=True))
    lr: float = 3e-4
    falls_over: int = 3_000_000
    temperature: float = 1.0
    target_entropy: float | None = None
    dropout: float = 0.0
    average: float = 0.001
    delay: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.edit_scale < math.inf:
            raise FewerError(f"expo: edit_scale is {self.edit_scale}; give a positive one, such as 0.05")
        if self.n_base < 1 or not 0 <= self.n_edit <= self.n_base:
            raise FewerError(
                f"expo: {self.n_edit} of {self.n_base} proposed actions cannot be edited; give n_base of 1 or more and "
                "n_edit of at most as many"
            )
        if not (self.keep_base or self.n_edit):
            raise FewerError("expo: without edits and without unedited actions there is nothing to choose from")
        if not (0 <= self.dropout < 1 and 0 < self.average <= 1 and self.falls_over > 0):
            raise FewerError(
                f"expo: dropout lies in [0, 1), average in (0, 1] and falls_over is positive; given {self}"
            )
        self.editing(1)

    def editing(self, actions: int) -> Gaussian:
        """The edit policy."""
        wanted = -actions / 2 if self.target_entropy is None else self.target_entropy
        return Gaussian(self.hidden, self.lr, self.temperature, wanted, delay=self.delay)

    def build(self, observations: int, actions: int) -> OnTheFlyActor:
        """Make it."""
        return OnTheFlyActor(observations, actions, self)


class OnTheFlyActor(Actor):
    """What :class:`OnTheFly` builds.

    Examples
    --------
    >>> from fewer.control.generative_policies import FlowMatching
    >>> actor = OnTheFly(FlowMatching((16,), 2), n_base=3, n_edit=2, hidden=(16,)).build(4, 2)
    >>> actor.candidates(torch.zeros(5, 4), actor.average).shape
    torch.Size([5, 5, 2])
    """

    improvements: Tensor

    def __init__(self, observations: int, actions: int, settings: OnTheFly) -> None:
        super().__init__()
        self.settings, self.delay, self.actions = settings, settings.delay, actions
        self.base: Generator = settings.base.build(observations, actions)
        trainable = next(self.base.parameters(), None) is not None
        self.average = copy.deepcopy(self.base).requires_grad_(False) if trainable else self.base
        self.edit = settings.editing(actions).build(observations + actions, actions)
        if settings.dropout:
            self.edit.net = _with_dropout(self.edit.net, settings.dropout).eval()
        self.register_buffer("improvements", torch.zeros((), dtype=torch.int64))
        self.judges = settings.critic.build(observations, actions).requires_grad_(False)
        self._share = torch.zeros(())
        self.train_what_requires_it()

    def train_what_requires_it(self) -> None:
        """Begin the optimiser anew: one of both policies and the temperature."""
        lr = self.settings.lr
        self._of_base = [each for each in self.base.parameters() if each.requires_grad]
        self._of_edit = [each for each in self.edit.net.parameters() if each.requires_grad]
        temperature = [self.edit.log_temperature] if self.settings.n_edit else []
        groups = [
            {"params": self._of_base, "weight_decay": DECAY},
            {"params": self._of_edit if self.settings.n_edit else [], "weight_decay": 0.0},
            {"params": temperature, "weight_decay": 0.0},
        ]
        self._learned = [parameter for group in groups for parameter in group["params"]]
        # a black box without edits has nothing to learn, and a run saves some optimiser of every policy
        groups = [group for group in groups if group["params"]] or [{"params": [torch.zeros((), requires_grad=True)]}]
        self.optimiser = torch.optim.AdamW(groups, lr=lr, fused=True)

    def attach(self, critic: QEnsemble, slow: QEnsemble) -> None:
        """Take hold of the slow critics, which choose."""
        self.judges = slow

    def take_base(self, trained: Generator) -> None:
        """Begin with these weights."""
        self.base.load_state_dict(trained.state_dict())
        self.average.load_state_dict(trained.state_dict())

    def candidates(self, observations: Observations, base: Generator) -> Candidates:
        """Actions that this base proposes, then edits of the first of them."""
        settings, rows = self.settings, len(observations)
        seen = observations.repeat(settings.n_base, 1)
        proposed = base.draw(seen, torch.randn(len(seen), self.actions))
        made = [proposed] if settings.keep_base else []
        if settings.n_edit:
            first = settings.n_edit * rows
            edits, _ = self.edit.sample(torch.cat([seen[:first], proposed[:first]], dim=-1))
            made.append((proposed[:first] + settings.edit_scale * edits).clamp(-1, 1))
        return torch.cat(made).reshape(-1, rows, self.actions)

    def judge(self, observations: Observations, candidates: Candidates) -> Float[Tensor, "candidates batch"]:
        """The least value of each candidate by a random subset of the slow critics."""
        slow, count, subset = self.judges, len(candidates), self.settings.critic.subset
        weights: dict[str, Tensor] = dict(slow.named_parameters())
        members = len(next(iter(weights.values())))
        if subset is not None and subset < members:
            chosen = torch.randperm(members)[:subset]
            # only those are computed
            weights = {name: value[chosen] for name, value in weights.items()}
        values = functional_call(slow, weights, (observations.repeat(count, 1), candidates.flatten(0, 1)))
        return values.amin(0).reshape(count, -1)

    def choose(self, observations: Observations, base: Generator) -> Actions:
        """The best candidate, the first of equals."""
        candidates = self.candidates(observations, base)
        if len(candidates) == 1:
            return candidates[0]
        best = self.judge(observations, candidates).argmax(0)
        unedited = self.settings.n_base if self.settings.keep_base else 0
        self._share = (best >= unedited).to(candidates.dtype).mean()
        return candidates.gather(0, best[None, :, None].expand(1, -1, self.actions))[0]

    def act(self, observations: Observations, deterministic: bool = False) -> Actions:
        """The best of what is proposed; candidates are always drawn."""
        return self.choose(observations, self.average)

    def propose(self, observations: Observations, count: int) -> Float[Tensor, "count batch actions"]:
        """Candidates, among which nobody has chosen yet."""
        made: list[Tensor] = []
        while sum(map(len, made)) < count:
            made.append(self.candidates(observations, self.average))
        return torch.cat(made)[:count]

    def successor(self, observations: Observations) -> tuple[Actions, float]:
        """The best of what the newest base policy proposes; surprise costs nothing."""
        return self.choose(observations, self.base), 0.0

    def improve(self, batch: Batch, value: Value) -> dict[str, Tensor]:
        """The base policy towards all actions in the batch, the edit policy from them towards more value."""
        if not self._learned:
            return {}
        settings, loss, report = self.settings, torch.zeros(()), {"edits_chosen": self._share}
        if self._of_base:
            imitation = self.base.imitation_loss(batch.observations, batch.actions).mean()
            loss, report["imitation_loss"] = loss + imitation, imitation.detach()
        if settings.n_edit:
            self.edit.net.train()
            edits, density = self.edit.sample(torch.cat([batch.observations, batch.actions], dim=-1))
            self.edit.net.eval()
            density = density - self.actions * math.log(settings.edit_scale)
            edited = (batch.actions + settings.edit_scale * edits).clamp(-1, 1)
            temperature = self.edit.log_temperature.exp().detach()
            entropy = -density.detach().mean()
            loss = loss + (temperature * density - value(batch.observations, edited).mean(0)).mean()
            # the gradient of this term is all that the temperature has
            loss = loss + self.edit.log_temperature * (entropy - self.edit.target_entropy)
            report |= {"temperature": temperature, "entropy": entropy}
        progress = min(int(self.improvements) / settings.falls_over, 1.0)
        for group in self.optimiser.param_groups:
            if group["params"][0] is not self.edit.log_temperature:
                group["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * progress))
        step(self.optimiser, loss, self._learned)
        self.improvements += 1
        if self.average is not self.base:
            follow(self.average, self.base, settings.average)
        return report


def _with_dropout(net: nn.Sequential, rate: float) -> nn.Sequential:
    """After each activation."""
    layers: list[nn.Module] = []
    for layer in net:
        layers += [layer, nn.Dropout(rate)] if isinstance(layer, nn.ReLU) else [layer]
    return nn.Sequential(*layers)
