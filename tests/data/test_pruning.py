"""The adapter to plain torch: a training script with it is the loop, to the bit; resuming; ranks; third-party loaders."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from fewer.core import checkpoint as checkpoints
from fewer.core.errors import FewerError
from fewer.core.seeding import derive
from fewer.data.infobatch import InfoBatch
from fewer.data.loop import AllRows, Selection
from fewer.data.pruning import IndexedDataset, Pruner
from fewer.data.seta import SeTa
from fewer.data.subsets import DynamicRandom, StaticRandom

SAMPLERS = {
    "all": AllRows(),
    "seta": SeTa(drop=0.2, groups=4, window=0.5),
    "infobatch": InfoBatch(),
    "dynamic": DynamicRandom(0.5),
    "static": StaticRandom(0.5),
}


def rows(count=120):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 4, generator=generator)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


class Training:
    """A script as anybody would write it."""

    def __init__(self, sampler, epochs=6, seed=3, **loader):
        torch.manual_seed(derive(seed, "weights"))
        self.model = nn.Linear(4, 3)
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=0.5)
        self.pruner = Pruner(rows(), sampler, epochs=epochs, seed=seed)
        self.loader = DataLoader(self.pruner.dataset, batch_size=16, sampler=self.pruner.sampler, **loader)
        self.visited = []

    def epoch(self, upto=10**9):
        visited = []
        for step, (x, y, index) in enumerate(self.loader):
            if step >= upto:
                break
            each = nn.functional.cross_entropy(self.model(x), y, reduction="none")
            self.optimiser.zero_grad()
            self.pruner.update(each, index).backward()
            self.optimiser.step()
            visited += index.tolist()
        self.visited.append(visited)
        return self

    def state(self):
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "pruner": self.pruner.state_dict(),
        }

    def load(self, state):
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.pruner.load_state_dict(state["pruner"])
        return self


# --- what comes out --------------------------------------------------------------------------------------------------


def test_items_come_with_their_index():
    named = namedtuple("named", "x y")
    data = IndexedDataset([("a", 1), ["b", 2], {"x": "c"}, "d", named("e", 5), 6.5])
    assert len(data) == 6
    assert [data[i] for i in range(6)] == [
        ("a", 1, 0),
        ("b", 2, 1),
        {"x": "c", "index": 2},
        ("d", 3),
        ("e", 5, 4),
        (6.5, 5),
    ]
    assert data.__getitems__([3, 0]) == [("d", 3), ("a", 1, 0)]


def test_a_batch_is_asked_for_in_one_request_where_that_is_possible():
    class Batched(list):
        def __getitems__(self, indices):
            self.asked = list(indices)
            return [self[i] for i in indices]

    items = Batched("abcdef")
    loader = DataLoader(IndexedDataset(items), batch_size=3, collate_fn=list)
    assert next(iter(loader)) == [("a", 0), ("b", 1), ("c", 2)]
    assert items.asked == [0, 1, 2]


def test_hugging_face_collators_keep_the_index():
    transformers = pytest.importorskip("transformers")
    data = IndexedDataset([{"input_ids": [1, 2], "labels": 0}, {"input_ids": [3, 4], "labels": 1}])
    batch = next(iter(DataLoader(data, batch_size=2, collate_fn=transformers.default_data_collator)))
    assert batch["index"].tolist() == [0, 1]
    assert batch["labels"].tolist() == [0, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_epoch_visits_what_the_sampler_chose(workers):
    training = Training(SAMPLERS["seta"], num_workers=workers)
    chosen = []
    for _ in range(6):
        training.epoch()
        chosen.append(training.pruner.state_dict()["rows"].tolist())
    assert training.visited == chosen
    assert training.pruner.visits == sum(map(len, chosen))
    assert training.pruner.saved == pytest.approx(1 - training.pruner.visits / (6 * 120))
    assert 0.3 < training.pruner.saved < 0.7


def test_without_pruning_it_is_full_training():
    training = Training(AllRows()).epoch().epoch()
    assert [sorted(visited) for visited in training.visited] == [list(range(120))] * 2
    assert training.visited[0] != training.visited[1]
    assert training.pruner.saved == 0


def test_workers_do_not_change_anything_but_the_time():
    alone, helped = Training(SAMPLERS["seta"]), Training(SAMPLERS["seta"], num_workers=1)
    for _ in range(4):
        alone.epoch()
        helped.epoch()
    assert alone.visited == helped.visited
    assert torch.equal(alone.model.weight, helped.model.weight)


def test_a_worker_gets_the_data_and_nothing_else():
    training = Training(SAMPLERS["seta"]).epoch()
    assert b"losses" not in pickle.dumps(training.loader.dataset)


def test_the_length_is_that_of_the_epoch_under_way():
    training = Training(DynamicRandom(0.5))
    assert len(training.pruner.sampler) == 60
    assert len(training.loader) == 4
    assert len(training.epoch().visited[0]) == 60
    varying = Training(SAMPLERS["seta"])
    lengths = []
    for _ in range(4):
        for step, (_, _, index) in enumerate(varying.loader):
            varying.pruner.update(torch.rand(len(index)), index)
            assert step < len(varying.loader)
        assert step == len(varying.loader) - 1
        lengths.append(len(varying.loader))
    assert len(set(lengths)) > 1


# --- losses ----------------------------------------------------------------------------------------------------------


def test_losses_are_noted_by_row_and_reduced_to_their_mean():
    pruner = Pruner(rows(), AllRows(), epochs=3)
    iter(pruner.sampler)
    loss = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    scalar = pruner.update(loss, torch.tensor([7, 3, 5]))
    assert scalar.item() == 3
    scalar.backward()
    assert loss.grad.tolist() == pytest.approx([1 / 3] * 3)
    assert np.isnan(pruner.losses).all()  # until the next epoch is drawn
    iter(pruner.sampler)
    assert pruner.losses[[7, 3, 5]].tolist() == [1, 2, 6]
    assert np.isnan(pruner.losses).sum() == 117
    pruner.update(torch.tensor([4.0]), torch.tensor([3]))
    iter(pruner.sampler)
    assert pruner.losses[[7, 3, 5]].tolist() == [1, 4, 6]


def test_rows_are_weighted_where_the_sampler_weights_them():
    class Weighted:
        def select(self, epoch):
            return Selection(np.array([4, 2]), np.array([3.0, 0.5]))

    pruner = Pruner(rows(), Weighted(), epochs=1)
    assert list(pruner.sampler) == [4, 2]
    assert pruner.update(torch.tensor([10.0, 1.0]), torch.tensor([2, 4])).item() == (10 * 0.5 + 1 * 3) / 2


def test_losses_that_are_no_numbers_are_warned_about_and_not_noted():
    pruner = Pruner(rows(), SAMPLERS["seta"], epochs=9)
    iter(pruner.sampler)
    pruner.update(torch.arange(120.0), torch.arange(120))
    iter(pruner.sampler)
    pruner.update(torch.tensor([9.0, torch.nan, torch.inf, -torch.inf]), torch.tensor([1, 5, 6, 7]))
    with pytest.warns(UserWarning, match=r"the loss of 3 rows was NaN or infinite \(the first is row 5\)"):
        iter(pruner.sampler)
    assert pruner.losses[[1, 5, 6, 7]].tolist() == [9, 5, 6, 7]


def test_half_precision_losses_are_noted():
    pruner = Pruner(rows(), AllRows(), epochs=2)
    iter(pruner.sampler)
    assert pruner.update(torch.tensor([0.5, 1.5], dtype=torch.bfloat16), torch.tensor([0, 1])).dtype == torch.bfloat16
    iter(pruner.sampler)
    assert pruner.losses[:2].tolist() == [0.5, 1.5]


# --- resuming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_saved_between_epochs_it_goes_on_to_the_bit(name, tmp_path):
    whole = Training(SAMPLERS[name])
    states = []
    for epoch in range(6):
        checkpoints.save(tmp_path / str(epoch), whole.state())
        states.append(tmp_path / str(epoch))
        whole.epoch()
    for begun, state in enumerate(states):
        resumed = Training(SAMPLERS[name]).load(checkpoints.load(state))
        for _ in range(begun, 6):
            resumed.epoch()
        assert resumed.visited == whole.visited[begun:]
        assert torch.equal(resumed.model.weight, whole.model.weight)
        assert resumed.pruner.visits == whole.pruner.visits


def test_saved_inside_an_epoch_it_begins_that_epoch_again(tmp_path):
    whole = Training(SAMPLERS["infobatch"]).epoch().epoch()
    stopped = Training(SAMPLERS["infobatch"]).epoch().epoch(upto=2)
    torch.save(stopped.pruner.state_dict(), tmp_path / "state")
    resumed = Training(SAMPLERS["infobatch"])
    resumed.pruner.load_state_dict(torch.load(tmp_path / "state", weights_only=False))
    assert len(resumed.pruner.sampler) == len(whole.visited[1])
    assert list(resumed.pruner.sampler) == whole.visited[1]
    assert resumed.pruner.visits == whole.pruner.visits


def test_saved_before_the_first_epoch():
    state = Pruner(rows(), AllRows(), epochs=2, seed=5).state_dict()
    resumed = Pruner(rows(), AllRows(), epochs=2, seed=5)
    resumed.load_state_dict(state)
    assert list(resumed.sampler) == list(Pruner(rows(), AllRows(), epochs=2, seed=5).sampler)


# --- ranks -----------------------------------------------------------------------------------------------------------


def loss_of(index, epoch):
    return (index * 7919 % 1000 + epoch) / 100


def on_rank(rank, folder):
    """What one of two processes does."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    seen = {}
    for split in (True, False):
        pruner = Pruner(rows(), SAMPLERS["seta"], epochs=6, seed=3, split_ranks=split)
        seen[str(split)] = []
        for epoch in range(4):
            own = torch.tensor(list(pruner.sampler))
            seen[str(split)].append(own.tolist())
            # where the framework divides batches, a rank has the losses of its part only
            index = own if split else own[rank::2]
            pruner.update(loss_of(index, epoch), index)
        iter(pruner.sampler)
        seen[f"losses {split}"] = pruner.losses.tolist()
    (Path(folder) / f"{rank}.json").write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()


