"""The contrastive loop: its curve, its counts, resuming to the bit, and that training never looks at labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fewer import compose
from fewer.core.errors import Diverged, FewerError
from fewer.models.optimisers import SGD
from fewer.pretrain.loop import Contrastive, Shared, TwoViews
from fewer.pretrain.readout import KNN, LinearProbe
from fewer.pretrain.views import Mild
from fewer.tasks.digits import digits
from fewer.tasks.representation import UNKNOWN, Representation, rows_of

LOOP = Contrastive(batch=32, points=3)


def curve(loop, task, seed=0, budget=200, **options):
    return [
        (point.spent, point.score, {name: value for name, value in point.extras.items() if name != "seconds"})
        for point in loop.run(task, budget, seed, **options)
    ]


def test_points_are_spread_over_the_budget_and_whole_batches_are_spent():
    found = curve(LOOP, digits())
    assert [spent for spent, _, _ in found] == [96, 160, 192]
    assert set(found[0][2]) == {"knn", "linear", "loss"}
    assert found[0][1] == found[0][2]["knn"]


def test_equal_seeds_give_equal_curves_and_others_do_not():
    assert curve(LOOP, digits()) == curve(LOOP, digits())
    assert curve(LOOP, digits()) != curve(LOOP, digits(), seed=1)


@pytest.mark.parametrize("points", [1, 2])
def test_a_run_resumes_to_the_bit(points, tmp_path):
    whole = curve(LOOP, digits())
    half = LOOP.run(digits(), 200, 0, checkpoint=tmp_path / "run.ckpt")
    for _ in range(points):
        next(half)
    half.close()
    assert curve(LOOP, digits(), checkpoint=tmp_path / "run.ckpt") == whole


def test_no_label_is_looked_at_in_training():
    task = digits()
    rng = np.random.default_rng(0)
    x = task.x
    weights = [
        LOOP.learn(Representation("rows", x, {"class": y}), 200).result.network.state_dict()
        for y in (task.y, rng.permutation(task.y), np.full(len(x), UNKNOWN))
    ]
    assert all(torch.equal(weights[0][name], other[name]) for other in weights[1:] for name in other)


def test_rows_without_labels_are_scored_by_how_views_are_recognised():
    found = curve(LOOP, Representation("rows", digits().x, {}))
    assert all(0 < score <= 1 and set(extras) == {"views recognised", "loss"} for _, score, extras in found)
    still = Contrastive(
        batch=32, points=1, views=Mild(degrees=0, shift=0, shear=0, scale=(1, 1), contrast=(1, 1), noise=0)
    )
    assert curve(still, Representation("rows", digits().x, {}))[0][1] > 0.99


def test_the_read_out_asked_for_gives_the_score_and_others_stand_beside():
    (point,) = curve(Contrastive(batch=32, points=1, readout=LinearProbe()), digits())
    assert point[1] == point[2]["linear"]
    assert "knn" in point[2]


def test_learning_helps():
    loop, task = Contrastive(batch=64, points=1), Representation("rows", digits().x, {})
    before, after = curve(loop, task, budget=64)[-1][1], curve(loop, task, budget=6400)[-1][1]
    assert after > before + 0.05


def test_every_row_comes_once_before_any_comes_again():
    rows = rows_of(
        Representation("rows", np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1).repeat(4, 2), {}, test=2), 0
    )
    still = Mild(degrees=0, shift=0, shear=0, scale=(1, 1), contrast=(1, 1), noise=0)
    pairing = TwoViews(rows, still, {"knn": KNN()}, seed=0)
    seen = torch.cat([pairing.draw(4)[0][:, 0, 0, 0] for _ in range(2)])
    assert sorted(seen.round().tolist()) == sorted(rows.x[:, 0, 0, 0].tolist())
    assert len(pairing.draw(100)[0]) == 8


def test_views_go_through_the_tower_by_themselves():
    torch.manual_seed(0)
    task = digits()
    pairing = TwoViews(rows_of(task, 0), Mild(), {"knn": KNN()}, 0)
    tower = Shared(hidden=8, width=4).build(task, pairing).train()
    first, second = pairing.draw(6)
    one, other, temperature = tower(first, second)
    assert temperature is None
    assert tower.negatives == "both views"
    alone = tower.projector(tower.encoder(first))
    assert torch.allclose(one, alone, atol=1e-6)
    assert one.shape == other.shape == (6, 4)


def test_an_objective_with_parameters_is_each_runs_own():
    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_temperature = nn.Parameter(torch.tensor(-2.0))

        def forward(self, first, second, temperature=None, negatives=None):
            from fewer.pretrain.contrast import InfoNCE

            return InfoNCE()(first, second, self.log_temperature.exp(), negatives)

    objective = Learned()
    loop = Contrastive(objective=objective, batch=32, points=1)
    state = loop.start(digits(), 64, 0)
    loop.advance(state)
    assert objective.log_temperature.item() == -2.0
    assert state.objective.log_temperature.item() != -2.0


def test_a_loss_that_explodes_is_named():
    loop = Contrastive(optimiser=SGD(lr=1e30), batch=32, points=1)
    with pytest.raises((Diverged, FewerError), match="learning rate"):
        loop.learn(digits(), 256)


def test_gradients_may_be_clipped():
    loose, tight = (Contrastive(batch=32, points=1, clip=clip).learn(digits(), 64).result for clip in (0.0, 1e-9))
    start = Contrastive(batch=32, points=1, optimiser=SGD(lr=0.0)).learn(digits(), 64).result

    def moved(encoder):
        pairs = zip(encoder.network.parameters(), start.network.parameters(), strict=True)
        return sum(float((one - other).detach().abs().sum()) for one, other in pairs)

    assert moved(tight) < 1e-3 * moved(loose)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Contrastive(batch=1), "a batch of 1 has nothing to tell it apart from"),
        (lambda: Contrastive(points=0), "points must be at least 1"),
        (lambda: Contrastive(clip=-1), "clip at least 0"),
        (lambda: LOOP.learn(digits(), 31), "a budget of 31 rows seen is below the first round, which takes 32"),
        (lambda: compose.loop("simclr + dcl"), "both fill the slot objective"),
    ],
)
def test_errors(make, message):
    with pytest.raises(FewerError, match=message):
        make()
