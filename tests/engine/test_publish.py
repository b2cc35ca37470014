"""Publishing a training: what is refused, and what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from d2tiny.analysis.model_card import card, index
from d2tiny.engine import publish as module
from d2tiny.engine.publish import About, halved, publish
from d2tiny.utils.errors import CheckpointError, ConfigError
from d2tiny.utils.licences import DataSource
from d2tiny.utils.published import named_weights, read_manifest
from tests.helpers.published import CONFIG, random_model

SCENES = DataSource("Scenes", "MIT", "Nobody (2026).", changes="none")
ABOUT = About("boats", "Boats on lakes", (SCENES,), "CC-BY-4.0", "summer days", ("Winter.", "Seas."))


@pytest.fixture
def training(tmp_path):
    """A finished training, and records of another run of it."""
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save({"model": random_model().state_dict()}, folder / "model_final.pth")
    record = {"config": CONFIG, "overrides": ["train.max_iter=5"], "max_iter": 5, "seed": 0, "metrics": {"AP": 30.0}}
    (folder / "result.json").write_text(json.dumps(record))
    (tmp_path / "results" / "quick").mkdir(parents=True)
    for seed, ap in enumerate((30.0, 28.5)):
        path = tmp_path / "results" / "quick" / f"yolo11_n_seed{seed}.json"
        path.write_text(json.dumps(record | {"metrics": {"AP": ap, "AP50": 2 * ap, "APm": None}}))
    return folder


@pytest.fixture
def measures(monkeypatch):
    """What evaluations find, one after the other; the models that are evaluated are kept."""
    values, models, places = [30.0, 29.96], [], []

    class Fake:
        def __init__(self, cfg, device):
            assert not cfg.train.amp.enabled
            places.append((cfg.dataloader.test.dataset.names, Path(cfg.train.output_dir).name))

        def __call__(self, model):
            models.append({key: value.clone() for key, value in model.state_dict().items()})
            of_class = {"AP-vehicle": 12.0, "threshold-vehicle": 0.456}
            return {"AP": values[len(models) - 1], "AP50": 61.239, "APm": float("nan"), **of_class}

    monkeypatch.setattr(module, "Evaluation", Fake)
    return values, models, places


def results(tmp_path):
    return sorted((tmp_path / "results" / "quick").iterdir())


def test_file_entry_and_card(tmp_path, training, measures):
    entry = publish(training, ABOUT, tmp_path / "out", tmp_path / "work", results=results(tmp_path), default=True)
    manifest = read_manifest(tmp_path / "out")
    assert manifest.weights == (entry,)
    assert manifest.default == "boats"
    assert entry.config == CONFIG
    assert entry.classes[0] == "airplane"
    of_class = {"AP-vehicle": 12.0, "threshold-vehicle": 0.46}
    assert entry.measured.metrics == {"AP": 29.96, "AP50": 61.24, "APm": None, **of_class}
    assert (entry.measured.dataset, entry.measured.runs) == ("aerial_val", 2)
    assert entry.measured.spread == {"AP": (28.5, 30.0), "AP50": (57.0, 60.0)}
    assert entry.measured.results == ("results/quick/yolo11_n_seed0.json", "results/quick/yolo11_n_seed1.json")
    path = named_weights("d2tiny://boats", str(tmp_path / "out")).local_file()
    assert path.stat().st_size == entry.size < 0.6 * (training / "model_final.pth").stat().st_size
    stored = torch.load(path, weights_only=True)
    assert stored["d2tiny"]["config"] == CONFIG
    # the second evaluation was of what the file holds
    assert all(torch.equal(value.float(), measures[1][1][key].float()) for key, value in stored["model"].items())
    text = card(entry, tmp_path)
    for part in (
        "| this file | 30.0 | 61.2 | – |",
        "| 28.5–30.0 | 57.0–60.0 | – |",
        "AP by class: vehicle 12.0.",
        "lowest LRP: vehicle 0.455.",
        "- Winter.\n- Seas.",
    ):
        assert part in text
    assert "Scenes, MIT. Nobody (2026). Changed: none." in text
    assert "| [boats](boats.md) (default) | Boats on lakes | 30.0 | 61.2 |" in index(
        manifest.weights, {manifest.default: "default"}
    )


def test_other_splits_are_measured_with_the_published_file(tmp_path, training, measures):
    measures[0].append(17.0)
    splits = {"aerial_val": "4 tiles", "synthetic_val": "drawn scenes"}
    entry = publish(
        training, replace(ABOUT, splits=splits, kind="colour", fails=("In fog.",)), tmp_path / "out", tmp_path / "work"
    )
    assert read_manifest(tmp_path / "out").weights == (entry,)
    assert (entry.kind, entry.measured.images) == ("colour", "4 tiles")
    (other,) = entry.also
    assert (other.dataset, other.images, other.metrics["AP"]) == ("synthetic_val", "drawn scenes", 17.0)
    assert all(torch.equal(value, measures[1][2][key]) for key, value in measures[1][1].items())  # the same weights
    assert sorted(measures[2]) == [("aerial_val", "work"), ("synthetic_val", "synthetic_val")]
    text = card(entry, tmp_path)
    for part in (
        "On `aerial_val` (4 tiles), in percent",
        "## Failures\n\n- In fog.",
        "| on `synthetic_val` | 17.0 | 61.2 | – |",
        "`synthetic_val`: drawn scenes.",
        "AP by class on `synthetic_val`: vehicle 12.0.",
    ):
        assert part in text


def test_a_split_of_other_classes_is_refused(tmp_path, training, measures):
    about = replace(ABOUT, splits={"hituav_val": "people"})
    refused(tmp_path, training, ConfigError, "boats: 'hituav_val' has the classes", about)


def test_the_same_name_is_replaced_and_the_same_weights_give_the_same_file(tmp_path, training, measures):
    measures[0].extend((30.0, 30.0))
    first = publish(training, ABOUT, tmp_path / "out", tmp_path / "work", default=True)
    second = publish(training, ABOUT, tmp_path / "out", tmp_path / "work")
    manifest = read_manifest(tmp_path / "out")
    assert manifest.weights == (second,)
    assert manifest.default == "boats"  # stays
    assert first.sha256 == second.sha256
    assert second.measured.runs == 1
    assert not second.measured.spread


def refused(tmp_path, training, error, message, about=ABOUT, **more):
    with pytest.raises(error, match=message):
        publish(training, about, tmp_path / "out", tmp_path / "work", **more)
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([30.0, 29.89], "AP falls from 30.00 to 29.89 in half precision"),
        ([30.0, float("nan")], "in half precision"),
        ([29.4, 29.4], "has AP 29.40 on aerial_val, but result.json beside it says 30.00"),
        ([float("nan"), 1.0], "result.json beside it says 30.00"),
    ],
)
def test_weights_that_are_worse_than_they_should_be(tmp_path, training, measures, values, message):
    measures[0][:] = values
    refused(tmp_path, training, CheckpointError, message)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (About("boats", "x", (DataSource("Tiles", "CC-BY-NC-4.0", "x"),), "MIT", "x"), "Tiles: CC-BY-NC-4.0"),
        (About("boats", "x", (SCENES,), "GPL-3.0", "x"), "the weights: GPL-3.0"),
    ],
)
def test_licences_that_do_not_permit_it(tmp_path, training, measures, about, message):
    refused(tmp_path, training, ConfigError, message, about)


@pytest.mark.parametrize(
    ("name", "about"), [("weights.*name", "Boats"), ("weights.*name", "a b"), ("weights.*name", "../boats")]
)
def test_names_that_cannot_be_read_again(tmp_path, training, measures, name, about):
    refused(tmp_path, training, CheckpointError, name, About(about, "x", (SCENES,), "MIT", "x"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"overrides": ["model.head.num_classes=3"]}, r"changed its config \(model.head.num_classes=3\)"),
        ({"overrides": ["++dataloader.test.mapper.image_format=RGB"]}, "changed its config"),
        ({"config": "quick/yolo11"}, "Did you mean"),
        ({"metrics": None}, "is no record of a training"),
    ],
)
def test_records_that_do_not_fit(tmp_path, training, measures, change, message):
    path = training / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(tmp_path, training, ConfigError, message)


def test_results_of_another_config(tmp_path, training, measures):
    path = results(tmp_path)[1]
    path.write_text(path.read_text().replace("yolo11_n", "yolox_s"))
    refused(tmp_path, training, ConfigError, "seed1.json: is a result of quick/yolox_s", results=results(tmp_path))


@pytest.mark.parametrize(("limit", "value"), [("FILE_LIMIT", 100_000), ("TOTAL_LIMIT", 100_000)])
def test_sizes(tmp_path, training, measures, monkeypatch, limit, value):
    monkeypatch.setattr(module, limit, value)
    refused(tmp_path, training, CheckpointError, "MB with the others; allowed are")


def test_a_folder_without_a_training(tmp_path, training, measures):
    (training / "model_final.pth").unlink()
    refused(tmp_path, training, CheckpointError, "model_final.pth: no such file")
    (training / "result.json").unlink()
    refused(tmp_path, training, ValueError, "result.json: no such file")


def test_what_float16_cannot_hold_stays_as_it_is():
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.BatchNorm2d(2), torch.nn.Conv2d(2, 2, 1))
    with torch.no_grad():
        model[2].weight[0, 0] = 70_000
    state = halved(model)
    types = {name: value.dtype for name, value in state.items()}
    assert types["0.weight"] == torch.float16
    assert types["2.weight"] == types["0.bias"] == types["1.running_var"] == torch.float32
    assert types["1.num_batches_tracked"] == torch.int64
    assert torch.equal(state["2.weight"], model[2].weight)
