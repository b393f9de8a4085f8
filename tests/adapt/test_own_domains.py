"""Somebody's rows from several domains: folders and lists are alike, new domains give no label, methods run, errors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from fewer import compose
from fewer.adapt.drm import DomainHeads
from fewer.adapt.own_domains import OwnDomains, domain_images, domain_table
from fewer.core.errors import FewerError
from fewer.tasks.classification import Classification

DOMAINS, CLASSES, EACH = ("photo", "sketch", "toy"), ("cat", "dog"), 10


@pytest.fixture
def photos(tmp_path):
    """Images whose red says the class, whose green says the domain, and whose blue counts them."""
    pillow = pytest.importorskip("PIL.Image")
    rows = []
    for d, domain in enumerate(DOMAINS):
        for c, kind in enumerate(CLASSES):
            (tmp_path / "photos" / domain / kind / "deeper").mkdir(parents=True)
            for index in range(EACH):
                name = f"{domain}/{kind}/{'deeper/' if index == 9 else ''}{index}.png"
                pixels = np.zeros((8, 8, 3), dtype=np.uint8)
                pixels[..., 0], pixels[..., 1], pixels[..., 2] = 100 * c + 50, 60 * d + 20, index
                pillow.fromarray(pixels).save(tmp_path / "photos" / name)
                rows.append({"path": name, "label": kind, "domain": domain})
    (tmp_path / "photos" / ".hidden" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    pd.DataFrame(rows).sample(frac=1, random_state=0).to_csv(tmp_path / "photos" / "list.csv", index=False)
    return tmp_path / "photos"


def read(x):
    """Class, domain and number of images, as they were drawn."""
    return [(int(r // 100), int((g - 20) // 60), int(b)) for r, g, b in (255 * x[:, :, 0, 0]).round().int().tolist()]


@pytest.mark.parametrize("new", [(), "sketch", ["toy", "photo"]])
def test_each_image_is_learned_from_or_scored_with_its_own_class_and_domain(photos, new):
    task = domain_images(str(photos), new, size=8)
    named = (new,) if isinstance(new, str) else tuple(new)
    assert task.classes == CLASSES
    assert task.domains == tuple(each for each in DOMAINS if each not in named)
    rows = task.labelled(0)
    everything = (*task.domains, *named)
    seen = []
    for x, y, of in ((rows.x, rows.y, rows.domains), (rows.test_x, rows.test_y, rows.test_domains)):
        for (c, d, number), label, domain in zip(read(x), y.tolist(), of.tolist(), strict=True):
            assert (CLASSES[c], DOMAINS[d]) == (task.classes[label], everything[domain])
            assert task.domain_name(domain) == everything[domain]
            seen.append((c, d, number))
    assert len(set(seen)) == len(seen) == len(DOMAINS) * len(CLASSES) * EACH
    assert int(rows.domains.max()) < len(task.domains)  # no label of a new domain
    # a fifth of each class of each known domain is held out; of new domains everything is
    counts = torch.bincount(2 * rows.test_domains + rows.test_y)
    assert counts.tolist() == [2] * (2 * len(task.domains)) + [EACH] * (2 * len(named))


def test_a_list_of_files_says_the_same_as_folders(photos):
    folders, listed = domain_images(str(photos), "toy", size=8), domain_images(str(photos / "list.csv"), "toy", size=8)
    order = [np.lexsort((*each.given.x[:, :, 0, 0].T,)) for each in (folders, listed)]
    for name in ("x", "y"):
        one, other = (getattr(each.given, name)[o] for each, o in zip((folders, listed), order, strict=True))
        assert np.array_equal(one, other)
    assert folders.of[order[0]].tolist() == listed.of[order[1]].tolist()
    table = pd.read_csv(photos / "list.csv").rename(columns={"path": "file", "label": "what", "domain": "where"})
    table.to_csv(photos / "other.csv", index=False)
    other = domain_images(str(photos / "other.csv"), "toy", size=8, image="file", label="what", domain="where")
    assert np.array_equal(other.given.x, listed.given.x)
    assert other.fingerprint() == listed.fingerprint()


def test_seeds_and_fingerprints(photos):
    task = domain_images(str(photos), "toy", size=8)
    assert torch.equal(task.labelled(1).x, task.labelled(1).x)
    assert not torch.equal(task.labelled(1).x, task.labelled(2).x)
    assert domain_images(str(photos), "toy", size=8).fingerprint() == task.fingerprint()
    assert domain_images(str(photos), "sketch", size=8).fingerprint() != task.fingerprint()
    moved = OwnDomains(task.given, np.roll(task.of, 1), ("toy",))
    assert moved.fingerprint() != task.fingerprint()


@pytest.mark.parametrize(
    "entry", ["drm", "erm", "drm(select='soft')", "drm(online=True)", "linear-probe", "drm + bias-only"]
)
def test_methods_run_on_images_and_say_how_right_they_are_in_each_domain(photos, entry):
    task = compose.task(f"domain-images('{photos}', new='sketch', size=8)")
    point = compose.loop(f"adaptation(steps=3, points=1) + {entry}").learn(task, 24, 0).curve.points[-1]
    assert {"in photo", "in toy", "in sketch", "source"} <= set(point.extras)
    assert point.score == point.extras["in sketch"] == point.extras["worst domain"]
    assert point.extras["source"] == pytest.approx((point.extras["in photo"] + point.extras["in toy"]) / 2)


def test_without_a_new_domain_the_known_ones_are_the_score_and_each_learns_its_own_rule(tmp_path):
    """Two sites whose rules are opposite: one linear rule for both cannot be right, one for each can."""
    rng = np.random.default_rng(0)
    value, site = rng.normal(size=400).round(4), np.arange(400) % 2
    table = pd.DataFrame(
        {"value": value, "elsewhere": site, "site": np.array(["n", "s"])[site], "ill": (value > 0) == (site == 0)}
    )
    table.to_csv(tmp_path / "beds.csv", index=False)
    task = domain_table(str(tmp_path / "beds.csv"), "ill", "site")
    assert (task.domains, task.new, task.given.x.shape) == (("n", "s"), (), (400, 2))
    table.to_parquet(tmp_path / "beds.parquet")
    again = domain_table(str(tmp_path / "beds.parquet"), "ill", "site")
    assert np.array_equal(again.given.x, task.given.x)
    found = compose.loop("adaptation(steps=200, points=1, batch=64) + drm").learn(task, 300, 0)
    point = found.curve.points[-1]
    assert point.score == point.extras["source"] > 0.9
    assert isinstance(found.result.head, DomainHeads)
    rows = task.labelled(0)
    assert rows.x.mean(0).abs().max() < 1e-5  # standardised by the rows that labels can be bought for


def test_texts_and_left_out_columns(tmp_path):
    rows = [
        {"id": i, "said": f"{'good' if i % 2 else 'bad'} film {i % 5}", "y": i % 2, "from": i % 3} for i in range(60)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "films.csv", index=False)
    numbers = domain_table(str(tmp_path / "films.csv"), "y", "from", 2, drop=["said"])
    assert (numbers.given.x.shape, numbers.domains, numbers.new) == ((60, 1), ("0", "1"), ("2",))
    texts = domain_table(str(tmp_path / "films.csv"), "y", "from", ["2"], text="said")
    assert len(texts.given.x) == 60
    assert texts.given.x.ndim == 2


def given_rows(labels=(0, 1) * 6):
    return Classification("rows", np.zeros((12, 2), dtype=np.float32), np.array(labels), ("no", "yes"))


SITES = np.repeat(["a", "b", "c"], 4)


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda p: OwnDomains(given_rows(), SITES[:5]), "12 rows but 5 domains; give one domain a row"),
        (lambda p: OwnDomains(given_rows(), SITES, ("d",)), "no row is from the domain 'd'"),
        (
            lambda p: OwnDomains(given_rows(), SITES, ("a", "b", "c")),
            "all domains are new; leave one or more of a, b, c",
        ),
        (lambda p: OwnDomains(given_rows([0] * 8 + [1] * 4), SITES, ("c",)), "the class 'yes' is only there in c"),
        (
            lambda p: domain_images(str(p / "photo" / "cat")),
            "has no images two folders deep; lay them out as domain/class",
        ),
        (lambda p: domain_images(str(p / "nowhere")), "no file at"),
        (lambda p: domain_images(str(p), "sketches"), "no row is from the domain 'sketches'.*sketch"),
        (lambda p: domain_images(str(p / "list.csv"), domain="site"), "no column 'site'"),
        (lambda p: domain_images(str(p), size=0), "size is 0; give pixels a side"),
        (lambda p: domain_table(str(p / "list.csv"), "label", "label"), "given as target and as domain"),
        (lambda p: domain_table(str(p / "list.csv"), "label", "site"), "no column 'site'"),
        (lambda p: domain_table(str(p / "list.csv"), "kind", "domain", drop="path"), "no column 'kind'"),
    ],
)
def test_errors(do, message, photos):
    with pytest.raises(FewerError, match=message):
        do(photos)


def test_gaps_in_a_list_are_named(photos):
    table = pd.read_csv(photos / "list.csv").head(6)
    for column, message in (("path", "names no file"), ("domain", "names no domain"), ("label", "have no label")):
        broken = table.copy()
        broken.loc[2, column] = None
        broken.to_csv(photos / "broken.csv", index=False)
        with pytest.raises(FewerError, match=f"{message}.*row.* 3"):
            domain_images(str(photos / "broken.csv"))
    table.loc[1, "path"] = "nowhere.png"
    table.to_csv(photos / "broken.csv", index=False)
    with pytest.raises(FewerError, match=r"no file at .*nowhere\.png"):
        domain_images(str(photos / "broken.csv"))
