"""Smaller images while converting: sizes, pixels and labels by hand; what is refused; interruptions."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from d2tiny.cli import main
from d2tiny.data.coco.check import check_dataset
from d2tiny.data.loading.images import read_image
from d2tiny.data.tools.converters import FORMATS, Scaling
from d2tiny.data.tools.converters import scaling as module
from d2tiny.utils.errors import ConfigError, DatasetError
from tests.helpers.native import GOOD, QUAD, convert, found, native, objects, picture, voc_xml


def coco(root, names=("a.png",), *, size=(100, 80), objects=(), image=None):
    """Write a json of images ``names`` in ``root/originals``, and the images that are missing."""
    for name in names:
        if not (root / "originals" / name).exists():
            picture(root / "originals" / name, size)
    data = {
        "images": [{"id": i, "file_name": n, **(image or {})} for i, n in enumerate(names)],
        "categories": [{"id": 0, "name": "car"}],
        "annotations": [{"id": i, "image_id": 0, "category_id": 0, **o} for i, o in enumerate(objects)],
    }
    (root / "x.json").write_text(json.dumps(data))
    return root / "x.json"


def halve(root, factor=0.5, *, name="small", **more):
    """Convert ``x.json``."""
    scaling = Scaling(factor, root, name, **more)
    return convert("coco", root / "x.json", images=root / "originals", scaling=scaling)


def command(root, *options):
    """Run `d2tiny convert` on ``x.json``."""
    words = ["convert", "coco", root / "x.json", "--images", root / "originals", "-o", root / "out" / "y.json"]
    return main([*map(str, words), *options])


# --- pixels ------------------------------------------------------------------------------------------------------


def test_a_pixel_is_the_mean_of_the_area_it_covers(tmp_path):
    """2×2 blocks: (0 + 10 + 20 + 30) / 4 = 15 and (100 + 100 + 200 + 200) / 4 = 150; colours keep their order."""
    red = np.array([[0, 10, 100, 100], [20, 30, 200, 200]], np.uint8)
    pixels = np.stack((red, np.full_like(red, 40), np.full_like(red, 250)), axis=-1)
    (tmp_path / "originals").mkdir()
    Image.fromarray(pixels).save(tmp_path / "originals" / "a.png")
    coco(tmp_path)
    result = halve(tmp_path)
    assert result.root == tmp_path / "small"
    assert read_image(result.root / "a.png").tolist() == [[[15, 40, 250], [150, 40, 250]]]


@pytest.mark.parametrize(("mode", "name"), [("L", "a.png"), ("L", "a.jpg"), ("RGB", "a.jpg"), ("RGB", "a.JPEG")])
def test_grey_stays_grey_and_jpeg_stays_jpeg(tmp_path, mode, name):
    path = tmp_path / "originals" / name
    path.parent.mkdir()
    Image.new(mode, (60, 40), 77 if mode == "L" else (77, 88, 99)).save(path)
    coco(tmp_path, (name,))
    assert objects(halve(tmp_path)) == []
    with Image.open(tmp_path / "small" / name) as small:
        assert (small.size, small.mode) == ((30, 20), mode)
        assert small.format == ("PNG" if name.endswith("png") else "JPEG")
        assert np.abs(np.array(small).reshape(-1, len(mode))[:, 0].astype(int) - 77).max() <= 1


@pytest.mark.parametrize("name", ["a.bmp", "a.tif", "a.webp"])
def test_other_formats_become_png(tmp_path, name):
    coco(tmp_path, (f"folder/{name}",))
    result = halve(tmp_path)
    assert [i["file_name"] for i in result.data["images"]] == ["folder/a.png"]
    assert read_image(tmp_path / "small/folder/a.png").shape == (40, 50, 3)


def test_turned_images_are_upright(tmp_path):
    """Stored as 100×80 with orientation 6, seen as 80×100, halved 40×50; the copy is not turned again."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "originals" / "a.jpg", exif=exif)
    coco(tmp_path, ("a.jpg",), objects=[{"bbox": [10, 20, 8, 6]}])
    (image,) = halve(tmp_path).data["images"]
    assert (image["width"], image["height"]) == (40, 50)
    assert read_image(tmp_path / "small/a.jpg").shape == (50, 40, 3)


