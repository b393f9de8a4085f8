from __future__ import annotations

import json
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewer.claim import Evidence, judge
from fewer.core.curve import Curve
from fewer.core.errors import FewerError, MissingPackage
from fewer.core.seeding import derive
from fewer.labels import label_quality as paper
from fewer.labels.denoising import DenoisingAutoencoder
from fewer.labels.fine_tuning import FineTuning, seeded
from fewer.labels.label_quality import EntropySampling, Sequential, Split, label_quality
from fewer.labels.learners import FittedNetwork, Logistic
from fewer.labels.loop import EXPERT, PSEUDO, WEAK, ActiveLearning, Examples, Round
from fewer.labels.queries import Entropy
from fewer.labels.text_classifier import FittedText, HuggingFace, Prompt
from fewer.models.classifier import MLP
from fewer.tasks.classification import Classification

QUICK = FineTuning(visits=600)


def round_of(x, classes=2, seed=0, teacher=None):
    none = np.zeros(0, dtype=np.int64)
    return Round(0, classes, x, none, none, np.arange(len(x)), np.random.default_rng(seed), seed, teacher=teacher)


def pool(rows=300, seed=0):
    """Rows with a truth, and a weak labeller who sees one of the two features that matter."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 6)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 0).astype(np.int64)
    one = 1 / (1 + np.exp(-2 * x[:, 0]))
    return x, y, np.stack([1 - one, one], axis=1).astype(np.float32)


def examples(experts=20, weak=80, seed=0):
    x, y, soft = pool(seed=seed)
    rows = np.arange(experts, experts + weak)
    cheap = Examples(rows, soft[rows], np.ones(weak, np.float32), np.full(weak, WEAK))
    return x, Examples.hard(np.arange(experts), y[:experts], 2).and_(cheap)


def task(weak=True, seed=0):
    x, y, soft = pool(600, seed)
    return Classification("toy", x, y, ("no", "yes"), test=200, weak=soft if weak else None)


def state(model):
    return {name: value.clone() for name, value in model.network.state_dict().items()}


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


# --- the allocation -----------------------------------------------------------------------------


@given(st.floats(0, 1), st.integers(0, 5000), st.floats(0.01, 1))
def test_the_budget_is_spent_and_not_overdrawn(share, budget, price):
    experts, weak = Split(share).counts(budget, price)
    cost = experts + price * weak
    assert cost <= budget + 1e-6
    assert budget - cost < price + 1e-6
    assert abs(experts - share * budget) <= 1


@given(st.floats(0, 1), st.integers(0, 500), st.floats(0.01, 1))
def test_more_money_never_buys_fewer_of_either(share, budget, price):
    less, more = Split(share).counts(budget, price), Split(share).counts(budget + 1, price)
    assert less[0] <= more[0]
    assert less[1] <= more[1]


def test_the_papers_splits():
    assert [Split(share).counts(64, 0.1) for share in (1, 0.8, 0.6, 0.4, 0.2, 0.05, 0)] == [
        (64, 0),
        (51, 130),
        (38, 260),
        (25, 390),
        (12, 520),
        (3, 610),
        (0, 640),
    ]
    assert Split(0.7).counts(10, 0.1) == (7, 30)  # 0.7 * 10 is 7.000000000000001 or 6.99…, and 3 / 0.1 is not 30


def test_a_share_is_a_share():
    with pytest.raises(FewerError, match=r"from 0 to 1; 1\.2 was given"):
        Split(1.2)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_in_the_loop_the_two_sets_are_disjoint_and_the_ledger_adds_up(share):
    rows = []

    class Spy(type(Logistic())):
        def fit(self, known, round, start=None):
            rows.append(known)
            return super().fit(known, round, start)

    loop = ActiveLearning(
        allocation=Split(share), learner=Spy(Logistic().estimator), initial=8, per_round=8, growth=2, weak_price=0.2
    )
    learned = loop.learn(task(), budget=32, seed=0)
    assert [point.spent for point in learned.curve] == [8, 16, 32]
    for known, point in zip(rows, learned.curve, strict=True):
        assert len(np.unique(known.rows)) == len(known)
        experts, weak = Split(share).counts(point.spent, 0.2)
        assert (np.sum(known.source == EXPERT), np.sum(known.source == WEAK)) == (experts, weak)


# --- two stages ---------------------------------------------------------------------------------


def test_experts_only_is_plain_fine_tuning_to_the_bit():
    x, known = examples(weak=0)
    learner = Sequential(stage=QUICK)
    by_sequence = learner.fit(known, round_of(x))
    in_one_go = replace(learner, order="shuffled").fit(known, round_of(x))
    with seeded(0, "initial weights", 0):
        network = MLP().build((6,), 2)
    QUICK.fit(network, torch.from_numpy(x[known.rows]), known.target, known.weight, derive(0, "stage", 0, 0))
    assert equal(state(by_sequence), network.state_dict())
    assert equal(state(in_one_go), network.state_dict())


def test_weak_only_is_plain_fine_tuning_on_the_weak_labels_to_the_bit():
    x, known = examples(experts=0)
    as_if_expert = Examples(known.rows, known.target, known.weight, np.full(len(known), EXPERT))
    learner = Sequential(stage=QUICK)
    assert equal(state(learner.fit(known, round_of(x))), state(learner.fit(as_if_expert, round_of(x))))


def test_in_the_loop_experts_only_is_the_default_allocation():
    parts = label_quality(experts=1.0, visits=300, pretrain=5)
    curves = [
        [point.score for point in ActiveLearning(**options).run(task(), 20, seed=1)]
        for options in (parts, {"learner": parts["learner"]})
    ]
    assert curves[0] == curves[1]


def record_stages(monkeypatch):
    log = []
    original = FineTuning.fit

    def fit(self, network, inputs, target, weight, seed, log_confidence=0.0):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        done = original(self, network, inputs, target, weight, seed, log_confidence)
        after = {name: value.clone() for name, value in network.state_dict().items()}
        log.append((before, after, np.array(target), log_confidence, inputs))
        return done

    monkeypatch.setattr(FineTuning, "fit", fit)
    return log


def test_the_experts_stage_goes_on_where_the_weak_one_ended_head_and_all(monkeypatch):
    log = record_stages(monkeypatch)
    x, known = examples()
    round = round_of(x)
    model = Sequential(stage=QUICK, log_confidence=0.5).fit(known, round)
    (_, weak_end, weak_target, weak_share, _), (expert_begin, expert_end, expert_target, expert_share, _) = log
    assert equal(weak_end, expert_begin)
    assert not equal(expert_begin, expert_end)
    assert equal(expert_end, state(model))
    np.testing.assert_array_equal(weak_target, known.of(WEAK).target)
    np.testing.assert_array_equal(expert_target, known.of(EXPERT).target)
    assert (weak_share, expert_share) == (0.5, 0.0)
    assert set(round.report) == {"weak_steps", "expert_steps"}


def test_the_control_trains_once_on_all(monkeypatch):
    log = record_stages(monkeypatch)
    x, known = examples()
    Sequential(stage=QUICK, order="shuffled").fit(known, round_of(x))
    assert [len(target) for _, _, target, _, _ in log] == [100]


def test_pseudo_labels_belong_to_the_first_stage_and_training_goes_on_from_the_model(monkeypatch):
    x, known = examples()
    learner = Sequential(stage=QUICK)
    model = learner.fit(known, round_of(x))
    before = state(model)
    log = record_stages(monkeypatch)
    extra = Examples(np.arange(200, 230), known.target[:30], np.full(30, 0.1, np.float32), np.full(30, PSEUDO))
    learner.fit(known.and_(extra), round_of(x), model)
    assert [len(target) for _, _, target, _, _ in log] == [110, 20]
    assert equal(log[0][0], before)
    assert equal(state(model), before)  # the model gone on from is not touched


def test_with_equal_labels_at_equal_prices_the_split_does_not_matter():
    x, y, _ = pool(900)
    truth = np.eye(2, dtype=np.float32)[y]
    even = Classification("even", x, y, ("no", "yes"), test=300, weak=truth)
    scores = [
        np.mean(
            [
                ActiveLearning(**label_quality(experts=share, visits=3000, pretrain=0), initial=200, weak_price=1.0)
                .learn(even, 200, seed)
                .curve.final
                for seed in range(3)
            ]
        )
        for share in (0.0, 0.5, 1.0)
    ]
    assert min(scores) > 0.85
    assert max(scores) - min(scores) < 0.06


def test_the_pool_is_pretrained_on_once_a_run_and_each_round_starts_there(monkeypatch):
    calls = []
    original = DenoisingAutoencoder.pretrain

    def pretrain(self, network, x, seed):
        calls.append(len(x))
        return original(self, network, x, seed)

    monkeypatch.setattr(DenoisingAutoencoder, "pretrain", pretrain)
    log = record_stages(monkeypatch)
    loop = ActiveLearning(**label_quality(experts=0.5, visits=100, pretrain=5), initial=10, per_round=10)
    list(loop.run(task(), 30, seed=0))
    assert calls == [400]
    starts = [before for before, *_ in log[::2]]
    backbones = [{name: value for name, value in start.items() if name.startswith("backbone")} for start in starts]
    assert len(starts) == 3
    assert all(equal(backbones[0], other) for other in backbones[1:])


def test_a_run_resumed_from_its_checkpoint_is_the_same_run(tmp_path):
    loop = ActiveLearning(**label_quality(experts=0.5, visits=200, pretrain=5), initial=10, per_round=10)
    whole = [point.score for point in loop.run(task(), 40, seed=0)]
    file = tmp_path / "run.safetensors"
    first = loop.run(task(), 40, seed=0, checkpoint=file)
    next(first), next(first)
    first.close()
    assert [point.score for point in loop.run(task(), 40, seed=0, checkpoint=file)] == whole


def test_several_classes():
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    x = (rng.normal(size=(300, 4)) + 3 * np.eye(4)[y]).astype(np.float32)
    model = Sequential(stage=FineTuning(visits=3000)).fit(Examples.hard(np.arange(90), y[:90], 3), round_of(x, 3))
    assert np.mean(model.predict_proba(x[90:]).argmax(axis=1) == y[90:]) > 0.85


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: label_quality(lora=8), "lora adapts a text model; give model= its folder"),
        (lambda: label_quality(order="experts first"), "unknown order 'experts first'"),
        (lambda: label_quality(log_confidence=2.0), "log_confidence is a share, from 0 to 1; 2.0"),
        (lambda: label_quality(few_shot=2), "few_shot puts texts in front of texts"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(FewerError, match=message):
        make()


def test_inputs_that_make_no_sense_are_refused():
    x, known = examples()
    with pytest.raises(FewerError, match="cannot learn from a teacher"):
        Sequential().fit(known, round_of(x, teacher=np.zeros((300, 2))))
    with pytest.raises(FewerError, match="cannot be fitted to no examples"):
        Sequential().fit(Examples.hard(np.zeros(0, int), np.zeros(0, int), 2), round_of(x))
    with pytest.raises(FewerError, match="can only go on from a network, not from FittedEstimator"):
        Sequential().fit(known, round_of(x), Logistic().fit(known, round_of(x)))
    texts = np.array(["a", "b"], dtype=object)
    with pytest.raises(FewerError, match="the rows are texts; give model="):
        Sequential().fit(Examples.hard(np.arange(2), np.arange(2), 2), round_of(texts))


# --- entropy sampling ---------------------------------------------------------------------------


def sampled(probabilities, temperature, count, seed=0):
    round = round_of(np.zeros((len(probabilities), 1)), seed=seed)
    round.given_probabilities = np.asarray(probabilities)
    return EntropySampling(temperature).choose(round, count), round


def binary(one):
    one = np.asarray(one, dtype=np.float64)
    return np.stack([1 - one, one], axis=1)


def test_at_temperature_zero_it_is_the_set_of_largest_entropy():
    chances = binary(np.random.default_rng(0).random(50))
    chosen, round = sampled(chances, 0, 10)
    np.testing.assert_array_equal(np.sort(chosen), np.sort(Entropy().choose(round, 10)))
    np.testing.assert_array_equal(np.sort(chosen), np.sort(np.argsort(np.abs(chances[:, 1] - 0.5))[:10]))


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_rows_are_drawn_in_proportion_to_a_power_of_their_entropy(temperature):
    one = np.array([0.5, 0.3, 0.1, 0.02])
    entropy = -(one * np.log(one) + (1 - one) * np.log(1 - one))
    weight = entropy ** (1 / temperature)
    weight /= weight.sum()
    draws = 4000
    first = np.array([sampled(binary(one), temperature, 1, seed)[0][0] for seed in range(draws)])
    share = np.bincount(first, minlength=4) / draws
    assert np.all(np.abs(share - weight) < 4 * np.sqrt(weight * (1 - weight) / draws) + 1e-3)


def test_rows_are_different_and_certain_ones_come_last():
    chances = binary([0.0, 0.5, 1.0, 0.4, 0.3])
    for seed in range(20):
        chosen, _ = sampled(chances, 0.25, 4, seed)
        assert len(set(chosen.tolist())) == 4
        assert {1, 3, 4} <= set(chosen.tolist())


def test_entropy_sampling_runs_in_the_loop():
    loop = ActiveLearning(query=EntropySampling(), **label_quality(0.5, visits=100, pretrain=0))
    assert [point.spent for point in loop.run(task(), 20, seed=0)] == [10, 20]


def test_a_negative_temperature_is_refused():
    with pytest.raises(FewerError, match="must not be negative; -1"):
        EntropySampling(-1)


# --- texts --------------------------------------------------------------------------------------

WORDS = ["good", "bad", "fine", "poor", "film", "plot", "0", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny untrained BERT with a tokenizer of whole words."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    path = tmp_path_factory.mktemp("model")
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=24
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(path)
    return path


def reviews(rows=80, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, rows)
    texts = [
        f"{rng.choice(['film', 'plot'])} {rng.choice(['good', 'fine'] if label else ['bad', 'poor'])}" for label in y
    ]
    return np.array(texts, dtype=object), y


def text_learner(folder, **more):
    return Sequential(HuggingFace(str(folder)), stage=FineTuning(visits=1500, lr=5e-3, validation=0), **more)


def test_a_text_classifier_learns_in_two_stages(folder):
    x, y = reviews()
    soft = np.eye(2, dtype=np.float32)[y] * 0.6 + 0.2
    weak = Examples(np.arange(40), soft[:40], np.ones(40, np.float32), np.full(40, WEAK))
    round = round_of(x)
    model = text_learner(folder).fit(weak.and_(Examples.hard(np.arange(40, 52), y[40:52], 2)), round)
    assert isinstance(model, FittedText)
    assert np.mean(model.predict_proba(x).argmax(axis=1) == y) > 0.9
    np.testing.assert_allclose(model.predict_proba(x[:7]), model.predict_proba(x)[:7], atol=1e-5)  # padding is masked
    assert model.embed(x[:3]).shape == (3, 16)
    assert set(round.report) == {"weak_steps", "expert_steps"}


def test_prompt_examples_stand_before_every_text_and_are_not_trained_on(folder, monkeypatch):
    log = record_stages(monkeypatch)
    x, y = reviews()
    weak = Examples(np.arange(10), np.eye(2, dtype=np.float32)[y[:10]], np.ones(10, np.float32), np.full(10, WEAK))
    known = Examples.hard(np.arange(10, 20), y[10:20], 2).and_(weak)
    model = text_learner(folder, few_shot=2).fit(known, round_of(x))
    assert [len(target) for _, _, target, _, _ in log] == [8, 10]
    shots = {f"{x[row]}\n{y[row]}" for row in (0, 1)}
    for row, text in zip(np.arange(10, 20), log[1][4], strict=True):
        first, second, last = text.split("\n\n")
        assert {first, second} == shots
        assert last == f"{x[row]}\n"
    np.testing.assert_array_equal(model.predict_proba(x), model.predict_proba(x))
    assert model.prompt == Prompt((x[0], x[1]), (str(y[0]), str(y[1])))


def test_without_weak_labels_the_prompt_is_the_experts(folder):
    x, y = reviews()
    model = text_learner(folder, few_shot=3).fit(Examples.hard(np.arange(12), y[:12], 2), round_of(x))
    assert model.prompt.texts == tuple(x[:3])


def test_prompts_are_shuffled_anew_for_each_text_and_equal_for_equal_seeds():
    prompt = Prompt(tuple("abcd"), tuple("0011"))
    texts = np.array(["x"] * 200, dtype=object)
    made = prompt.before(texts, seed=0)
    np.testing.assert_array_equal(made, prompt.before(texts, seed=0))
    assert len(set(made)) > 15  # of 24 orders
    assert all(sorted(text.split("\n\n")[:-1]) == ["a\n0", "b\n0", "c\n1", "d\n1"] for text in made)


def test_long_prompts_lose_their_beginning_and_not_the_text(folder):
    x, y = reviews()
    model = text_learner(folder, few_shot=12).fit(Examples.hard(np.arange(20), y[:20], 2), round_of(x))
    tokens = model.network._tokens(model.prompt.before(x[:1], 0))["input_ids"][0]
    assert len(tokens) == 24
    words = model.network.tokenizer.convert_ids_to_tokens(tokens)
    assert words[-2:] == x[0].split()


def test_a_head_of_another_size_is_replaced_and_weights_come_from_safetensors(folder):
    with seeded(0, "head"):
        network = HuggingFace(str(folder)).build((), 5)
    assert network(np.array(["good film"], dtype=object)).shape == (1, 5)
    assert network.max_length == 24  # the tokenizer's, which is below the model's


def test_folders_that_are_no_text_classifier_are_refused(folder, tmp_path):
    with pytest.raises(FewerError, match="no model folder at nowhere; give the path"):
        HuggingFace("nowhere").build((), 2)
    with pytest.raises(FewerError, match=r"is no text classifier: .*must hold config\.json"):
        HuggingFace(str(tmp_path)).build((), 2)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")  # a pickle is not even looked at
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(FewerError, match="is no text classifier"):
        HuggingFace(str(tmp_path)).build((), 2)


def test_a_text_model_cannot_read_numbers(folder):
    x, known = examples()
    with pytest.raises(FewerError, match="the rows are numbers and the model reads texts; leave out model="):
        text_learner(folder).fit(known, round_of(x))


def test_adapters_need_a_package_and_are_put_on_all_linear_layers(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingPackage, match="lora needs the package peft"):
        HuggingFace(str(folder), lora=4).build((), 2)
    asked = {}
    stub = types.ModuleType("peft")
    stub.LoraConfig = lambda **options: asked.update(options) or "config"
    stub.get_peft_model = lambda model, config: asked.update(config=config) or model
    monkeypatch.setitem(sys.modules, "peft", stub)
    HuggingFace(str(folder), lora=4).build((), 2)
    assert asked == {"task_type": "SEQ_CLS", "r": 4, "target_modules": "all-linear", "config": "config"}


# --- the paper's name ---------------------------------------------------------------------------


def test_the_factory_fills_two_slots():
    parts = label_quality(experts=0.2, visits=100, pretrain=0, validation=0, log_confidence=0.5)
    assert set(parts) == {"allocation", "learner"}
    assert parts["allocation"] == Split(0.2)
    assert parts["learner"].stage == FineTuning(100, 2e-3, validation=0)
    assert parts["learner"].warm_start is None
    assert label_quality()["learner"].warm_start == DenoisingAutoencoder(600)
    assert [label_quality(model="m", lora=r)["learner"].stage.lr for r in (0, 8)] == [5e-5, 5e-4]


def test_the_claims_speak_of_their_entries():
    for claim in paper.claim:
        for each in (claim, claim.small()):
            curve = Curve.of([(16, 0.6), (64, 0.7), (256, 0.8), (1024, 0.9)])
            evidence = Evidence(curves={label: [curve, curve] for label in each.entries})
            assert len(judge(each, evidence)) == len(claim.holds)
        assert set(claim.small().entries) <= set(claim.entries)


def test_fitted_networks_are_ordinary_models():
    x, known = examples()
    model = Sequential(stage=QUICK).fit(known, round_of(x))
    assert isinstance(model, FittedNetwork)
    np.testing.assert_allclose(model.predict_proba(x).sum(axis=1), 1, atol=1e-5)
    assert model.embed(x).shape == (300, 64)