def test_ranks_visit_parts_of_the_same_rows_and_share_their_losses(tmp_path):
    processes = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    alone = Pruner(rows(), SAMPLERS["seta"], epochs=6, seed=3)
    for epoch in range(4):
        chosen = list(alone.sampler)
        alone.update(loss_of(torch.tensor(chosen), epoch), torch.tensor(chosen))
        assert first["False"][epoch] == second["False"][epoch] == chosen
        together = [row for pair in zip(first["True"][epoch], second["True"][epoch], strict=True) for row in pair]
        assert together == chosen + chosen[: len(chosen) % 2]
    iter(alone.sampler)
    for split in (True, False):
        assert np.array_equal(first[f"losses {split}"], alone.losses, equal_nan=True)
        assert np.array_equal(second[f"losses {split}"], alone.losses, equal_nan=True)


# --- errors ----------------------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


@pytest.mark.parametrize("data", [Stream(), (i for i in range(3))])
def test_data_without_numbers_is_refused(data):
    with pytest.raises(FewerError, match=r"a (Stream|generator) cannot be pruned.*give a map-style data set"):
        Pruner(data, SeTa(), epochs=3)


@pytest.mark.parametrize(
    "loss", [torch.tensor(1.0), torch.rand(3), torch.rand(2, 5)], ids=["scalar", "too long", "a loss a token"]
)
def test_a_loss_that_is_not_one_a_row_is_refused(loss):
    pruner = Pruner(rows(), SeTa(), epochs=3)
    with pytest.raises(FewerError, match=r'update needs one loss a row; .*compute it with reduction="none"'):
        pruner.update(loss, torch.tensor([0, 1]))


def test_other_errors():
    with pytest.raises(FewerError, match="epochs must be at least 1; 0 was given"):
        Pruner(rows(), SeTa(), epochs=0)

    class Nothing:
        def select(self, epoch):
            return Selection(np.zeros(0, dtype=int))

    with pytest.raises(FewerError, match="Nothing chose no row for epoch 1"):
        list(Pruner(rows(), Nothing(), epochs=1).sampler)
    state = Pruner(rows(), SeTa(), epochs=3).state_dict()
    with pytest.raises(FewerError, match="the saved state is of 120 rows and seed 0; this one has 40 rows and seed 0"):
        Pruner(rows(40), SeTa(), epochs=3).load_state_dict(state)
    with pytest.raises(FewerError, match="and seed 1"):
        Pruner(rows(), SeTa(), epochs=3, seed=1).load_state_dict(state)


if __name__ == "__main__":
    on_rank(int(sys.argv[1]), sys.argv[2])
