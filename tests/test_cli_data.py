from __future__ import annotations

import json
import shlex
import shutil

import pytest
from PIL import Image

from d2tiny.cli_data import EXAMPLES, main

OUTPUTS = {
    "convert": ["visdrone/annotations/visdrone_val.json"],
    "check": ["clean/instances_val.json"],
    "stats": ["output/stats/index.html"],
    "tile": ["output/tiles/instances.json", "output/tiles/images"],
    "augment": ["output/augmentations.jpg"],
    "anchors": [],
    "evaluate": ["output/report/index.html"],
}


def write_visdrone(root):
    for stem in ("0000001_00001_d_0000001", "0000002_00002_d_0000002"):
        for folder in ("images", "annotations"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48)).save(root / "images" / f"{stem}.jpg")
        (root / "annotations" / f"{stem}.txt").write_text("10,20,8,6,1,4,0,0\n0,0,9,9,0,0,0,0\n")


def write_predictions(truth, path):
    """The ground truth itself, with scores."""
    entries = json.loads(truth.read_text())["annotations"]
    keys = ("image_id", "category_id", "bbox")
    path.write_text(json.dumps([{k: a[k] for k in keys} | {"score": 0.9} for a in entries if not a["iscrowd"]]))


@pytest.fixture
def folder(scenes, tmp_path, monkeypatch):
    """A working folder with what the examples name; commands run in it."""
    for split in ("train", "val"):
        shutil.copyfile(scenes / f"instances_{split}.json", tmp_path / f"instances_{split}.json")
    shutil.copytree(scenes / "val", tmp_path / "val")
    write_visdrone(tmp_path / "VisDrone2019-DET-val")
    write_predictions(tmp_path / "instances_val.json", tmp_path / "predictions.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line):
    """Exit code of a command line; argparse leaves by SystemExit."""
    try:
        return main(shlex.split(line))
    except SystemExit as leave:
        return leave.code


def files(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def change(path, edit):
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    return data


# --- help and examples -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_shows_an_example_that_can_be_copied(name, capsys, monkeypatch):
    """On one line, so that it can be pasted into a shell."""
    monkeypatch.setenv("COLUMNS", "80")
    assert run(f"{name} --help") == 0
    text = capsys.readouterr().out
    assert " ".join(EXAMPLES[name].split()) in " ".join(text.split())
    assert EXAMPLES[name] in text
    assert "default: None" not in text


def test_help_of_the_command_lists_all(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in EXAMPLES)
    assert set(EXAMPLES) == set(OUTPUTS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run_as_they_are_written(folder, name, capsys):
    program, *rest = shlex.split(EXAMPLES[name])
    assert program == "d2tiny"
    inputs = {p: (folder / p).read_bytes() for p in files(folder)}
    assert main(rest) == 0
    assert all((folder / place).exists() for place in OUTPUTS[name])
    assert all((folder / p).read_bytes() == before for p, before in inputs.items())
    captured = capsys.readouterr()
    assert not OUTPUTS[name] or any(place.split("/")[-1] in captured.out for place in OUTPUTS[name])
    assert "Traceback" not in captured.err


def test_what_the_examples_say(folder, capsys):
    """Two VisDrone images of one car and one region each; perfect detections have an AP of 100."""
    run("convert visdrone VisDrone2019-DET-val -o v.json")
    text = capsys.readouterr().out
    assert "2 images, 2 objects of 10 classes, 2 ignored objects and regions" in text
    assert "relative to VisDrone2019-DET-val/images" in text
    assert len(json.loads((folder / "v.json").read_text())["annotations"]) == 2
    run("evaluate predictions.json instances_val.json")
    text = capsys.readouterr().out
    assert "100.0" in text
    assert "aitod protocol" in text
    count = len(json.loads((folder / "predictions.json").read_text()))
    assert f"{count:,} detections" in text


# --- options -----------------------------------------------------------------------------------------------------


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


# --- wrong inputs ------------------------------------------------------------------------------------------------

WRONG = [
    ("", "COMMAND"),
    ("chek instances_val.json", "invalid choice"),
    ("convert visdron VisDrone2019-DET-val -o x.json", "visdrone"),
    ("convert visdrone VisDrone2019-DET-val", "--output"),
    ("convert visdrone nowhere -o x.json", "nowhere: no such file or folder"),
    ("convert visdrone val -o x.json", "No folder of images (looked in val/images)"),
    ("convert coco val -o x.json", "val is a folder, not a json file"),
    ("convert coco nowhere.json -o x.json", "nowhere.json: no such file or folder"),
    ("convert coco instances_val.json -o x.json", "missing images"),
    ("convert coco instances_val.json --images nowhere -o x.json", "nowhere: no such folder. Name it with --images."),
    ("convert visdrone VisDrone2019-DET-val -o x.json --minus-one", "Format 'visdrone' has no option"),
    ("convert visdrone VisDrone2019-DET-val -o x.json --area hbb", "Format 'visdrone' has no option 'area'"),
    ("convert voc VisDrone2019-DET-val -o x.json", "2 images without a label file"),
    ("convert yolo VisDrone2019-DET-val -o x.json", "Give them with --classes"),
    ("convert visdrone VisDrone2019-DET-val -o x.json --rename car", "must look like NAME=VALUE"),
    ("convert visdrone VisDrone2019-DET-val -o val", "val"),
    ("check nowhere.json", "nowhere.json: no such file"),
    ("check val", "val is a folder, not a json file"),
    ("check val/nothing.png", "no such file"),
    ("check predictions.json", "expected a COCO object"),
    ("check instances_val.json --images nowhere", "--images nowhere: no such folder"),
    ("check instances_val.json --fix instances_val.json", "is the original, which is never touched"),
    ("check instances_val.json --fix ./val/../instances_val.json", "is the original, which is never touched"),
    ("check instances_val.json --json instances_val.json", "original"),
    ("check instances_val.json --rename car=vehicle", "--format"),
    ("check instances_val.json --classes car", "--format"),
    ("stats nowhere.json -o s", "nowhere.json: no such file"),
    ("stats val -o s", "val is a folder, not a json file"),
    ("stats instances_val.json -o s --areas tiny", "'tiny' must look like NAME=VALUE"),
    ("stats instances_val.json -o s --areas tiny=16", "must look like NAME=LOW:HIGH, in px²"),
    ("stats instances_val.json -o s --areas tiny=a:b", "must look like NAME=LOW:HIGH, in px²"),
    ("stats instances_val.json -o s --areas tiny=256:16", "must have 0 <= low < high"),
    ("stats instances_val.json -o s --coverage '' --areas tiny=0:16,tiny=16:99", "tiny"),
    ("stats instances_val.json -o s --coverage '' --images nowhere", "nowhere"),
    ("stats instances_val.json -o s --protocol aitodd", "invalid choice"),
    ("stats instances_val.json -o s --coverage aitod/nothing", "aitod/nothing"),
    ("tile instances_val.json -o t", "--images"),
    ("tile instances_val.json --images nowhere -o t", "nowhere"),
    ("tile nowhere.json --images val -o t", "nowhere.json: no such file"),
    ("tile instances_val.json --images val -o t --size 8", "Tiles need size >= 16"),
    ("tile instances_val.json --images val -o t --size 64 --overlap 64", "overlap"),
    ("augment instances_val.json -o a.jpg", "--images"),
    ("augment nowhere.json --images val -o a.jpg", "nowhere.json"),
    ("augment instances_val.json --images nowhere -o a.jpg", "nowhere"),
    ("evaluate nowhere.json instances_val.json", "nowhere.json: no such file"),
    ("evaluate val instances_val.json", "val is a folder, not a json file"),
    ("evaluate predictions.json nowhere.json", "nowhere.json: no such file"),
    ("evaluate instances_val.json predictions.json", "predictions.json: expected a COCO object"),
    ("evaluate instances_val.json instances_val.json", "instances_val.json"),
    ("evaluate predictions.json instances_val.json --protocol aitodd", "invalid choice: 'aitodd'"),
    ("evaluate predictions.json instances_val.json --max-dets many", "must be numbers with commas between"),
    ("evaluate predictions.json instances_val.json --max-dets 1.5", "max-dets"),
    ("evaluate predictions.json instances_val.json --max-dets 100,10", "max_dets must be positive and rising"),
    ("evaluate predictions.json instances_val.json --extra-ious 25", "IoU thresholds lie in (0, 1], got 25"),
    ("evaluate predictions.json instances_val.json --report r --images nowhere", "nowhere"),
]


@pytest.mark.parametrize(("line", "message"), WRONG, ids=[line for line, _ in WRONG])
def test_wrong_inputs_end_with_2_a_message_and_no_output(folder, capsys, line, message):
    inputs = {p: (folder / p).read_bytes() for p in files(folder)}
    assert run(line) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Errno" not in captured.err
    assert "Traceback" not in captured.err
    assert "must be numbers (" not in captured.err  # a second message around the true one
    assert {p: (folder / p).read_bytes() for p in files(folder)} == inputs


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: [p.unlink() for p in (root / "annotations").iterdir()], "2 images without a label file"),
        (lambda root: [p.write_bytes(b"x") for p in (root / "images").iterdir()], "2 images that cannot be read"),
        (lambda root: shutil.rmtree(root / "annotations"), "Name it with --labels"),
    ],
)
def test_a_conversion_that_fails_leaves_the_old_file_or_none(folder, capsys, damage, message):
    (folder / "old.json").write_text("old")
    damage(folder / "VisDrone2019-DET-val")
    for output in ("old.json", "new/file.json"):
        assert run(f"convert visdrone VisDrone2019-DET-val -o {output}") == 2
        assert message in capsys.readouterr().err
    assert (folder / "old.json").read_text() == "old"
    assert not (folder / "new").exists()


