"""The pages of docs/ stay true: their code runs, their pictures and names exist."""

from __future__ import annotations

import inspect
import re
import shlex
import shutil

import pytest
import torch
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.utils.events import EventStorage

import d2tiny.modeling
from d2tiny import add_d2tiny_config
from d2tiny.cli import COMMANDS, build_parser, command_parser
from d2tiny.cli.common import EXIT_CODES
from d2tiny.cli.predict import demo_parser
from d2tiny.cli.train import net_parser
from d2tiny.config import load_config, validate_config
from d2tiny.config.defaults import read_key
from d2tiny.evaluation import PROTOCOLS
from d2tiny.modeling import assigners, necks, transformer
from d2tiny.modeling.backbone import RFP, TimmBackbone
from d2tiny.modeling.necks import EFPNBS, SARL
from d2tiny.modeling.roi_heads import TinyCascadeROIHeads
from d2tiny.ops.gaussian import SCORES
from d2tiny.utils.registry import ASSIGNER_REGISTRY, BOX_LOSS_REGISTRY
from d2tiny.utils.timm_weights import PACKAGED
from tests.helpers import ROOT
from tests.helpers.boxes import boxes, pyramid
from tests.helpers.cli import parsed
from tests.helpers.docs import blocks, commands
from tests.helpers.images import item
from tests.helpers.models import PARTS, YOLO_PARTS

PAGE = (ROOT / "docs" / "assigners.md").read_text()


@pytest.fixture
def own_parts():
    """What the page's code defines; taken out of the registries again."""
    scope = {}
    try:
        for code in blocks("python", PAGE):
            exec(compile(code, "assigners.md", "exec"), scope)
        yield scope
    finally:
        ASSIGNER_REGISTRY._obj_map.pop("CenterAssigner", None)
        ASSIGNER_REGISTRY._obj_map.pop("NearestAssigner", None)
        BOX_LOSS_REGISTRY._obj_map.pop("CentreLoss", None)


def test_own_assigner_and_loss_work(own_parts):
    assigner, grid = own_parts["NearestAssigner"](), pyramid((64, 96))
    gts = boxes([[20.3, 20.1, 8, 8], [60.2, 40.7, 30, 12]])
    windowed, dense = assigner(grid, gts), assigner(grid.boxes(), gts)
    assert torch.equal(windowed.labels, dense.labels)
    assert int((windowed.labels == 1).sum()) >= 8
    priors = torch.tensor([[0.0, 0, 4, 4], [10, 10, 14, 14], [20, 0, 24, 4]])
    simple = own_parts["CenterAssigner"]()
    result = simple(priors, boxes([[12, 12, 6, 6]]), ignore_boxes=torch.tensor([[18.0, 0, 30, 9]]))
    assert result.labels.tolist() == [0, 1, -1]
    assert not simple(priors, torch.zeros(0, 4)).labels.any()
    loss = own_parts["CentreLoss"]()
    assert float(loss(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[3.0, 4, 7, 8]]))) == pytest.approx(5)


