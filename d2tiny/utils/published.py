"""Published weights: what a manifest offers, found by name or config, read only with the checksum that it states.

Weights of d2tiny lie in ``d2tiny/weights`` beside their ``manifest.json``. A folder or URL of the same form, in
``D2TINY_WEIGHTS`` or given as ``place``, comes before them. Nothing here imports torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from d2tiny.utils.download import fetch_file, fetch_text, sha256_of
from d2tiny.utils.errors import CheckpointError, did_you_mean
from d2tiny.utils.licences import DataSource

__all__ = [
    "MANIFEST",
    "PLACE_VARIABLE",
    "SCHEME",
    "Manifest",
    "Measurement",
    "PublishedWeights",
    "by_config",
    "default_labels",
    "default_weights",
    "known_manifests",
    "known_weights",
    "manifest_text",
    "named_weights",
    "read_manifest",
    "shipped_folder",
    "weights_of_config",
]

MANIFEST = "manifest.json"
PLACE_VARIABLE = "D2TINY_WEIGHTS"
SCHEME = "d2tiny://"
_VERSION = 1
_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}\Z"

_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Count = Annotated[int, msgspec.Meta(ge=1)]


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What was measured of the published file and of trainings of the same config.

    Attributes:
        dataset: registered name of the split.
        protocol: of the evaluation.
        metrics: of this file, in percent; None where there are no objects.
        runs: how many trainings the spread is over, this one included.
        spread: metric to its lowest and highest value over the runs.
        results: files of the runs under ``results/``.
        images: what images and objects the split has, for the model card.
    """

    dataset: _Text
    protocol: _Text
    metrics: dict[str, float | None]
    runs: _Count = 1
    spread: dict[str, tuple[float, float]] = {}
    results: tuple[str, ...] = ()
    images: str = ""