def test_converting_never_replaces_its_source(folder, capsys):
    before = (folder / "instances_val.json").read_bytes()
    assert run("convert coco instances_val.json --images val -o ./val/../instances_val.json") == 2
    assert "instances_val.json" in capsys.readouterr().err
    assert (folder / "instances_val.json").read_bytes() == before


@pytest.mark.parametrize("option", ["--rename caar=vehicle", "--ignore-classes caar"])
@pytest.mark.parametrize("name", ["visdrone VisDrone2019-DET-val", "coco instances_val.json --images val"])
def test_class_names_that_match_nothing_are_named(folder, capsys, option, name):
    """A typing mistake; silence would teach or punish what was to be left out."""
    run(f"convert {name} -o x.json {option}")
    captured = capsys.readouterr()
    assert "caar" in captured.out + captured.err


def test_nan_in_a_json_never_ends_in_a_traceback(folder, capsys):
    """A number that no json may hold sits in a key that d2tiny does not read."""
    change(folder / "instances_val.json", lambda d: d["annotations"][0].update(score=float("nan")))
    assert run("convert coco instances_val.json --images val -o x.json") in (0, 2)
    assert run("check instances_val.json --images val --fix clean.json") in (0, 1, 2)
    assert "Traceback" not in capsys.readouterr().err