def test_deep_images_need_a_stretch(tmp_path):
    pytest.importorskip("rasterio")
    (tmp_path / "originals").mkdir()
    Image.fromarray(np.full((40, 60), 2048, np.uint16)).save(tmp_path / "originals" / "a.png")
    coco(tmp_path)
    with pytest.raises(DatasetError, match=r"cannot be read, left out.*--stretch 0,4095"):
        halve(tmp_path)
    halve(tmp_path, name="other", stretch="0,4096")
    with Image.open(tmp_path / "other" / "a.png") as small:
        assert (small.mode, small.size) == ("L", (30, 20))
        assert abs(int(np.array(small)[0, 0]) - 127.5) <= 1


# --- labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "factor", "small"),
    [((100, 80), 0.5, (50, 40)), ((101, 81), 0.5, (50, 40)), ((9, 3), 0.1, (1, 1)), ((100, 80), 0.125, (12, 10))],
)
def test_boxes_follow_the_size_that_the_image_really_has(tmp_path, size, factor, small):
    """Halves are rounded to even: 101 → 50 px, so a box over the whole image still covers it."""
    coco(tmp_path, size=size, objects=[{"bbox": [0, 0, *size]}])
    result = halve(tmp_path, factor)
    (image,) = result.data["images"]
    assert (image["width"], image["height"]) == small
    (annotation,) = result.data["annotations"]
    assert annotation["bbox"] == pytest.approx([0, 0, *small])
    assert annotation["area"] == pytest.approx(small[0] * small[1])
    assert not check_dataset(result.data, result.root, progress=False).findings.count("error")


def test_all_places_are_scaled_and_nothing_else(tmp_path):
    """Widths and heights by 1/2: areas by 1/4; visibilities, angles and marks stay."""
    box = [10, 20, 8, 6]
    labels = {
        "bbox": box,
        "area": 30,
        "iscrowd": 1,
        "segmentation": [[10, 20, 18, 20, 18, 26]],
        "keypoints": [12, 22, 2, 0, 0, 0],
        "num_keypoints": 1,
        "rbox": [14, 23, 8, 6, 30.5],
        "poly": [[10, 20], [18, 20], [18, 26]],
        "note": "seen",
    }
    regions = {"ignored_regions": [[0, 0, 40, 30]], "ignored_boxes": [[90, 70, 10, 10]], "gsd": 0.3, "place": "x"}
    coco(tmp_path, objects=[labels], image=regions)
    result = halve(tmp_path)
    assert result.data["annotations"] == [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [5, 10, 4, 3],
            "area": 7.5,
            "iscrowd": 1,
            "ignore": 1,
            "segmentation": [[5, 10, 9, 10, 9, 13]],
            "keypoints": [6, 11, 2, 0, 0, 0],
            "num_keypoints": 1,
            "rbox": [7, 11.5, 4, 3, 30.5],
            "poly": [[5, 10], [9, 10], [9, 13]],
            "note": "seen",
        }
    ]
    assert result.data["images"] == [
        {"id": 1, "file_name": "a.png", "width": 50, "height": 40, "gsd": 0.6, "place": "x"}
        | {"ignored_regions": [[0, 0, 20, 15]], "ignored_boxes": [[45, 35, 5, 5]]}
    ]


def test_places_that_nobody_knows_how_to_scale_are_left_out(tmp_path):
    mask = {"counts": "abc", "size": [80, 100]}
    labels = {"bbox": [10, 20, 8, 6], "segmentation": mask, "centre_of": {"x": 3, "y": 4}}
    coco(tmp_path, objects=[labels], image={"source": {"file_name": "s.png", "x": 100, "y": 0}})
    result = halve(tmp_path)
    places = ("warning", "keys that may hold positions in the image, not copied")
    assert found(result.findings).items() >= {places: 2, ("warning", "run-length outlines, not copied"): 1}.items()
    assert not {"segmentation", "centre_of", "source"} & (
        result.data["annotations"][0].keys() | result.data["images"][0].keys()
    )


