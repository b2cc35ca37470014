"""Model cards of published weights (``docs/models``), made from the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from d2tiny.utils.licences import SHOWN, SOURCES, DataSource
from d2tiny.utils.published import Measurement, PublishedWeights

__all__ = ["card", "index", "picture_of", "shown_split"]

_METRICS = ("AP", "AP50", "AP75", "APvt", "APt", "APs", "APm", "oLRP")
_MADE = "<!-- Made by tools/make_model_cards.py from d2tiny/weights/manifest.json; do not edit. -->"


def picture_of(name: str) -> Path:
    """Return where the picture of failures lies, from the folder of the repository on."""
    return Path("docs") / "images" / f"failures_{name}.jpg"


def shown_split(entry: PublishedWeights) -> Measurement | None:
    """Return the first measurement on images that may be shown, or None."""
    return next((found for found in (entry.measured, *entry.also) if found.dataset in SHOWN), None)


def card(entry: PublishedWeights, root: Path) -> str:
    """Return the model card of published weights, in Markdown.

    Args:
        entry: the weights.
        root: folder of the repository; the picture of failures is shown if it is there.
    """
    parts = [
        f"# {entry.name}\n\n{_MADE}\n\n{entry.title}. Config `{entry.config}`, {entry.size / 1e6:.1f} MB in float16, "
        f"licence {entry.licence}.",
        _usage(entry),
        f"## Images and classes\n\nMade for {entry.images}.\n\nClasses: {', '.join(entry.classes)}.",
        _figures(entry),
        _data(entry.data, entry.training),
        _failures(entry, root),
        "## What it is not for\n\n" + "\n".join(f"- {sentence}" for sentence in entry.not_for),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _usage(entry: PublishedWeights) -> str:
    return f"""## Use

```
d2tiny predict picture.jpg --weights {entry.name}
```

```python
import cv2
from detectron2.engine import DefaultPredictor
from d2tiny import model_zoo

predictor = DefaultPredictor(model_zoo.get_cfg(weights="{entry.url}"))
instances = predictor(cv2.imread("picture.jpg"))["instances"]
print(instances.pred_boxes, instances.scores, instances.pred_classes)
```"""


def _figures(entry: PublishedWeights) -> str:
    measured = entry.measured
    keys = [key for key in _METRICS if key in measured.metrics]
    lines = [
        f"## Figures\n\n{_where(measured)}\n",
        f"| | {' | '.join(keys)} |",
        f"|---|{'---|' * len(keys)}",
        f"| this file | {_cells(measured, keys)} |",
    ]
    if measured.spread:
        cells = [_range(measured.spread.get(key)) for key in keys]
        lines.append(f"| {measured.runs} trainings as evaluated then, lowest to highest | {' | '.join(cells)} |")
    lines += [f"| on `{other.dataset}` | {_cells(other, keys)} |" for other in entry.also]
    if entry.also:
        lines.append("")
        lines += [f"- `{other.dataset}`: {other.images or 'other images'}." for other in entry.also]
    for measurement in (measured, *entry.also):
        lines += _of_classes(measurement, entry.classes, f" on `{measurement.dataset}`" if entry.also else "")
    if best := ", ".join(f"{name} {score:g}" for name, score in entry.best_scores.items()):
        lines.append(f"\nLowest scores with the fewest errors (`--score best`), by the lowest LRP: {best}.")
    if measured.results:
        links = ", ".join(f"[{Path(name).stem}](../../{name})" for name in measured.results)
        lines.append(f"\nRecords: {links}.")
    return "\n".join(lines)


def _where(measured: Measurement) -> str:
    images = f" ({measured.images})" if measured.images else ""
    return f"On `{measured.dataset}`{images}, in percent, by the protocol `{measured.protocol}`."


def _cells(measured: Measurement, keys: Sequence[str]) -> str:
    return " | ".join(_number(measured.metrics.get(key)) for key in keys)


def _of_classes(measured: Measurement, classes: Sequence[str], where: str) -> list[str]:
    """Return a paragraph with the AP, and AP50 where it is known, of each class; nothing where neither is."""
    values = []
    for name in classes:
        if f"AP-{name}" in measured.metrics:
            half = measured.metrics.get(f"AP50-{name}")
            more = f" ({_number(half)})" if half is not None else ""
            values.append(f"{name} {_number(measured.metrics[f'AP-{name}'])}{more}")
    title = "AP (AP50)" if any(f"AP50-{name}" in measured.metrics for name in classes) else "AP"
    return [f"\n{title} by class{where}: {', '.join(values)}."] if values else []


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _range(values: tuple[float, float] | None) -> str:
    return "–" if values is None else f"{values[0]:.1f}–{values[1]:.1f}"


def _data(sources: Sequence[DataSource], training: str) -> str:
    lines = ["## Data and licence\n"]
    for source in sources:
        name = f"[{source.name}]({source.url})" if source.url else source.name
        changes = f" Changed: {source.changes}." if source.changes else ""
        lines.append(f"- {name}, {source.licence}. {source.citation.rstrip('.')}.{changes}")
    return "\n".join([*lines, f"\nTraining: {training}."] if training else lines)


def _failures(entry: PublishedWeights, root: Path) -> str:
    picture, shown = picture_of(entry.name), shown_split(entry)
    parts = ["## Failures"] if entry.fails else []
    if shown is not None and (root / picture).is_file():
        sources = [SOURCES[key] for key in SHOWN[shown.dataset]]
        credit = "; ".join(f"{source.name}, {source.licence}, {source.citation}" for source in sources)
        parts = [
            "## Failures",
            f"![Found, missed and false boxes of {entry.name}](../images/{picture.name})",
            f"The images of `{shown.dataset}` with the most errors: green is found, red missed, yellow false, at the "
            "score of\nthe best F1 of each class. Drawn by `tools/draw_failures.py`. Images: "
            f"{credit.rstrip('.')}.",
        ]
    return "\n\n".join([*parts, *(["\n".join(f"- {sentence}" for sentence in entry.fails)] if entry.fails else [])])


def index(entries: Sequence[PublishedWeights], labels: Mapping[str, str]) -> str:
    """Return ``docs/models/README.md``, the list of the cards.

    Args:
        entries: all published weights.
        labels: what is said of some of them in brackets, by name.
    """
    lines = [
        f"# Published weights\n\n{_MADE}\n",
        "`d2tiny zoo --published` prints this list, `d2tiny predict picture.jpg --weights NAME` uses one of them. They "
        "lie in `d2tiny/weights`, with their checksums in `manifest.json`; a folder or URL of the same form is named "
        "by `D2TINY_WEIGHTS` or `--weights-from`.\n",
    ]
    if not entries:
        return "\n".join([*lines, "None are published yet.\n"])
    lines += ["| weights | what | AP | AP50 | on | licence | data |", "|---|---|---|---|---|---|---|"]
    for entry in entries:
        values = [_number(entry.measured.metrics.get(key)) for key in ("AP", "AP50")]
        name = f"[{entry.name}]({entry.name}.md)" + (f" ({labels[entry.name]})" if entry.name in labels else "")
        data = ", ".join(source.name for source in entry.data)
        lines.append(
            f"| {name} | {entry.title} | {' | '.join(values)} | `{entry.measured.dataset}` | {entry.licence} | {data} |"
        )
    return "\n".join(lines) + "\n"
