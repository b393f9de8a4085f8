"""Somebody's own rows from several domains: images in folders or in a list of files, and tables with a column that says where.

Labels are bought in the domains that are known; those that are new are met without any.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import nn

from fewer.adapt.concept_shift import DomainTask, Encoder
from fewer.adapt.loop import Labelled
from fewer.core.errors import FewerError, nearest
from fewer.core.files import fingerprint
from fewer.core.seeding import derive, generator
from fewer.tasks.arrays import image_files, read_images, sub_folders
from fewer.tasks.classification import Classification, rows_held_out, standardised, stratified
from fewer.tasks.files import existing, read_csv, read_parquet
from fewer.tasks.tables import Columns, encode, rows_of


@dataclass(frozen=True, eq=False)
class OwnDomains(DomainTask):
    """Rows with classes and domains; the model to begin from is a small network that nobody has trained.

    Parameters
    ----------
    given : Classification
        Rows and classes; its ``test`` is the share, or number, of rows of known domains that are scored and not learned from.
    of : array (rows,) of str
        Where each row is from.
    new : tuple of str, default ()
        Domains of which no label can be bought: the score is the mean of the accuracies in them.  Without any, it is that
        in the known domains.

    Raises
    ------
    FewerError
        If rows do not say where they are from, a domain is unknown, or nothing is left to learn from.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, site = rng.normal(size=(60, 3)).astype(np.float32), np.repeat(["east", "north", "west"], 20)
    >>> given = Classification("sites", x, (x[:, 0] > 0).astype(int), ("no", "yes"), test=0.2)
    >>> task = OwnDomains(given, site, new=("west",))
    >>> rows = task.labelled(seed=0)
    >>> task.domains, len(rows.y), rows.test_domains.bincount().tolist()
    (('east', 'north'), 32, [4, 4, 20])
    """

    named: ClassVar[bool] = True
    metric: ClassVar[str] = "accuracy"

    given: Classification
    of: Shaped[np.ndarray, " rows"]
    new: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        name, known = self.name, np.unique(self.of).tolist()
        if len(self.of) != len(self.given.y):
            raise FewerError(f"{name}: {len(self.given.y)} rows but {len(self.of)} domains; give one domain a row")
        for each in self.new:
            if each not in known:
                raise FewerError(f"{name}: no row is from the domain {each!r}; {nearest(each, known)}")
        if len(self.new) == len(known):
            raise FewerError(f"{name}: all domains are new; leave one or more of {', '.join(known)} to learn from")
        learned = np.unique(self.given.y[~np.isin(self.of, self.new)])
        for label in sorted(set(range(len(self.given.classes))) - set(learned.tolist())):
            raise FewerError(
                f"{name}: the class {self.given.classes[label]!r} is only there in {', '.join(self.new)}, where no label can be "
                "bought; leave its rows out"
            )

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of what was given, and the domains that are new."""
        return self.given.name + (f", {', '.join(self.new)} new" if self.new else "")

    @property
    def classes(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Their names."""
        return self.given.classes

    @property
    def domains(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Names of those in which labels can be bought."""
        return tuple(each for each in np.unique(self.of).tolist() if each not in self.new)

    def domain_name(self, domain: int) -> str:
        """Of a known domain, or behind these of a new one."""
        return (*self.domains, *self.new)[domain]

    def fingerprint(self) -> str:
        """Of rows, classes, domains and which of these are new."""
        return fingerprint(self.given.fingerprint(), "\x1f".join(self.of.tolist()), repr(self.new))

    def base(self, seed: int) -> nn.Module:
        """A network that nobody has trained."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "encoder"))
            return Encoder(tuple(self.given.x.shape[1:]))

    def labelled(self, seed: int) -> Labelled:
        """Rows of known domains in random order, but for those held out, which are scored before those of new domains."""
        rng, domain = generator(seed, "domains"), self._places()
        known = rng.permutation(np.flatnonzero(domain < len(self.domains)))
        # each class of each domain keeps its share
        kind = domain[known] * len(self.classes) + self.given.y[known]
        held = stratified(kind, rows_held_out(self.name, self.given.test, len(known)), rng)
        at, tested = np.delete(known, held), np.concatenate([known[held], np.flatnonzero(domain >= len(self.domains))])
        x, test_x = self.given.x[at], self.given.x[tested]
        if self.given.standardise:
            x, test_x = standardised(x, test_x)
        parts = (np.ascontiguousarray(each, dtype=np.float32) for each in (x, test_x))
        rows, test_rows = map(torch.from_numpy, parts)
        y, test_y, of, test_of = (
            torch.from_numpy(each.astype(np.int64))
            for each in (self.given.y[at], self.given.y[tested], domain[at], domain[tested])
        )
        return Labelled(rows, y, test_rows, test_y, of, test_of)

    def _places(self) -> Int[np.ndarray, " rows"]:
        """Of each row's domain among the known and then the new ones."""
        order = {each: place for place, each in enumerate((*self.domains, *self.new))}
        return np.array([order[each] for each in self.of.tolist()])


def domain_images(
    path: str,
    new: str | int | Iterable[str] = (),
    *,
    size: int = 32,
    gray: bool = False,
    image: str = "path",
    label: str = "label",
    domain: str = "domain",
    test: int | float = 0.2,
) -> OwnDomains:
    """Make a task of images from several domains.

    Parameters
    ----------
    path : str
        A folder with a sub-folder for each domain and in it one for each class (``photos/sketch/dog/1.png``; deeper folders
        belong to the class), or a CSV file with a line for each image.
    new : str, number or list of these, default ()
        Domains of which no label can be bought, and in which it is scored; by default none, and it is scored on images of
        the others that were not learned from.
    size : int, default 32
        Height and width that every image is scaled to, in pixels.
    gray : bool, default False
        One channel of grey in place of red, green and blue.
    image, label, domain : str, default "path", "label" and "domain"
        Columns of a CSV file: the image's file, named from the folder the CSV file is in, its class, and where it is from.
    test : int or float, default 0.2
        Images, or share of images, of known domains that are scored and not learned from, anew for each seed.

    Returns
    -------
    OwnDomains
        ``given.x`` of shape (images, channels, size, size), in [0, 1].

    Raises
    ------
    MissingPackage
        If Pillow is not installed.
    FewerError
        If files or columns cannot be read, or domains and classes do not make a task.
    """
    home = Path(path).expanduser()
    if home.is_dir():
        found = [
            (file, kind.name, place.name)
            for place in sub_folders(home)
            for kind in sub_folders(place)
            for file in image_files(kind)
        ]
        if not found:
            raise FewerError(
                f"domain-images: {home} has no images two folders deep; lay them out as domain/class/image.png, or give a CSV "
                f"file with the columns {image}, {label} and {domain}"
            )
        files, labels, of = (list(each) for each in zip(*found, strict=True))
        name, where = home.name, "its folders"
    else:
        file = existing(path)
        table = read_csv(file, ",")
        for column in (image, label, domain):
            if column not in table.columns:
                raise FewerError(f"{file.name}: no column {column!r}; {nearest(column, map(str, table.columns))}")
        blank = table[image].isna().to_numpy()
        if blank.any():
            raise FewerError(
                f"{file.name}: column {image!r} names no file in {rows_of(blank)}; fill or drop those rows"
            )
        files = [existing(str(file.parent / str(each))) for each in table[image]]
        labels, of = table[label].to_numpy(), table[domain]
        name, where = file.name, f"column {label!r}"
    y, classes = encode(np.asarray(labels), name, where)
    x = read_images(files, size, gray, "domain-images")
    return _with_domains(Classification(name, x, y, classes, test=test), of, new, domain)


def domain_table(
    path: str,
    target: str,
    domain: str,
    new: str | int | Iterable[str] = (),
    *,
    features: str | Iterable[str] | None = None,
    drop: str | Iterable[str] = (),
    categorical: str | Iterable[str] | None = None,
    text: str | None = None,
    embed: Literal["tfidf", "minilm"] = "tfidf",
    impute: Literal["median"] | None = None,
    test: int | float = 0.2,
    separator: str = ",",
) -> OwnDomains:
    r"""Make a task of a table whose rows say where they are from.

    Parameters
    ----------
    path : str
        A CSV or Parquet file.
    target, domain : str
        Columns of the class, and of where a row is from, which is not learned from.
    new : str, number or list of these, default ()
        As in :func:`domain_images`.
    features, drop, categorical, text, embed, impute, separator
        As in :func:`fewer.tasks.files.csv`.
    test : int or float, default 0.2
        Rows, or share of rows, of known domains that are scored and not learned from, anew for each seed.

    Raises
    ------
    FewerError
        If the file cannot be read, or its columns do not make a task.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "beds.csv"
    >>> rows = [f"{age},{'yes' if age > 50 else 'no'},{site}" for age in range(40, 60) for site in ("north", "south")]
    >>> _ = file.write_text("age,ill,site\n" + "\n".join(rows))
    >>> task = domain_table(str(file), target="ill", domain="site", new="south")
    >>> task.given.x.shape, task.domains, task.new
    ((40, 1), ('north',), ('south',))
    """
    file = existing(path)
    table = read_parquet(file) if file.suffix.lower() in (".parquet", ".pq") else read_csv(file, separator)
    if domain not in table.columns:
        raise FewerError(f"{file.name}: no column {domain!r}; {nearest(domain, map(str, table.columns))}")
    if domain == target:
        raise FewerError(f"{file.name}: {domain!r} is given as target and as domain; name two columns")
    left_out = [domain, *([drop] if isinstance(drop, str) else drop)]
    columns = Columns(target, features, left_out, categorical, text, embed, None, impute)
    given = columns.task(table, file.name, "accuracy", test)
    assert isinstance(given, Classification)
    return _with_domains(given, table[domain], new, domain)


def _with_domains(
    given: Classification, of: Iterable[object], new: str | int | Iterable[str], column: str
) -> OwnDomains:
    """Read the domains of rows."""
    listed = list(of)
    blank = np.array([each is None or each != each or not str(each).strip() for each in listed])
    if blank.any():
        raise FewerError(
            f"{given.name}: column {column!r} names no domain in {rows_of(blank)}; fill or drop those rows"
        )
    names = np.array([str(each) for each in listed])
    return OwnDomains(given, names, (str(new),) if isinstance(new, str | int) else tuple(map(str, new)))
