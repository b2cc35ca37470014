"""Options of the commands on data."""

from __future__ import annotations

import json

import pytest

from tests.helpers.cli import change, files, run


def test_convert_takes_the_options_of_its_format(folder):
    options = "--rename car=vehicle --classes vehicle,bus --ignore-classes people"
    assert run(f"convert visdrone VisDrone2019-DET-val -o v.json {options}") == 0
    data = json.loads((folder / "v.json").read_text())
    assert [c["name"] for c in data["categories"]] == ["vehicle", "bus"]
    assert [a["category_id"] for a in data["annotations"]] == [1, 1]
    moved = folder / "texts"
    (folder / "VisDrone2019-DET-val" / "annotations").rename(moved)
    places = "--images VisDrone2019-DET-val/images --labels texts"
    assert run(f"convert visdrone VisDrone2019-DET-val -o w.json {places}") == 0
    assert run(f"check VisDrone2019-DET-val --format visdrone {places}") == 0


def test_check_exits_with_1_on_errors_only(folder, capsys):
    assert run("check instances_val.json --images val --decode") == 0
    change(folder / "instances_val.json", lambda d: d["annotations"][0].pop("area"))  # a note
    assert run("check instances_val.json --images val") == 0
    before = change(folder / "instances_val.json", lambda d: d["annotations"][0].update(bbox=[1, 2, 0, 4]))
    capsys.readouterr()
    assert run("check instances_val.json --images val --json found.json --fix clean.json") == 1
    text = capsys.readouterr().out
    assert "boxes without area, left out" in text
    assert "1 errors" in text or "1 error," in text
    (error,) = (e for e in json.loads((folder / "found.json").read_text()) if e["severity"] == "error")
    assert (error["what"], error["count"]) == ("boxes without area, left out", 1)
    clean = json.loads((folder / "clean.json").read_text())
    assert len(clean["annotations"]) == len(before["annotations"]) - 1
    assert json.loads((folder / "instances_val.json").read_text()) == before
    assert run("check clean.json --images val") == 0


def test_check_of_native_files_and_of_a_clean_dataset(folder, capsys):
    assert run("check VisDrone2019-DET-val --format visdrone --fix v.json") == 0
    assert "classes without an object" in capsys.readouterr().out
    assert len(json.loads((folder / "v.json").read_text())["annotations"]) == 2
    kept = {a["category_id"] for a in json.loads((folder / "instances_val.json").read_text())["annotations"]}
    change(
        folder / "instances_val.json",
        lambda d: d.update(categories=[c for c in d["categories"] if c["id"] in kept]),
    )
    run("check instances_val.json --images val --json found.json")
    found = json.loads((folder / "found.json").read_text())
    assert not [e for e in found if e["severity"] != "note"]


def test_reports_go_to_folders_that_do_not_exist_yet(folder):
    assert run("check instances_val.json --json new/found.json --fix other/clean.json") == 0
    assert {"new/found.json", "other/clean.json"} <= files(folder)


def test_stats_and_evaluation_take_protocols_and_areas(folder, capsys):
    assert run("stats instances_val.json -o s --coverage '' --areas tiny=0:256,rest=256:") == 0
    text = capsys.readouterr().out
    assert "tiny" in text
    assert "rest" in text
    assert run("evaluate predictions.json instances_val.json --areas tiny=0:256,rest=256: --max-dets 10,100") == 0
    assert "rest" in capsys.readouterr().out
    assert run("evaluate predictions.json instances_val.json --protocol coco --extra-ious 0.25") == 0
    assert "coco protocol" in capsys.readouterr().out


def test_tiling_again_goes_on_but_not_with_other_settings(folder, capsys):
    line = "tile instances_val.json --images val -o tiles --size 64 --overlap 16"
    assert run(line) == 0
    first = (folder / "tiles/instances.json").read_bytes()
    assert run(line) == 0
    assert (folder / "tiles/instances.json").read_bytes() == first
    assert run(line + " --keep 0.9") == 2
    assert "holds tiles of other settings" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "default"), [("predict", "2%,98%"), ("check", "refuse them")])
def test_help_tells_what_becomes_of_deep_images(command, default, capsys):
    assert run(f"{command} --help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"such as 2%,98% (default: {default})" in text
