"""Wrong arguments and files end with exit code 2, a message, and no output."""

from __future__ import annotations

import shutil

import pytest

from tests.helpers.cli import change, files, run

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
    ("draw -o new --size 31", "at least 32 px"),
    ("predict val --score 0.5,0.3", "'0.5,0.3' has two scores for all classes"),
    ("predict val --score ship=0.5,ship=0.3", "has two scores for ship"),
    ("predict val --score ship=high", "'ship=high' must be a number, or look like ship=0.5"),
    ("draw -o new --train -1", "train=-1 drawn scenes: allowed is 0 to"),
    ("draw -o new --density 11", "allowed is 0 to 10"),
    ("draw -o new --seed -1", "integers >= 0"),
    ("draw -o .", "was not drawn by d2tiny"),
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
    ("augment instances_val.json --images val -o a.jpg optimizer.lr=1", "overrides need --config"),
    ("train --config quick/faster_rcnn_r18_fpn_rfl", "Did you mean 'quick/faster_rcnn_r18_fpn_rfla'?"),
    ("train --config quick/faster_rcnn_r18_fpn_rfla train.max_itr=5", "Did you mean 'max_iter'?"),
    ("train train.max_iter=5", "--config"),
    ("predict --config quick/yolox_s --weights w.pth -o found model.nms=0.5", "Name images, folders or globs"),
    ("predict val --config quick/yolox_s --weights w.pth -o found", "--weights w.pth: no such file"),
    ("import-weights w.pth -o c.pth", "--config"),
    ("import-weights w.pth --config aitod/dino_r50_4scale_12e -o c.pth", "w.pth: no such file"),
    ("import-weights w.pth --config aitod/dino_r50_4scale_12e -o c.bin", "--output c.bin: must end with .pth"),
    ("import-weights w.pth --config aitod/dino_r50_4scale_12e -o ./w.pth", "is the original, which is never touched"),
    ("import-weights instances_val.json --config aitod/dino_r50_4scale_12e -o c.pth", "this is a text file"),
    ("demo --data val", "val/instances_train.json is missing"),
    ("zoo quick/yolox_ss", "Did you mean 'quick/yolox_s'?"),
    ("config quick/yolox_ss", "Did you mean 'quick/yolox_s'?"),
    ("config quick/yolox_s model.hed.x=1", "Did you mean 'head'?"),
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
