"""The post-training loop: what it counts, what it learns from, and that it goes on where it stopped."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from fewer.core.errors import Diverged, FewerError
from fewer.core.loop import Stage, Stages
from fewer.models.causal_lm import CausalLM
from fewer.models.optimisers import AdamW
from fewer.rollouts import loop as module
from fewer.rollouts.advantages import GroupRelative, group_relative
from fewer.rollouts.bapo import BAPO, Balanced
from fewer.rollouts.baselines import clip_higher, grpo, reinforce, rloo
from fewer.rollouts.characters import Characters
from fewer.rollouts.d3s import D3S
from fewer.rollouts.ead import AnnealedTemperature
from fewer.rollouts.experience import sequence_mean, token_mean
from fewer.rollouts.grpo_lambda import GRPOLambda
from fewer.rollouts.limr import LIMR
from fewer.rollouts.loop import PostTraining
from fewer.rollouts.objectives import Clipped, PolicyGradient, clipped_surrogate
from fewer.rollouts.problems import Problem, Problems, prompt_tokens
from fewer.rollouts.remax import ReMax
from fewer.rollouts.siri import SIRI
from fewer.rollouts.slots import Ancestral

LETTERS = Characters("ab.", end=".", pad=".")


@dataclass(frozen=True)
class SayA(Problems):
    """Prompts of a few letters; a completion is right if it begins with the prompt's last letter."""

    name: str = "say-a"  # pyright: ignore[reportIncompatibleVariableOverride]
    longest: int = 4
    count: int = 12
    words: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list, compare=False, repr=False)

    def fingerprint(self):
        return f"say-a {self.longest} {self.count}"

    def language(self, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return LETTERS.language(CausalLM(width=16, layers=1, heads=2).build(3))

    def training(self, seed):
        rng = np.random.default_rng(seed)
        words = self.words or ["".join(rng.choice(list("ab"), 3)) for _ in range(self.count)]
        return [Problem(word, word[-1]) for word in words]

    def held_out(self, seed):
        return self.training(seed + 1)

    def verify(self, completion, problem):
        self.asked.append(completion)
        return float(completion[:1] == problem.answer)


SMALL = {"prompts": 4, "group": 4, "points": 2, "optimiser": AdamW(lr=0.02, weight_decay=0.0)}


def test_it_learns():
    learned = PostTraining(**SMALL, clip=0.0).learn(SayA(), 16 * 60)
    assert learned.curve.points[-1].score > 0.9
    assert learned.result.complete(["aab", "bba"])[0][0] == "b"


@pytest.mark.parametrize(
    "filling",
    [
        grpo(kl=0.1),
        clip_higher(),
        rloo(),
        reinforce(centred=True),
        ReMax(beta=0.01, gamma=0.99),
        BAPO(),
        SIRI(least=2, cycle=4),
        GRPOLambda(),
        {"selector": D3S()},
        {"sampler": AnnealedTemperature(d0=2.0, hold=0, correction="tis")},
        {"sampler": AnnealedTemperature(d0=2.0, hold=0, correction="tempered-old"), "selector": D3S()},
        {**BAPO(), "sampler": AnnealedTemperature(d0=2.0, hold=0), "selector": D3S()},
        {**SIRI(least=2, cycle=4), "objective": BAPO()["objective"], "epochs": 2, "parts": 2},
        {**GRPOLambda(), "selector": D3S()},
        {**BAPO(), "curation": LIMR(epochs=2, most=3)},
    ],
)
def test_every_filling_and_composition_runs_and_goes_on_to_the_bit(filling, tmp_path):
    loop = PostTraining(**{**SMALL, "points": 3, **filling})
    budget = loop.of_prompt * 4 * 7
    whole = list(loop.run(SayA(), budget, seed=3))
    assert whole[-1].spent == budget
    assert all(np.isfinite(each.score) for each in whole)
    file = tmp_path / "run.safetensors"
    first = loop.run(SayA(), budget, seed=3, checkpoint=file)
    next(first)
    first.close()
    again = list(loop.run(SayA(), budget, seed=3, checkpoint=file))
    changing = ("seconds", "tokens per second")
    for one, other in zip(whole, again, strict=True):
        assert (one.spent, one.score) == (other.spent, other.score)
        assert {k: v for k, v in one.extras.items() if k not in changing} == {
            k: v for k, v in other.extras.items() if k not in changing
        }


def test_rollouts_tokens_and_dead_groups_are_counted():
    task = SayA()
    loop = PostTraining(**{**SMALL, "points": 1}, asked=3)
    state = loop.start(task, 40, seed=0)
    task.asked.clear()
    experience = loop.explore(state)
    assert len(task.asked) == 16
    assert state.ledger.spent == 16
    assert state.ledger["tokens"] == int(experience.mask.sum()) == int(experience.lengths.sum())
    assert state.ledger["truncated"] == int((~experience.finished).sum())
    assert state.ledger["dead_groups"] == sum(len(set(row)) == 1 for row in experience.rewards.tolist())
    loop.advance(state)  # what is left is not enough for four prompts
    assert state.ledger.spent == 40


def test_what_is_left_of_the_budget_and_too_little_for_a_prompt_stays():
    learned = PostTraining(**SMALL).learn(SayA(), 37)
    assert learned.ledger.spent == 36
    greedy = PostTraining(**{**SMALL, **ReMax()}).learn(SayA(), 43)
    assert greedy.ledger.spent == 40  # five for each prompt
    with pytest.raises(FewerError, match="a budget of 4 rollouts is below the first round, which takes 5"):
        PostTraining(**{**SMALL, **ReMax()}).learn(SayA(), 4)


def of_one_step(loop, seed=0, task=None):
    state = loop.start(task or SayA(), 10**6, seed)
    before = copy.deepcopy(state.network.state_dict())
    experience = loop.explore(state)
    return state, experience, before


def test_the_gradient_of_a_step_is_that_of_the_written_down_loss():
    loop = PostTraining(**SMALL, clip=0.0)
    state, experience, _ = of_one_step(loop)
    advantages = group_relative(experience.rewards.float()).reshape(-1, 1).expand(experience.mask.shape)
    loop.learn_from(state, experience, advantages, experience.mask)
    found = [each.grad.clone() for each in state.network.parameters()]
    fresh = loop.start(SayA(), 10**6, 0).network
    total, count = torch.zeros(()), 0
    for row, text in enumerate(experience.sampled.completions()):
        prompt = LETTERS.encode(experience.problems[row // 4].prompt)
        logits = fresh(torch.tensor([prompt + text]))[0, len(prompt) - 1 : -1]
        logps = torch.log_softmax(logits, -1).gather(1, torch.tensor(text)[:, None])[:, 0]
        ratio = (logps - logps.detach()).exp()
        total = total - clipped_surrogate(ratio, advantages[row, : len(text)], 0.8, 1.2).sum()
        count += len(text)
    true = torch.autograd.grad(total / count, list(fresh.parameters()))
    for one, other in zip(found, true, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("aggregate", ["tokens", "sequences"])
def test_rows_at_once_change_memory_and_nothing_else(aggregate):
    gradients = []
    for rows in (0, 3):
        loop = PostTraining(**SMALL, rows=rows, aggregate=aggregate, objective=Clipped(kl=0.1))
        state, experience, _ = of_one_step(loop)
        advantages = group_relative(experience.rewards.float()).reshape(-1, 1).expand(experience.mask.shape)
        loop.learn_from(state, experience, advantages, experience.mask)
        gradients.append(torch.cat([each.grad.flatten() for each in state.network.parameters()]))
    assert torch.allclose(*gradients, atol=1e-6)


def test_selecting_everything_is_selecting_nothing():
    plain, selected = (
        PostTraining(**SMALL, **options).learn(SayA(), 64, seed=2).curve
        for options in ({}, {"selector": D3S((1.0, 1.0), (1.0, 1.0))})
    )
    assert [each.score for each in plain] == [each.score for each in selected]
    assert [each.extras["loss"] for each in plain] == [each.extras["loss"] for each in selected]


def test_rollouts_that_are_not_kept_cost_no_gradient():
    loop = PostTraining(**SMALL, selector=D3S((0.25, 0.25), (0.5, 0.5)))
    learned = loop.learn(SayA(), 64)
    assert 0 < learned.ledger["gradient_tokens"] < 0.3 * learned.ledger["tokens"]


def test_a_constant_length_is_the_fixed_one():
    @dataclass(frozen=True)
    class Same:
        def cap(self, step, longest):
            return longest

    scores = [
        [each.score for each in PostTraining(**SMALL, **options).learn(SayA(), 64, seed=1).curve]
        for options in ({}, {"lengths": Same()})
    ]
    assert scores[0] == scores[1]


def test_completions_are_cut_off_where_the_schedule_says():
    loop = PostTraining(**{**SMALL, **SIRI(least=1, most=4, cycle=2, shape="stair")})
    state, experience, _ = of_one_step(loop)
    assert experience.cap == 1
    assert experience.mask.shape[1] == 1
    state.step = 1
    assert loop.explore(state).cap == 4


def test_without_anything_to_tell_apart_nothing_moves():
    @dataclass(frozen=True)
    class AllRight(SayA):
        def verify(self, completion, problem):
            return 1.0

    loop = PostTraining(**SMALL)
    state = loop.start(AllRight(), 64, seed=0)
    before = copy.deepcopy(state.network.state_dict())
    loop.advance(state)
    assert state.ledger["dead_groups"] == 8
    assert state.ledger["updates"] == 0
    assert all(torch.equal(value, before[name]) for name, value in state.network.state_dict().items())


def test_a_verifier_that_fails_costs_its_rollout_and_is_counted():
    @dataclass(frozen=True)
    class Fails(SayA):
        def verify(self, completion, problem):
            if completion.startswith("b"):
                raise RuntimeError("b is not for me")
            return float("nan") if completion == "" else 1.0

    loop = PostTraining(**SMALL)
    state, experience, _ = of_one_step(loop, task=Fails())
    texts = [LETTERS.decode(each).rstrip(".") for each in experience.sampled.completions()]
    bad = [text == "" or text.startswith("b") for text in texts]
    assert state.ledger["verifier_failures"] == sum(bad) > 0
    assert experience.rewards.flatten().tolist() == [0.0 if each else 1.0 for each in bad]


def test_a_curation_may_let_the_model_begin_anew():
    loop = PostTraining(**{**SMALL, "points": 1}, curation=LIMR(epochs=2, most=5))
    state = loop.start(SayA(count=8), 16 * 5, seed=0)
    first = {name: value.clone() for name, value in state.network.state_dict().items()}
    for _ in range(3):
        loop.learn_once(state)
    assert state.step == 3
    assert not torch.equal(first["lm_head.weight"], state.network.state_dict()["lm_head.weight"])
    loop.learn_once(state)  # the second epoch ends
    assert state.step == 0
    assert state.after == 64
    assert not state.optimiser.state
    assert all(torch.equal(value, first[name]) for name, value in state.network.state_dict().items())


def test_the_model_of_the_task_stays_as_it_was():
    loop = PostTraining(**SMALL, objective=Clipped(kl=0.5))
    state = loop.start(SayA(), 64, seed=0)
    before = copy.deepcopy(state.language.network.state_dict())
    loop.advance(state)
    assert all(torch.equal(value, before[name]) for name, value in state.language.network.state_dict().items())
    assert not any(each.requires_grad for each in state.language.network.parameters())


def test_an_adapter_learns_in_place_of_the_model(tmp_path):
    from fewer.adapt.low_rank_adapter import LoRA

    loop = PostTraining(**{**SMALL, "optimiser": AdamW(lr=0.01, weight_decay=0.0)}, adapter=LoRA(rank=2))
    learned = loop.learn(SayA(), 16 * 60)
    network = learned.result.language.network
    moving = [name for name, each in network.named_parameters() if each.requires_grad]
    assert moving
    assert all("built_in" in name for name in moving)
    assert learned.curve.points[-1].score > learned.curve.points[0].score


def test_a_second_stage_begins_from_the_first_ones_model():
    stages = Stages((Stage("one", PostTraining(**SMALL), 0.5), Stage("two", PostTraining(**SMALL), 0.5)))
    learned = stages.learn(SayA(), 640)
    assert [point.extras["stage"] for point in learned.curve] == [0, 0, 1, 1]
    assert learned.curve.points[2].score > 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": 0}, "must be at least 1"),
        ({"clip": -1.0}, "clip and rows must be at least 0"),
        ({"aggregate": "rows"}, "aggregate tokens or sequences"),
        ({"group": 1, "advantage": GroupRelative()}, "group is 1; take 2 or more"),
    ],
)
def test_errors(options, message):
    with pytest.raises(FewerError, match=message):
        PostTraining(**options)


def test_lengths_out_of_range_and_sampling_that_makes_no_sense():
    @dataclass(frozen=True)
    class TooLong:
        def cap(self, step, longest):
            return longest + 1

    with pytest.raises(FewerError, match="the length schedule gave 5 tokens at step 0"):
        PostTraining(**SMALL, lengths=TooLong()).learn(SayA(), 64)
    with pytest.raises(FewerError, match="tau must be positive"):
        Ancestral(tau=0.0)
    with pytest.raises(FewerError, match=r"top_p in \(0, 1\]"):
        Ancestral(top_p=0.0)


def test_prompts_must_have_tokens_and_fit_the_context():
    language = replace(SayA().language(0), context=6)
    assert prompt_tokens(language, Problem("ab"), 4) == [0, 1]
    with pytest.raises(FewerError, match="has 3 tokens; with 4 new ones it does not fit the model's context of 6"):
        prompt_tokens(language, Problem("aba"), 4)
    with pytest.raises(FewerError, match="has no tokens"):
        prompt_tokens(language, Problem(""), 4)


def test_a_loss_that_is_not_finite_stops_the_run():
    class Broken(Clipped):
        def losses(self, logps, old, advantages, reference):
            return super().losses(logps, old, advantages, reference) * float("nan")

    with pytest.raises(Diverged, match="the loss became nan at step 0"):
        PostTraining(**SMALL, objective=Broken()).learn(SayA(), 64)


def test_a_task_without_problems_is_refused():
    with pytest.raises(FewerError, match="has 0 problems to learn from"):
        PostTraining(**SMALL).learn(SayA(count=0), 64)


def test_means():
    values, mask = torch.tensor([[1.0, 3.0], [5.0, 0.0]]), torch.tensor([[True, True], [True, False]])
    assert token_mean(values, mask) == 3
    assert sequence_mean(values, mask) == 3.5


def test_what_is_complete_needs_a_temperature_of_sense():
    policy = PostTraining(**SMALL).learn(SayA(), 32).result
    assert policy.complete(["aab"], temperature=1.0, seed=1) == policy.complete(["aab"], temperature=1.0, seed=1)
    with pytest.raises(FewerError, match="temperature is -1"):
        policy.complete(["aab"], temperature=-1)
    with pytest.raises(FewerError, match="no tokenizer of transformers"):
        policy.save("nowhere")


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory: 9 bytes")],
)
def test_where_memory_runs_out_it_is_said_what_to_lower(error, monkeypatch):
    def out_of_memory(*args, **options):
        raise error

    monkeypatch.setattr("fewer.rollouts.loop.teacher_forced", out_of_memory)
    with pytest.raises(FewerError, match="memory ran out; set rows to fewer rollouts at once"):
        PostTraining(**SMALL).learn(SayA(), 64)


def test_other_errors_stay_what_they_are(monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("fewer.rollouts.loop.teacher_forced", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        PostTraining(**SMALL).learn(SayA(), 64)


def test_lengths_that_a_task_does_not_allow_are_refused_before_anything_starts():
    with pytest.raises(FewerError, match="from 9 to 4 tokens were asked for"):
        PostTraining(**{**SMALL, **SIRI(least=9)}).check(SayA(), 64)


def test_people_are_shown_completions_from_the_start_and_from_the_end_and_nothing_else_changes():
    loop, task, shown = PostTraining(**SMALL, clip=0.0), SayA(), []
    alone = [point.score for point in loop.run(task, 16 * 40, seed=0)]
    assert [point.score for point in loop.run(task, 16 * 40, seed=0, show=shown.append)] == alone
    first, *_, last = shown
    assert (first.spent, last.spent) == (0, 16 * 40)
    assert [row.asked for row in first.rows] == [each.prompt for each in task.held_out(0)[:4]]
    assert {row.asked for row in last.rows} == {row.asked for row in first.rows}
    for row in (*first.rows, *last.rows):
        assert row.score == float(row.made[:1] == row.asked[-1])
    assert sum(row.score for row in last.rows) > sum(row.score for row in first.rows)
    again = []
    next(loop.run(task, 16 * 40, seed=0, show=again.append))
    assert again[0] == first  # drawn anew, and the same


def test_all_that_is_watched_is_measured():
    point = PostTraining(**SMALL).learn(SayA(), 64).curve.points[-1]
    assert set(PostTraining.watched) <= set(point.extras)


def test_the_first_model_is_kept_where_it_is_compared_with():
    alone = PostTraining(**SMALL).start(SayA(), 64, 0)
    assert alone.language.network is alone.network
    beside = PostTraining(**SMALL, objective=Clipped(kl=0.1)).start(SayA(), 64, 0)
    assert beside.language.network is not beside.network
    for one, two in zip(beside.language.network.parameters(), beside.network.parameters(), strict=True):
        assert torch.equal(one, two)


def of_numbers(loop):
    """A step of four different prompts; bytes of a row without its prompt, of a prompt, and of a row's logits."""
    state, experience, _ = of_one_step(loop, task=SayA(count=4, words=("aab", "aba", "bba", "bbb")))
    new, network = int(experience.lengths.max()), state.network
    units = network.model.layers[0].mlp.gate_proj.out_features
    a_token = 4 * 2 * (4 * (16 + 16) + 3 * (16 + units))  # of seven maps, without the head
    assert module.bytes_a_token(network, 3) == a_token
    assert module.bytes_a_token(network) == a_token + 4 * 2 * (16 + 3)
    # of each row its tokens, and a copy of its prompt's keys and values
    return network, experience.sampled, new * a_token + 3 * 4 * 2 * 16, 3 * a_token, 4 * 3 * new


def test_rows_at_once_are_whole_groups_or_equal_parts_of_one(monkeypatch):
    loop = PostTraining(**SMALL)
    network, sampled, row, prompt, logits = of_numbers(loop)
    row += logits
    for room, rows in (
        (3 * prompt + 12 * row - 1, 8),
        (2 * prompt + 8 * row, 8),
        (2 * prompt + 8 * row - 1, 4),
        (prompt + 4 * row, 4),
        (prompt + 4 * row - 1, 2),
        (prompt + 2 * row, 2),
        (prompt + row, 1),
        (0, 1),
    ):
        monkeypatch.setattr(module, "ROOM", room)
        assert loop._at_once(network, sampled) == rows
    longest = sampled.mask.sum(1).view(4, 4).argmax(1)
    alone = sampled.select(longest + 4 * torch.arange(4))  # as a selector may leave them
    for room, rows in ((4 * (prompt + row), 4), (4 * (prompt + row) - 1, 2), (2 * row + prompt - 1, 1)):
        monkeypatch.setattr(module, "ROOM", room)
        assert loop._at_once(network, alone) == rows
    assert PostTraining(**SMALL, rows=3)._at_once(network, sampled) == 3


def test_logits_count_as_far_as_they_are_kept(monkeypatch):
    loop = PostTraining(**SMALL)
    network, sampled, row, prompt, logits = of_numbers(loop)
    for kept in (0, logits // 4, 4 * logits // 4):  # of none, a row, a group; of twelve rows no more are kept
        monkeypatch.setattr(module, "KEPT", kept)
        for short, rows in ((0, 12), (1, 8)):
            monkeypatch.setattr(module, "ROOM", 3 * prompt + 12 * row + 4 * kept - short)
            assert loop._at_once(network, sampled) == rows


def test_models_that_read_a_prompt_with_each_row_fit_fewer(monkeypatch):
    loop = PostTraining(**SMALL)
    network, sampled, _, _, logits = of_numbers(loop)
    monkeypatch.setattr(module, "remembered", lambda network: 0)
    each = (3 + logits // 12) * module.bytes_a_token(network) + logits
    for room, rows in ((8 * each, 8), (8 * each - 1, 4), (2 * each, 2)):
        monkeypatch.setattr(module, "ROOM", room)
        assert loop._at_once(network, sampled) == rows


def counted(monkeypatch):
    """Rows that gradients are computed for, appended as they come."""
    read, real = [], module.teacher_forced

    def counting(network, sampled):
        if torch.is_grad_enabled():
            read.append(len(sampled.mask))
        return real(network, sampled)

    monkeypatch.setattr(module, "teacher_forced", counting)
    return read


@pytest.mark.parametrize("aggregate", ["tokens", "sequences"])
@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("objective", [Clipped(), Clipped(dual=3.0), Clipped(kl=0.1), PolicyGradient(), Balanced()])
def test_rollouts_without_advantage_are_read_only_where_something_else_is_learned_from_them(
    aggregate, rows, objective, monkeypatch
):
    read, gradients, reports = counted(monkeypatch), [], []
    for everywhere in (True, False):
        loop = PostTraining(**SMALL, aggregate=aggregate, objective=objective, rows=rows)
        state, experience, _ = of_one_step(loop)
        advantages = group_relative(experience.rewards.float()).reshape(-1, 1).expand(experience.mask.shape).clone()
        advantages[: loop.group] = 0
        advantages[-1] = 1
        with monkeypatch.context() as patch:
            if everywhere:
                for kind in (Clipped, PolicyGradient):
                    patch.setattr(kind, "everywhere", True)
            read.clear()
            reports.append(loop.learn_from(state, experience, advantages, experience.mask))
        gradients.append(torch.cat([each.grad.flatten() for each in state.network.parameters()]))
        whole = everywhere or objective == Clipped(kl=0.1)
        assert sum(read) == (len(advantages) if whole else int((advantages != 0).any(1).sum()))
        assert state.ledger["gradient_tokens"] == experience.mask.sum()
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)
    assert reports[0] == pytest.approx(reports[1], rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("filling", [grpo(), reinforce(), BAPO(), ReMax(), GRPOLambda(), SIRI(least=2, cycle=4)])
def test_a_run_ends_with_the_same_model_whether_or_not_they_are_read(filling, monkeypatch):
    read, ends, rows = counted(monkeypatch), [], []
    for everywhere in (True, False):
        with monkeypatch.context() as patch:
            if everywhere:
                for kind in (Clipped, PolicyGradient):
                    patch.setattr(kind, "everywhere", True)
            read.clear()
            learned = PostTraining(**{**SMALL, **filling}, clip=0.0).learn(SayA(), 20 * 8, seed=1)
        rows.append(sum(read))
        ends.append(learned.result.language.network.state_dict())
    assert rows[0] > rows[1] > 0
    for name, one in ends[0].items():
        torch.testing.assert_close(one, ends[1][name], rtol=1e-3, atol=1e-3)


def test_a_part_without_advantage_moves_by_momentum_alone(monkeypatch):
    loop, read = PostTraining(**SMALL), counted(monkeypatch)
    state, experience, _ = of_one_step(loop)
    zero, old = torch.zeros(experience.mask.shape), experience.sampled.logps
    report = loop._update(state, experience, torch.arange(4), old, None, zero, experience.mask)
    assert read == [1]
    assert report == {"loss": 0.0, "gradient norm": 0.0}
    assert all(each.grad is not None and not each.grad.any() for each in state.network.parameters())
    advantages = group_relative(experience.rewards.float()).reshape(-1, 1).expand(experience.mask.shape)
    loop.learn_from(state, experience, advantages, experience.mask)
    once = copy.deepcopy(state.network.state_dict())
    loop._update(state, experience, torch.arange(4), old, None, zero, experience.mask)
    assert any(not torch.equal(value, once[name]) for name, value in state.network.state_dict().items())
