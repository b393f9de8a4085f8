"""The dark room: its moves, its best actions, what prompts hold, and a walk by one who reads the context rightly."""

from __future__ import annotations

import pytest
import torch

from fewer import compose
from fewer.core.errors import FewerError
from fewer.incontext.dark_room import DarkRoom
from fewer.incontext.loop import Prompts


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


ROOMS = [DarkRoom(size=4, context=40), DarkRoom(size=4, context=40, permuted=True)]


@pytest.mark.parametrize("family", ROOMS)
def test_the_best_action_leads_to_the_goal_by_the_shortest_way(family):
    """Along x first, then y, then stay; whatever the actions are called."""
    rooms = torch.cat([family.rooms, family.unseen_rooms]).repeat_interleave(16)
    grid = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    start = grid.repeat(len(rooms) // 16, 1)
    cells, goals = start, torch.full_like(start, 3)
    if not family.permuted:
        goals = grid[rooms]
    distance = (start - goals).abs().sum(-1)
    arrived = torch.full_like(rooms, 99)
    for step in range(1, 9):
        x_right = cells[:, 0] == goals[:, 0]
        after, reward = family.step(rooms, cells, family.best(rooms, cells))
        assert (x_right | (after[:, 1] == cells[:, 1])).all()
        assert torch.equal(reward > 0, (after == goals).all(-1))
        arrived = torch.where((reward > 0) & (arrived == 99), step, arrived)
        cells = after
    assert torch.equal(arrived, distance.clamp(min=1))
    assert (cells == goals).all()


def test_walls_stop():
    family = DarkRoom(size=3, context=5)
    corner = torch.zeros(5, 2, dtype=torch.long)
    after, _ = family.step(family.rooms[:1].repeat(5), corner, torch.arange(5))
    assert after.tolist() == [[1, 0], [0, 0], [0, 1], [0, 0], [0, 0]]


@pytest.mark.parametrize("family", ROOMS)
def test_a_prompt_holds_transitions_of_one_room(family):
    prompts = family.sample(60, seeded())
    assert prompts.tokens.shape == (60, 41, 10)
    cells = ((prompts.tokens[:, 1:, :2] + 1) * 1.5).round().long()
    after = ((prompts.tokens[:, 1:, 7:9] + 1) * 1.5).round().long()
    actions = prompts.tokens[:, 1:, 2:7].argmax(-1)
    query = ((prompts.tokens[:, 0, :2] + 1) * 1.5).round().long()
    for row in range(60):
        fits = []
        for room in family.rooms:
            one = room[None]
            moved, paid = family.step(one, cells[row][None], actions[row][None])
            if torch.equal(moved[0], after[row]) and torch.equal(paid[0], prompts.tokens[row, 1:, 9]):
                fits.append(int(family.best(one, query[row][None])))
        assert int(prompts.target[row].argmax()) in fits


def test_rooms_to_score_on_are_never_trained_on():
    family = DarkRoom(size=5, context=10)
    assert len(family.rooms) == 20
    assert len(family.unseen_rooms) == 5
    assert set(family.rooms.tolist()) | set(family.unseen_rooms.tolist()) == set(range(25))
    assert len(DarkRoom(permuted=True, context=10).rooms) == 96


class Reads:
    """Walks to the goal once the context has shown it, and at random before."""

    def __init__(self, family):
        self.family = family

    def __call__(self, prompts: Prompts):
        size, outputs = self.family.size, torch.zeros(*prompts.tokens.shape[:2], 5)
        cells = ((prompts.tokens[:, 0, :2] + 1) * (size - 1) / 2).round().long()
        for row, tokens in enumerate(prompts.tokens):
            paid = tokens[1:][tokens[1:, 9] > 0]
            if len(paid):
                goal = ((paid[0, 7:9] + 1) * (size - 1) / 2).round().long()
                room = (goal @ torch.tensor([size, 1]))[None]
                outputs[row, -1, self.family.best(room, cells[row][None])] = 50
        return outputs


def test_who_reads_the_context_rightly_earns_the_most_once_the_goal_was_seen():
    family = DarkRoom(size=3, context=200, episode=25)
    returns = family.walk(Reads(family), 0, episodes=4, repeats=10)
    assert returns[-1] > 0.9 * family.best_return()
    assert returns[0] < 0.6 * family.best_return()
    score, measures = family.evaluate(Reads(family), 0)
    assert score == measures["episode 3"]


def test_the_best_return_is_that_of_the_shortest_ways():
    family = DarkRoom(size=4, context=60, episode=12)

    class Knows:
        def __call__(self, prompts):
            cells = ((prompts.tokens[:, 0, :2] + 1) * 1.5).round().long()
            best = family.best(family.unseen_rooms, cells)
            return 50 * torch.nn.functional.one_hot(best, 5).float()[:, None]

    assert family.walk(Knows(), 0, episodes=1, repeats=1).item() == pytest.approx(family.best_return())


def test_the_oldest_transitions_drop_out():
    family = DarkRoom(size=3, context=7, episode=5)
    lengths = []

    def predict(prompts):
        lengths.append(prompts.tokens.shape[1])
        return torch.zeros(*prompts.tokens.shape[:2], 5)

    family.walk(predict, 0, episodes=3, repeats=1)
    assert lengths == [1] * 5 + [6] * 5 + [8] * 5


def test_histories_of_a_learner_get_better_and_are_cloned_in_order():
    family = DarkRoom(size=3, context=60, episode=10, roll_in="learning", label="behaviour")
    early, late = [], []
    for seed in range(12):
        prompts = family.sample(40, seeded(seed))
        assert torch.equal(prompts.target[:, :-1], prompts.tokens[:, 1:, 2:7])
        assert torch.equal(prompts.tokens[:, 0, :2], prompts.tokens[:, 1, :2])
        follows = (prompts.tokens[:, 2:, :2] == prompts.tokens[:, 1:-1, 7:9]).all(-1)
        assert follows.float().mean() > 0.85  # all but where an episode begins
        early.append(prompts.tokens[:, 1:11, 9].mean())
        late.append(prompts.tokens[:, -10:, 9].mean())
    assert sum(late) > sum(early)
    family.walk(lambda prompts: torch.zeros(*prompts.tokens.shape[:2], 5), 0, episodes=2, repeats=1)


def test_the_name_leads_back_to_the_family():
    for family in (DarkRoom(size=4, permuted=True), DarkRoom(roll_in="learning", held_out=0.3, context=20)):
        again = compose.task(family.name)
        assert again.fingerprint() == family.fingerprint()
        assert torch.equal(again.sample(3, seeded()).tokens, family.sample(3, seeded()).tokens)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 1}, "size must be 2 or more and episode 1 or more"),
        ({"episode": 0}, "episode 1 or more"),
        ({"roll_in": "walk"}, "roll_in must be 'uniform' or 'learning'; 'walk' was given"),
        ({"label": "behaviour"}, "uniform actions have nothing to be cloned; take roll_in='learning'"),
        ({"held_out": 0.0}, "leaves none to train or to score on"),
        ({"context": 0}, "a context of 1 or more"),
    ],
)
def test_errors(given, message):
    with pytest.raises(FewerError, match=message):
        DarkRoom(**given)