class PublishedWeights(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One entry of a manifest.

    Attributes:
        name: what users type; also the name of the file and of the model card.
        title: one line, what it finds and where.
        config: the zoo name of its config.
        file: name beside the manifest.
        sha256: of the file.
        size: of the file, in bytes.
        classes: names of the classes, in the order of their ids.
        licence: SPDX identifier of the weights.
        data: what they were trained on, and from which weights on.
        measured: figures, from ``results``.
        images: what images they are made for.
        not_for: what they are not made for, a sentence each.
        fails: where they fail in the pictures that somebody looked at, a sentence each.
        training: how it was trained, one line.
        kind: of images for which they are taken where nothing is named, ``grey`` or ``colour``; empty for neither.
        also: figures on other images.
        place: folder or URL of the manifest; not a part of it.
    """

    name: Annotated[str, msgspec.Meta(pattern=_NAME)]
    title: _Text
    config: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]+/[A-Za-z0-9_.-]+\Z")]
    file: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}\.pth\Z")]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    size: _Count
    classes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    licence: _Text
    data: Annotated[tuple[DataSource, ...], msgspec.Meta(min_length=1)]
    measured: Measurement
    images: _Text
    not_for: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()
    training: str = ""
    kind: Literal["", "grey", "colour"] = ""
    also: tuple[Measurement, ...] = ()
    place: str = ""

    @property
    def best_scores(self) -> dict[str, float]:
        """The lowest scores with the fewest errors (the lowest LRP) by class, of those for which they were measured.

        The measured one is that of an object which belongs to what is kept, rounded to two digits: half of the last
        digit is taken off, so that the object is above it.
        """
        found = {name: self.measured.metrics.get(f"threshold-{name}") for name in self.classes}
        return {name: max(0.0, round(score - 0.005, 3)) for name, score in found.items() if score is not None}

    @property
    def url(self) -> str:
        """What every option for weights takes: ``d2tiny://NAME``."""
        return f"{SCHEME}{self.name}"

    @property
    def card(self) -> str:
        """The model card in the repository."""
        return f"docs/models/{self.name}.md"

    def local_file(self) -> Path:
        """Return the file, fetched where the manifest came from a URL.

        Raises:
            CheckpointError: it is missing, has another checksum than the manifest says, or cannot be fetched.
        """
        if _is_url(self.place):
            url = f"{_base(self.place)}/{self.file}"
            return fetch_file(url, f"{self.sha256[:16]}-{self.file}", self.sha256, self.size)
        path = Path(self.place) / self.file
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file, but {MANIFEST} beside it names it. Copy or install it again.")
        if (found := sha256_of(path)) != self.sha256:
            raise CheckpointError(
                f"{path} is damaged or another file: its sha256 is {found[:16]}…, {MANIFEST} says {self.sha256[:16]}…. "
                "Copy or install it again."
            )
        return path


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a folder or URL offers.

    Attributes:
        version: of this form.
        default: name of the weights that are taken where nothing is named; empty for none.
        weights: the entries.
    """

    version: int = _VERSION
    default: str = ""
    weights: tuple[PublishedWeights, ...] = ()


class _Version(msgspec.Struct):
    version: int


def by_config(weights: Iterable[PublishedWeights]) -> dict[str, list[PublishedWeights]]:
    """Return published weights by the zoo name of their config."""
    found: dict[str, list[PublishedWeights]] = {}
    for entry in weights:
        found.setdefault(entry.config, []).append(entry)
    return found


def shipped_folder() -> Path:
    """Return the folder of the weights that come with d2tiny."""
    return Path(__file__).resolve().parents[1] / "weights"


def _is_url(place: str) -> bool:
    return re.match(r"https?://", place) is not None


def _base(place: str) -> str:
    return place.removesuffix(MANIFEST).rstrip("/")


def read_manifest(place: str | os.PathLike[str]) -> Manifest:
    """Read what a place offers.

    Args:
        place: a folder with a ``manifest.json``, that file, or the ``http(s)`` URL of either.

    Raises:
        CheckpointError: there is none, it cannot be fetched, or it says something that no manifest may say; says where.
    """
    place = os.fspath(place)
    if _is_url(place):
        source = f"{_base(place)}/{MANIFEST}"
        text = fetch_text(source)
    else:
        folder = Path(place).parent if place.endswith(MANIFEST) else Path(place)
        source, place = str(folder / MANIFEST), str(folder)
        try:
            text = Path(source).read_bytes()
        except OSError as err:
            raise CheckpointError(f"{source}: cannot read this list of published weights: {err.strerror}.") from err
    return _decoded(text, source, place)


def _decoded(text: bytes, source: str, place: str) -> Manifest:
    try:
        version = msgspec.json.decode(text, type=_Version).version
        if version != _VERSION:
            raise CheckpointError(f"{source}: has version {version}, and this d2tiny reads {_VERSION}. Upgrade d2tiny.")
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise CheckpointError(f"{source}: is no manifest of weights: {err}.") from err
    names = [entry.name for entry in manifest.weights]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise CheckpointError(f"{source}: names {', '.join(repeated)} more than once.")
    if manifest.default and manifest.default not in names:
        raise CheckpointError(f"{source}: default is '{manifest.default}'. {did_you_mean(manifest.default, names)}")
    placed = tuple(msgspec.structs.replace(entry, place=place) for entry in manifest.weights)
    return msgspec.structs.replace(manifest, weights=placed)


def manifest_text(manifest: Manifest) -> str:
    """Return the content of a ``manifest.json``.

    Raises:
        CheckpointError: it would not be read again, for example because of a name with capitals.
    """
    entries = tuple(msgspec.structs.replace(entry, place="") for entry in manifest.weights)
    content = msgspec.json.encode(msgspec.structs.replace(manifest, weights=entries))
    _decoded(content, MANIFEST, "")
    return msgspec.json.format(content, indent=1).decode() + "\n"


def known_manifests(place: str = "") -> Iterator[Manifest]:
    """Yield the manifests in the order in which they are asked: the user's first, then the one that comes with d2tiny.

    Args:
        place: folder or URL instead of that in ``D2TINY_WEIGHTS``.

    Raises:
        CheckpointError: as :func:`read_manifest`.
    """
    if place := place or os.environ.get(PLACE_VARIABLE, ""):
        yield read_manifest(place)
    if (shipped_folder() / MANIFEST).is_file():
        yield read_manifest(shipped_folder())


def known_weights(place: str = "") -> list[PublishedWeights]:
    """Return all published weights; of one name, those that are asked first."""
    found: dict[str, PublishedWeights] = {}
    for manifest in known_manifests(place):
        for entry in manifest.weights:
            found.setdefault(entry.name, entry)
    return list(found.values())


def default_weights(place: str = "", kind: str = "", config: str = "") -> PublishedWeights | None:
    """Return the weights that are taken where nothing is named, or None.

    Args:
        place: folder or URL instead of that in ``D2TINY_WEIGHTS``.
        kind: of the images, ``grey`` or ``colour``: weights that are made for it come before the default of the same
            manifest, unless that is for this kind too; of several, those with the highest AP on the same images. Empty
            for unknown.
        config: only weights of configs with this name in whatever folder: of the same detector on any dataset.
    """
    return _default(known_manifests(place), kind, config)


def default_labels(place: str = "") -> dict[str, str]:
    """Return what is said of weights that are taken where none are named, by name: ``default for colour images``."""
    manifests = list(known_manifests(place))
    labels: dict[str, str] = {}
    for kind in ("colour", "grey", ""):
        if (entry := _default(manifests, kind)) is not None:
            labels[entry.name] = f"default for {kind} images" if kind else "default"
    return labels


def _default(manifests: Iterable[Manifest], kind: str, config: str = "") -> PublishedWeights | None:
    for manifest in manifests:
        default = next((entry for entry in manifest.weights if entry.name == manifest.default), None)
        if default is None:
            continue
        fitting = [entry for entry in manifest.weights if config in ("", entry.config.split("/")[-1])]
        made = [entry for entry in fitting if kind and entry.kind == kind]
        if made and default not in made:
            return _best(made)
        if default in fitting:
            return default
    return None


def _best(weights: Sequence[PublishedWeights]) -> PublishedWeights:
    """Return those with the highest AP among all that were measured on what the first ones were measured on."""
    first = weights[0].measured
    comparable = [w for w in weights if (w.measured.dataset, w.measured.protocol) == (first.dataset, first.protocol)]
    return max(comparable, key=lambda entry: entry.measured.metrics.get("AP") or 0.0)


def weights_of_config(config: str, place: str = "") -> PublishedWeights | None:
    """Return the first published weights of a config of the zoo, or None."""
    return next((entry for entry in known_weights(place) if entry.config == config), None)


def named_weights(text: str, place: str = "") -> PublishedWeights | None:
    """Return the published weights that a text names.

    Args:
        text: ``d2tiny://NAME``; or NAME, where no file has that name.
        place: folder or URL instead of that in ``D2TINY_WEIGHTS``.

    Returns:
        The weights; None if the text can only be a file or another URL.

    Raises:
        CheckpointError: ``d2tiny://`` and a name that nobody publishes.
    """
    name = text.removeprefix(SCHEME)
    if name == text and (not re.match(_NAME, name) or Path(name).exists()):
        return None
    known = known_weights(place)
    entry = next((entry for entry in known if entry.name == name), None)
    if entry is None and name != text:
        hint = did_you_mean(name, [entry.name for entry in known]) if known else "None are published."
        raise CheckpointError(f"{text}: no published weights have this name. {hint}")
    return entry