def test_commands_pictures_and_names_exist():
    for line in commands(PAGE):
        if line.startswith("d2tiny "):
            parsed(line)
    for link in re.findall(r"\]\(([^)#]+?)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE.split("## Assigners")[0], flags=re.MULTILINE)) <= set(SCORES)
    for name in re.findall(r"^\| `(\w+Loss)` \|", PAGE, flags=re.MULTILINE):
        assert name in BOX_LOSS_REGISTRY
    for name in re.findall(r"^### `(\w+)", PAGE, flags=re.MULTILINE):
        assert name in ASSIGNER_REGISTRY


def test_pictures_are_drawn_by_the_script(tmp_path, monkeypatch):
    import runpy
    import sys

    monkeypatch.setattr(sys, "argv", ["draw_assigners.py", "--output", str(tmp_path)])
    runpy.run_path(str(ROOT / "tools" / "draw_assigners.py"), run_name="__main__")
    drawn = {p.name for p in tmp_path.glob("*.jpg")}
    assert drawn == {p.name for p in (ROOT / "docs" / "images").glob("assigner_*.jpg")}


DETECTORS = (ROOT / "docs" / "detectors.md").read_text()


def test_code_of_the_page_of_detectors(tmp_path, monkeypatch):
    shown, config, native = blocks("python", DETECTORS)
    assert all(part in (ROOT / "configs" / "grids" / "rcnn.py").read_text() for part in shown.split("\n\n\n"))
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    file = tmp_path / "configs" / "quick" / "mine.py"
    file.write_text(config)
    cfg = load_config(file)
    validate_config(cfg, datasets=False)
    assert cfg.model.backbone.neck.light
    assert cfg.dataloader.train.total_batch_size == 2
    monkeypatch.chdir(ROOT)
    scope = {}
    exec(compile(native, "detectors.md", "exec"), scope)
    assert scope["cfg"].MODEL.ROI_HEADS.NAME == "TinyCascadeROIHeads"


def test_commands_and_settings_of_the_page_of_detectors():
    for line in commands(DETECTORS):
        parsed(line)
    tables = re.findall(
        r"^\| ([^|\n]+) \(`model\.[\w.]+`\) \| \|\n\|---\|---\|\n((?:\|.+\n)+)", DETECTORS, flags=re.MULTILINE
    )
    classes = {"E-FPN-BS": EFPNBS, "SARL": SARL, "Cascade": TinyCascadeROIHeads, "DetectoRS": RFP}
    assert {title for title, _ in tables} == set(classes)
    for title, rows in tables:
        names = re.findall(r"`(\w+)[^`]*`", "\n".join(row.split("|")[1] for row in rows.splitlines()))
        known = set(inspect.signature(classes[title]).parameters)
        assert names
        assert set(names) <= known, (title, set(names) - known)
    for key in re.findall(r"`MODEL\.([A-Z_]+)\.\*`", DETECTORS):
        assert key in add_keys().MODEL
    for name in re.findall(r"`(build_\w+_backbone)`", DETECTORS):
        assert name in BACKBONE_REGISTRY
    for name in re.findall(r"^\| `(\w+)\(model\)`", DETECTORS, flags=re.MULTILINE):
        assert name in PARTS


def config_of(page, folder):
    """The config that a page shows as Python, valid among the project's own."""
    (code,) = blocks("python", page)
    shutil.copytree(ROOT / "configs", folder / "configs")
    file = folder / "configs" / "quick" / "mine.py"
    file.write_text(code)
    cfg = load_config(file)
    validate_config(cfg, datasets=False)
    return cfg


BACKBONES = (ROOT / "docs" / "backbones.md").read_text()


def test_the_page_of_backbones(tmp_path):
    cfg = config_of(BACKBONES, tmp_path)
    assert (cfg.train.init_checkpoint, cfg.model.backbone.bottom_up.freeze_at) == ("timm://resnet26d", 2)
    for line in commands(BACKBONES):
        if "benchmarks/" not in line:
            parsed(line)
    (command,) = (line for line in commands(BACKBONES) if "model_name=" in line)
    overrides = [word for word in shlex.split(command) if "=" in word]
    validate_config(load_config("quick/faster_rcnn_lite0_fpn_rfla", overrides), datasets=False)
    keys = set(re.findall(r"`MODEL\.(?:\w+\.)?\w+`", BACKBONES))
    assert len(keys) > 5
    for key in keys:
        read_key(add_keys(), key.strip("`"))
    for name in re.findall(r"`(build_\w+_backbone)`", BACKBONES):
        assert name in BACKBONE_REGISTRY
    arguments = re.findall(r"^\| `(\w+)` \|", BACKBONES, flags=re.MULTILINE)
    assert set(arguments) - set(PACKAGED) == set(inspect.signature(TimmBackbone).parameters) - {"kwargs"}


ONE_STAGE = (ROOT / "docs" / "one_stage.md").read_text()


def test_the_page_of_one_stage_detectors(tmp_path):
    for line in commands(ONE_STAGE):
        parsed(line)
    known = {name for name, _ in inspect.getmembers(d2tiny.modeling)} | {"RandomAffine", "MosaicMapper", "ObjectCrop"}
    known |= {"Photometric", "MomentumWarmup", "SetAttribute", "DefaultPredictor"}
    for name in re.findall(r"`([A-Z][A-Za-z0-9]*[a-z]\w*)`", ONE_STAGE):
        assert name in known, name
    for name in re.findall(r"`(\w+)\(model\)`", ONE_STAGE):
        assert name in YOLO_PARTS, name
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    file = tmp_path / "configs" / "quick" / "mine.py"
    file.write_text(blocks("python", ONE_STAGE)[0])
    model = load_config(file).model
    assert list(model.in_features) == ["p2", "p3", "p4", "p5"]
    assert model.head.assigner.min_candidate_size == 8
    assert instantiate(model.head).strides == [4, 8, 16, 32]


def add_keys():
    cfg = get_cfg()
    add_d2tiny_config(cfg)
    return cfg


SCALEBRIDGE = (ROOT / "docs" / "scalebridge.md").read_text()


def test_commands_settings_and_pictures_of_the_page_of_transformers():
    for line in commands(SCALEBRIDGE):
        if line.startswith("d2tiny "):
            parsed(line)
        else:
            assert (ROOT / shlex.split(line)[1]).exists(), line
    for link in re.findall(r"\]\(([^)#]+?)\)", SCALEBRIDGE):
        assert (ROOT / "docs" / link).exists(), link
    table = SCALEBRIDGE.split("| part | class |")[1].split("\n\n")[0]
    for row in table.splitlines()[2:]:
        classes, settings = (re.findall(r"`([\w.]+)`", cell) for cell in row.split("|")[2:4])
        known = set()
        for name in classes:
            owner = next(m for m in (transformer, necks, assigners) if hasattr(m, name))
            known |= set(inspect.signature(getattr(owner, name)).parameters)
        assert classes
        assert {s.split(".")[-1] for s in settings} - {"null"} <= known, row


@pytest.mark.slow
def test_config_with_a_frozen_expert(tmp_path):
    """The page's config with weights from a file: they are read, and stay as they are."""
    cfg = config_of(SCALEBRIDGE, tmp_path)
    expert = cfg.model.routing.experts[4]
    torch.manual_seed(1)
    given = instantiate(expert.backbone).state_dict()
    torch.save({"model": given}, tmp_path / "expert.pth")
    expert.weights = str(tmp_path / "expert.pth")
    model = instantiate(cfg.model).train()
    assert model.routing.names == ["local", "detail", "wide", "context", str(expert.name)]
    torch.nn.init.ones_(model.routing.scale)
    with EventStorage(0) as storage:
        sum(model([item([[10, 10, 18, 17]])]).values()).backward()
        assert f"expert_{expert.name}" in storage.latest()
    frozen = model.routing.experts[expert.name]
    assert all(torch.equal(v, given[k]) for k, v in frozen.backbone.model.state_dict().items())
    assert all(p.grad is None for p in frozen.backbone.parameters())
    assert all(p.grad is not None for p in frozen.adapters.parameters())


COMMANDS_PAGE = (ROOT / "docs" / "commands.md").read_text()


def test_the_page_of_commands_names_all_and_only_what_exists():
    assert re.findall(r"^\| `d2tiny ([\w-]+)` \|", COMMANDS_PAGE, flags=re.MULTILINE) == list(COMMANDS)
    assert re.findall(r"^\| (\d+) \| (.+) \|$", COMMANDS_PAGE, flags=re.MULTILINE) == re.findall(
        r"^  (\d+) +(.+)$", EXIT_CODES, flags=re.MULTILINE
    )
    parsers = [build_parser(), net_parser(), demo_parser(), *map(command_parser, COMMANDS)]
    known = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    named = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", COMMANDS_PAGE.replace("`", " ")))
    assert len(named) > 10
    assert named - {"-m"} <= known  # Python's own


TRAINING = (ROOT / "docs" / "training.md").read_text()


def test_overrides_of_the_page_of_training_apply():
    rows = re.findall(r"^\| (?:change|swap|use mixed|choose).*?\| (.+) \|$", TRAINING, flags=re.MULTILINE)
    overrides = [o for row in rows for code in re.findall(r"`(.+?)`", row) for o in code.split() if "=" in o]
    assert len(overrides) >= 8
    for override in overrides:
        validate_config(load_config("quick/faster_rcnn_r18_fpn_rfla", [override]), datasets=False)


def test_the_page_of_evaluation_describes_all_protocols():
    table = (ROOT / "docs" / "evaluation.md").read_text().split("| protocol | what |")[1].split("\n\n")[0]
    named = re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines()[1:] if "|" in row))
    assert set(named) == set(PROTOCOLS)