@pytest.mark.parametrize("name", list(GOOD))
def test_every_format_can_be_scaled(tmp_path, name):
    """Boxes, areas and outlines are half those of the conversion without scaling, and the copies fit the json."""
    label = voc_xml(GOOD[name]) if name == "voc" else GOOD[name]
    source = native(tmp_path / "source", name, {"a": label, "b": label})
    whole = convert(name, source)
    small = convert(name, source, scaling=Scaling(0.5, tmp_path, "small"))
    assert [i["file_name"] for i in small.data["images"]] == [i["file_name"] for i in whole.data["images"]]
    assert objects(whole)
    for before, after in zip(objects(whole), objects(small), strict=True):
        assert after[2] == pytest.approx([v / 2 for v in before[2]])
        assert after[3] == pytest.approx(before[3] / 4)
    checked = check_dataset(small.data, small.root, progress=False)
    assert not checked.findings.count("error")


def test_dota_outlines_and_ground_sampling_distance(tmp_path):
    source = native(tmp_path / "dota", "dota", {"P1": f"gsd:0.12\n{QUAD} ship 0\n"})
    result = convert("dota", source, scaling=Scaling(0.5, tmp_path, "small"))
    assert result.data["images"][0]["gsd"] == pytest.approx(0.24)
    assert result.data["annotations"][0]["segmentation"] == [[5, 5, 10, 5, 12.5, 10, 2.5, 10]]
    assert result.data["annotations"][0]["area"] == pytest.approx(150 / 4)


# --- what cannot be used -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0, 1, 2, -0.5, float("nan"), float("inf")])
def test_factors_that_make_nothing_smaller(tmp_path, factor):
    with pytest.raises(ConfigError, match=r"scale=.* must be above 0 and below 1: 0.5 halves both sides"):
        Scaling(factor, tmp_path)


def test_other_settings_are_checked(tmp_path):
    with pytest.raises(ConfigError, match="jobs=0 must be at least 1"):
        Scaling(0.5, tmp_path, jobs=0)
    with pytest.raises(ConfigError, match="stretch"):
        Scaling(0.5, tmp_path, stretch="a,b")


def test_damaged_images_are_left_out_and_counted(tmp_path):
    """A file that ends in the middle, which no header shows."""
    noise = np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)
    path = tmp_path / "originals" / "b.png"
    path.parent.mkdir()
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    coco(tmp_path, ("a.png", "b.png", "c.png"), objects=[{"bbox": [10, 20, 8, 6]}])
    result = halve(tmp_path)
    assert [i["file_name"] for i in result.data["images"]] == ["a.png", "c.png"]
    assert found(result.findings)[("error", "images that cannot be read, left out")] == 1
    assert sorted(p.name for p in (tmp_path / "small").iterdir()) == [".scaled.json", "a.png", "c.png"]


def test_two_images_of_one_copy(tmp_path):
    coco(tmp_path, ("a.bmp", "a.png"))
    result = halve(tmp_path)
    assert found(result.findings)[("error", "images whose smaller copies would share a name, left out")] == 1
    assert len(result.data["images"]) == 1


@pytest.mark.parametrize("name", ["originals", "originals/small", "link"])
def test_originals_are_never_overwritten(tmp_path, name):
    coco(tmp_path, size=(40, 30))
    (tmp_path / "link").symlink_to(tmp_path / "originals")
    with pytest.raises(ConfigError, match=r"into the folder of the originals.*--scaled-images"):
        halve(tmp_path, name=name)
    assert read_image(tmp_path / "originals" / "a.png").shape == (30, 40, 3)
    assert [p.name for p in (tmp_path / "originals").iterdir()] == ["a.png"]


def test_folders_with_other_files_are_refused(tmp_path):
    coco(tmp_path)
    picture(tmp_path / "small" / "a.png", (7, 7))
    with pytest.raises(ConfigError, match=r"small holds other files. Empty it"):
        halve(tmp_path)
    assert read_image(tmp_path / "small" / "a.png").shape == (7, 7, 3)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        halve(tmp_path, name="file")
    halve(tmp_path, name="other")
    with pytest.raises(ConfigError, match=r"holds images of another conversion .*'scale': 0.5"):
        halve(tmp_path, 0.25, name="other")
    (tmp_path / "originals").rename(tmp_path / "moved")
    coco(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ConfigError, match="of another conversion"):
        convert("coco", tmp_path / "x.json", images=tmp_path / "moved", scaling=Scaling(0.5, tmp_path, "other"))


# --- interruptions -----------------------------------------------------------------------------------------------


def times(folder):
    """Return inode and time of each copy."""
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir() if p.suffix == ".png"}


