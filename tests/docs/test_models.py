"""The weights that come with d2tiny: files, sizes, licences, cards; and what the checks find in made-up ones."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from detectron2.config import instantiate

from d2tiny import model_zoo
from d2tiny.analysis.model_card import card, index, picture_of, shown_split
from d2tiny.analysis.zoo import zoo_file
from d2tiny.config.files import config_names
from d2tiny.engine.publish import FILE_LIMIT, TOTAL_LIMIT
from d2tiny.utils.errors import CheckpointError
from d2tiny.utils.licences import refused_licences
from d2tiny.utils.published import MANIFEST, Manifest, default_labels, read_manifest, shipped_folder
from d2tiny.utils.weights import load_weights
from tests.helpers import ROOT
from tests.helpers.published import write_manifest, write_weights

SHIPPED = read_manifest(shipped_folder())


def problems(folder) -> list[str]:
    """What is wrong with a folder of published weights, without looking into the files."""
    manifest = read_manifest(folder)
    found = [path.name for path in folder.iterdir() if path.name not in {MANIFEST, *(w.file for w in manifest.weights)}]
    found = [f"{name} is in no entry" for name in found]
    if sum(weights.size for weights in manifest.weights) > TOTAL_LIMIT:
        found.append("all together are too large")
    for weights in manifest.weights:
        found += [f"{weights.name}: {text}" for text in refused_licences(weights.data, weights.licence)]
        if weights.size > FILE_LIMIT:
            found.append(f"{weights.name}: is too large")
        if weights.config not in config_names():
            found.append(f"{weights.name}: no config {weights.config}")
        try:
            if weights.local_file().stat().st_size != weights.size:
                found.append(f"{weights.name}: has another size")
        except CheckpointError as err:
            found.append(str(err))
    return found


def test_files_sizes_and_licences():
    assert not problems(shipped_folder())
    assert SHIPPED.default or not SHIPPED.weights


def test_an_installed_package_has_them(tmp_path):
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    installed = {path.name for path in (tmp_path / "d2tiny" / "weights").iterdir()}
    assert installed == {MANIFEST, *(weights.file for weights in SHIPPED.weights)}
    assert (tmp_path / "d2tiny" / "configs" / "zoo.json").read_bytes() == zoo_file().read_bytes()


def test_the_checks_find_what_is_wrong(tmp_path):
    nc = [{"name": "Tiles", "licence": "CC-BY-NC-SA-4.0", "citation": "x"}]
    write_manifest(
        tmp_path,
        write_weights(tmp_path, "good"),
        write_weights(tmp_path, "damaged") | {"sha256": "0" * 64},
        write_weights(tmp_path, "closed", data=nc, licence="GPL-3.0"),
        write_weights(tmp_path, "large", size=31_000_000, config="quick/none"),
        write_weights(tmp_path, "absent"),
    )
    (tmp_path / "absent.pth").unlink()
    (tmp_path / "more.pth").touch()
    text = "\n".join(problems(tmp_path))
    for part in (
        "more.pth is in no entry",
        "all together are too large",
        "damaged.pth is damaged",
        "closed: Tiles: CC-BY-NC-SA-4.0",
        "closed: the weights: GPL-3.0",
        "large: is too large",
        "large: has another size",
        "large: no config quick/none",
        "absent.pth: no such file",
    ):
        assert part in text
    assert "good" not in text


@pytest.mark.parametrize("weights", SHIPPED.weights, ids=lambda weights: weights.name)
def test_weights_fit_their_config(weights):
    """Strictly; and there are as many class names as classes."""
    pytest.importorskip("timm")
    cfg = model_zoo.get_config(weights.config)
    load_weights(instantiate(cfg.model), weights.url)
    assert len(weights.classes) == model_zoo.get_cfg(weights.config, device="cpu").MODEL.ROI_HEADS.NUM_CLASSES


@pytest.mark.parametrize("weights", SHIPPED.weights, ids=lambda weights: weights.name)
def test_figures_come_from_results(weights):
    records = [json.loads((ROOT / name).read_text()) for name in weights.measured.results]
    assert len(records) == weights.measured.runs
    for metric, (low, high) in weights.measured.spread.items():
        values = [record["metrics"][metric] for record in records]
        assert (low, high) == (round(min(values), 2), round(max(values), 2)), metric
    own = weights.measured.metrics["AP"]
    assert min(abs(own - record["metrics"]["AP"]) for record in records) <= 0.6  # of float16 and float32 to bfloat16


def test_cards_are_up_to_date():
    """Run `python tools/make_model_cards.py` when this fails."""
    pages = {f"{weights.name}.md": card(weights, ROOT) for weights in SHIPPED.weights}
    pages["README.md"] = index(SHIPPED.weights, default_labels(str(shipped_folder())))
    folder = ROOT / "docs" / "models"
    assert {path.name for path in folder.glob("*.md")} == set(pages)
    for name, text in pages.items():
        assert (folder / name).read_text() == text, name


def test_cards_say_what_weights_are_not_for():
    for weights in SHIPPED.weights:
        assert weights.not_for, weights.name
        if shown_split(weights) is not None:
            assert (ROOT / picture_of(weights.name)).is_file(), weights.name


def test_no_card_without_weights():
    assert "None are published yet." in index((), {})
    assert read_manifest(shipped_folder()).version == Manifest().version


def test_attributions_are_in_the_notice():
    """CC BY asks for them wherever the weights go."""
    notice = " ".join((ROOT / "NOTICE").read_text().split())
    for weights in SHIPPED.weights:
        for source in weights.data:
            assert source.name in notice, source.name
            assert source.licence in notice, source.licence
