"""What the demo shows at its end: one page, and the commands that come next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from d2tiny.visualization.html_report import HtmlPage

__all__ = ["next_commands", "write_first_page"]

_CARDS = ("AP", "AP50", "APvt", "APt", "APs")
_CLASSES_OF_CONFIG = 8


def program() -> str:
    """Return how this program is called from where the user is."""
    called = Path(sys.argv[0])
    found = shutil.which("d2tiny")
    if found is not None and Path(found).resolve() == called.resolve():
        return "d2tiny"
    return shlex.quote(sys.argv[0]) if called.name == "d2tiny" else f"{shlex.quote(sys.executable)} -m d2tiny"


def next_commands(
    config: str, weights: Path, num_classes: int, data: Mapping[str, tuple[Path, Path]] | None
) -> dict[str, str]:
    """Return the three commands that come next: what each does → command.

    Args:
        config: of the training.
        weights: that it wrote.
        num_classes: that they know.
        data: json and images of the user's ``train`` and ``val``; None if scenes were drawn.
    """
    call = program()
    classes = "" if num_classes == _CLASSES_OF_CONFIG else f" model.roi_heads.num_classes={num_classes}"
    file = shlex.quote(str(weights))
    if data is None:
        last = {"Train on images of yours, with their labels as COCO json:": "demo --data LABELS.json --images FOLDER"}
    else:
        sets = " ".join(
            f"--register my_{split} {shlex.quote(str(file))} {shlex.quote(str(images))}"
            for split, (file, images) in data.items()
        )
        last = {
            "Train longer on your images, from here:": f"train --config {config} --weights {file} {sets} "
            "dataloader.train.dataset.names=my_train "
            f"dataloader.test.dataset.names=my_val{classes}"
        }
    commands = {
        "Find objects in a picture or an orthophoto of yours, with a published detector:": "predict YOUR_PICTURE.jpg",
        "The same with the detector that was just trained:": f"predict YOUR_PICTURE.jpg --weights {file}",
        **last,
    }
    return {text: f"{call} {command}" for text, command in commands.items()}


def write_first_page(
    path: Path,
    *,
    title: str,
    metrics: Mapping[str, float],
    chosen: Sequence[str],
    pictures: Sequence[tuple[np.ndarray, str]],
    frames: Mapping[str, tuple[Path, str]],
    commands: Mapping[str, str],
) -> None:
    """Write the page.

    Args:
        path: of the page.
        title: its title.
        metrics: of the evaluation.
        chosen: sentences about what was trained, and why so.
        pictures: (H, W, 3) uint8 RGB, ground truth beside prediction, and their captions.
        frames: other pages: heading → page and a sentence about it.
        commands: as of :func:`next_commands`.
    """
    page = HtmlPage(title, "Objects of a few pixels, found by a detector that was trained on this machine just now")
    shown = {k: "–" if np.isnan(metrics[k]) else f"{metrics[k]:.1f}" for k in _CARDS if k in metrics}
    page.cards(shown)
    page.section("Ground truth beside prediction", "Left what is there, right what the detector found.")
    page.pictures(pictures)
    for heading, (target, text) in frames.items():
        page.section(heading, text)
        page.frame(Path(os.path.relpath(target, path.parent)).as_posix(), "Open it alone")
    page.section("What was trained, and why so")
    for sentence in chosen:
        page.text(sentence)
    page.section("What next")
    page.commands(commands)
    page.write(path)