def test_a_second_run_keeps_what_is_done_and_renews_what_changed(tmp_path):
    names = ("a.png", "b.png", "c.png")
    coco(tmp_path, names)
    first = halve(tmp_path)
    done = times(tmp_path / "small")
    picture(tmp_path / "originals" / "b.png", (60, 40))
    os.utime(tmp_path / "originals" / "b.png", ns=(0, 10**18))  # older than the copy
    (tmp_path / "small" / "c.png").unlink()
    second = halve(tmp_path)
    now = times(tmp_path / "small")
    assert now["a.png"] == done["a.png"]
    assert now["b.png"] != done["b.png"]
    assert read_image(tmp_path / "small" / "b.png").shape == (20, 30, 3)
    assert [(i["width"], i["height"]) for i in second.data["images"]] == [(50, 40), (30, 20), (50, 40)]
    assert [i["file_name"] for i in first.data["images"]] == list(names)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_run_leaves_whole_copies_and_goes_on(tmp_path, monkeypatch, capsys, error):
    names = tuple(f"{i}.png" for i in range(8))
    coco(tmp_path, names)
    written = []

    def failing(path, pixels):
        if len(written) == 3:
            raise error
        written.append(path.name)
        real(path, pixels)

    real = module.write_image
    monkeypatch.setattr(module, "write_image", failing)
    code = command(tmp_path, "--scale", "0.5", "--jobs", "1")
    assert code == (130 if error is KeyboardInterrupt else 2)
    assert not (tmp_path / "out" / "y.json").exists()
    small = tmp_path / "out" / "originals"
    done = times(small)
    assert sorted(done) == sorted(written)
    assert all(read_image(small / name).shape == (40, 50, 3) for name in done)
    monkeypatch.setattr(module, "write_image", real)
    assert command(tmp_path, "--scale", "0.5") == 0
    assert done.items() <= times(small).items()
    assert len(json.loads((tmp_path / "out" / "y.json").read_text())["images"]) == 8
    assert "8 images" in capsys.readouterr().out


def test_two_jobs_write_what_one_writes(tmp_path):
    coco(tmp_path, tuple(f"{i}.png" for i in range(5)), objects=[{"bbox": [10, 20, 8, 6]}])
    one, two = halve(tmp_path, name="one", jobs=1), halve(tmp_path, name="two", jobs=3)
    assert one.data == two.data
    for path in sorted((tmp_path / "one").glob("*.png")):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


# --- command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_beside_its_json_or_where_it_is_told(tmp_path, capsys):
    coco(tmp_path, objects=[{"bbox": [10, 20, 8, 6]}])
    assert command(tmp_path, "--scale", "0.5") == 0
    assert f"file names are relative to {tmp_path / 'out' / 'originals'}" in capsys.readouterr().out
    assert read_image(tmp_path / "out" / "originals" / "a.png").shape == (40, 50, 3)
    assert command(tmp_path, "--scale", "0.25", "--scaled-images", str(tmp_path / "quarter")) == 0
    assert read_image(tmp_path / "quarter" / "a.png").shape == (20, 25, 3)
    assert json.loads((tmp_path / "out" / "y.json").read_text())["annotations"][0]["bbox"] == [2.5, 5, 2, 1.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale", "2"], "scale=2.0 must be above 0 and below 1"),
        (["--scale", "half"], "invalid float value"),
        (["--scaled-images", "x"], "--scaled-images goes with --scale only"),
        (["--jobs", "3"], "--jobs goes with --scale only"),
        (["--stretch", "0,9"], "--stretch goes with --scale only"),
        (["--scale", "0.5", "--jobs", "0"], "jobs=0 must be at least 1"),
    ],
)
def test_wrong_options(tmp_path, capsys, options, message):
    coco(tmp_path)
    try:
        assert command(tmp_path, *options) == 2
    except SystemExit as end:
        assert end.code == 2
    assert message in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["originals", "x.json"]


def test_defaults_of_the_command_are_those_of_the_library(tmp_path):
    from d2tiny.cli import command_parser

    actions = {a.dest: a for a in command_parser("convert")._actions}
    assert actions["jobs"].help.endswith(f"(default {Scaling(0.5, tmp_path).jobs})")
    assert set(FORMATS) == set(actions["format"].choices)
