from __future__ import annotations

import json

import pytest
from detectron2.config import instantiate
from omegaconf import OmegaConf

from d2tiny.config import load_config, save_config, validate_config
from d2tiny.config.files import configs_root
from d2tiny.config.native import lazy_from_yacs
from d2tiny.config.signature import accepted_parameters
from d2tiny.data.datasets import register_coco_like
from d2tiny.modeling.assigners import MaxIoUAssigner
from d2tiny.modeling.proposal_generator import TinyRPN
from d2tiny.modeling.roi_heads import TinyFastRCNNOutputLayers
from d2tiny.utils.errors import ConfigError

QUICK = "quick/faster_rcnn_r18_fpn_rfla"
NATIVE = configs_root() / "yaml" / "faster_rcnn_r50_efpnbs_rfla_dcloss.yaml"


def test_overrides():
    cfg = load_config(QUICK, ["train.max_iter=7", "optimizer.lr=1e-3", "dataloader.train.dataset.names=[a,b]"])
    assert cfg.train.max_iter == 7
    assert cfg.optimizer.lr == 1e-3
    assert cfg.dataloader.train.dataset.names == ["a", "b"]
    assert cfg.lr_multiplier.max_iter == 7  # interpolated


def test_a_default_argument_can_be_set():
    cfg = load_config(QUICK, ["model.proposal_generator.assigner.tie=index"])
    assert instantiate(cfg.model.proposal_generator.assigner).tie == "index"


def test_a_component_is_swapped_by_name_or_by_dict():
    key = "model.proposal_generator.assigner"
    by_name = load_config(QUICK, [f"{key}=MaxIoUAssigner", f"{key}.pos_iou=0.6"])
    by_dict = load_config(QUICK, [f"{key}={{_target_:d2tiny.modeling.assigners.MaxIoUAssigner,pos_iou:0.6}}"])
    for cfg in (by_name, by_dict):
        validate_config(cfg, datasets=False)
        assigner = instantiate(cfg.model.proposal_generator.assigner)
        assert isinstance(assigner, MaxIoUAssigner)
        assert assigner.pos_iou == 0.6


def test_a_dict_without_target_is_merged():
    cfg = load_config(QUICK, ["train.ema={decay:0.5}"])
    assert cfg.train.ema.decay == 0.5
    assert cfg.train.ema.enabled is True


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_itr=5", r"train.max_itr: unknown key 'max_itr' in 'train'. Did you mean 'max_iter'"),
        ("modle.x=1", "Did you mean 'model'"),
        ("model.proposal_generator.assigner.top_k=[2,1]", "Did you mean 'topk'"),
        ("model.proposal_generator.assigner=HLAAsigner", "Did you mean 'HLAAssigner'"),
        ("train.max_iter=many", "expected a whole number"),
        ("train.max_iter=1.5", "expected a whole number"),
        ("optimizer.lr=fast", "expected a number"),
        ("train.ema=true", "set one of its keys enabled, decay, as train.ema.enabled="),
        ("train.accumulate=64", "the name of a component; .* as train.accumulate.nominal_batch_size="),
        ("dataloader.evaluator.extra_ious={a: 1}", r"expected a list \[a,b\]"),
        ("dataloader.evaluator.extra_ious=0.25", r"expected a list \[a,b\], got 0.25"),
        ("dataloader.evaluator.max_dets=many", r"max_dets: expected a list"),
        ("model.proposal_generator.in_features=p2", "expected a list"),
        ("train.ema.enabled=3", "expected true or false"),
        ("train.max_iter.x=3", "is a value"),
        ("train.ema={deccay:0.5}", "Did you mean 'decay'"),
        ("dataloader.train.mapper.augmentations.9.prob=1", "is a list of"),
        ("train.max_iter", "Cannot read override"),
        ("~train.max_iter", "cannot be deleted"),
        ("train.max_iter=1,2", "not a sweep"),
        ("model.proposal_generator.assigner=NWDLoss", "'NWDLoss' is of kind 'box loss', not 'assigner'"),
        ("model.proposal_generator.box_loss=RKAAssigner", "box_loss: 'RKAAssigner' is of kind 'assigner'"),
        ("model.proposal_generator.assigner.ignore_iof_thresh=abc", "ignore_iof_thresh: expected a number"),
        ("model.roi_heads.match_nwd=abc", "match_nwd: expected a number"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(QUICK, [override])


def test_a_list_may_take_the_place_of_a_default_of_none():
    """Found by a user: `extra_ious=[0.25]` was refused as no number, and a bare number would have crashed later."""
    overrides = ["dataloader.evaluator.extra_ious=[0.25]", "dataloader.evaluator.areas={vt: [0, 64]}"]
    evaluator = load_config(QUICK, overrides).dataloader.evaluator
    assert list(evaluator.extra_ious) == [0.25]
    assert list(evaluator.areas.vt) == [0, 64]
    assert load_config(QUICK, ["dataloader.evaluator.extra_ious=null"]).dataloader.evaluator.extra_ious is None


def test_plus_adds_a_key():
    assert load_config(QUICK, ["+train.note=hello"]).train.note == "hello"


def test_save_round_trip(tmp_path):
    cfg = load_config(QUICK, ["train.max_iter=7"])
    save_config(cfg, tmp_path / "a.yaml")
    again = load_config(tmp_path / "a.yaml")
    save_config(again, tmp_path / "b.yaml")
    assert (tmp_path / "a.yaml").read_text() == (tmp_path / "b.yaml").read_text()
    assert again.train.max_iter == 7
    validate_config(again, datasets=False)
    with pytest.raises(ConfigError, match="max_iter"):
        load_config(tmp_path / "a.yaml", ["train.max_itr=5"])  # still strict


def test_a_lambda_cannot_be_saved(tmp_path):
    cfg = load_config(QUICK)
    OmegaConf.set_struct(cfg, False)
    cfg._set_flag("allow_objects", True)
    cfg.train.output_dir = lambda: 1
    with pytest.raises(ConfigError, match=r"lambda.* cannot be saved as YAML: name a class or function"):
        save_config(cfg, tmp_path / "a.yaml")
    assert not list(tmp_path.iterdir())


def test_broken_files(tmp_path):
    for text, message in (("x = (", "SyntaxError"), ("from .nope import model", "ImportError")):
        (tmp_path / "bad.py").write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_config(tmp_path / "bad.py")
    with pytest.raises(ConfigError, match="Did you mean"):
        load_config("quick/faster_rcnn_r18_fpn_rfl.py")


def invalid(overrides, message, **kwargs):
    cfg = load_config(QUICK, overrides)
    with pytest.raises(ConfigError, match=message):
        validate_config(cfg, **kwargs)


def test_validator_unknown_argument():
    cfg = load_config(QUICK)
    OmegaConf.set_struct(cfg, False)
    cfg.model.proposal_generator.assigner.top_k = 3
    expected = r"model.proposal_generator.assigner \(HLAAssigner\): unknown argument 'top_k'. Did you mean 'topk'\?"
    with pytest.raises(ConfigError, match=expected):
        validate_config(cfg, datasets=False)


def test_validator_missing_argument():
    cfg = load_config(QUICK)
    OmegaConf.set_struct(cfg, False)
    del cfg.model.proposal_generator.head
    with pytest.raises(ConfigError, match=r"TinyRPN\): argument 'head' is missing"):
        validate_config(cfg, datasets=False)


def test_validator_levels_and_channels():
    invalid(["model.proposal_generator.in_features=[p2,p3]"], "2 levels", datasets=False)
    invalid(["model.proposal_generator.anchor_generator.strides=[8,8,16,32,64]"], "stride 4, not 8", datasets=False)
    invalid(["model.proposal_generator.anchor_generator.aspect_ratios=[1.0]"], "makes 1 a cell", datasets=False)
    invalid(["train.amp.dtype=fp16"], "Valid: bfloat16, float16", datasets=False)
    invalid(["train.max_iter=0"], "must be at least 1", datasets=False)
    invalid(["model.backbone.in_features=[res7]"], "model.proposal_generator.head.in_channels: .*res7", datasets=False)
    cfg = load_config(QUICK)
    cfg.train.output_dir = "${nowhere}"
    with pytest.raises(ConfigError, match=r"train\.output_dir: .*'nowhere' not found"):
        validate_config(cfg, datasets=False)


def test_validator_import():
    invalid(["model.backbone.top_block._target_=detectron2.nope.X"], "cannot import", datasets=False)


def test_validator_datasets(datasets):
    validate_config(load_config(QUICK))
    invalid(["model.roi_heads.num_classes=80"], "num_classes=80 but dataset 'aerial_train' has 8 classes")
    with pytest.raises(ConfigError) as told:  # once, also where a data set is for training and test
        names = ["dataloader.train.dataset.names=aerial_val", "dataloader.test.dataset.names=aerial_val"]
        validate_config(load_config(QUICK, ["model.roi_heads.num_classes=80", *names]))
    assert str(told.value).count("num_classes=80 but") == 1
    invalid(["dataloader.train.dataset.names=aerial_trian"], "Did you mean 'aerial_train'")


def test_class_order_must_agree(tmp_path):
    for name, order in (("order_a", ["car", "ship"]), ("order_b", ["ship", "car"])):
        data = {"images": [], "annotations": [], "categories": [{"id": i, "name": n} for i, n in enumerate(order)]}
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
        register_coco_like(f"{name}_{tmp_path.name}", tmp_path / f"{name}.json", tmp_path)
    names = [
        f"dataloader.{s}.dataset.names={n}_{tmp_path.name}" for s, n in (("train", "order_a"), ("test", "order_b"))
    ]
    invalid([*names, "model.roi_heads.num_classes=2"], "another order")
    cfg = load_config(QUICK, [names[1], "model.roi_heads.num_classes=2"])
    validate_config(cfg, splits=("test",))  # an evaluation does not ask for the training set


def test_top_level_keys_are_needed():
    cfg = load_config(QUICK)
    OmegaConf.set_struct(cfg, False)
    del cfg.optimizer
    with pytest.raises(ConfigError, match="'optimizer' is missing"):
        validate_config(cfg, datasets=False)


def test_signatures_follow_kwargs_to_the_base_class():
    names, open_ended = accepted_parameters(TinyFastRCNNOutputLayers)
    assert {"box_loss", "num_classes", "test_topk_per_image"} <= set(names)
    assert not open_ended
    names, open_ended = accepted_parameters(TinyRPN)
    assert "assigner" in names
    assert "anchor_matcher" not in names
    assert not open_ended


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("SOLVER.LR_SCHEDULER_NAME=WarmupCosineLR", "has no effect"),
        ("INPUT.CROP.ENABLED=True", "has no effect"),
        ("SOLVER.BASE_LRR=1", "Did you mean 'BASE_LR'"),
        ("SOLVER.BASE_LR", "write KEY=VALUE"),
        ('DATASETS.TEST=("a","b")', "one TEST set"),
    ],
)
def test_native_settings_are_obeyed_or_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        lazy_from_yacs(NATIVE, [override])


def test_native_settings_arrive():
    cfg = lazy_from_yacs(
        NATIVE,
        [
            "SOLVER.NESTEROV=True",
            "SOLVER.CLIP_GRADIENTS.ENABLED=True",
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE=norm",
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE=5.0",
            "INPUT.RANDOM_FLIP=vertical",
        ],
    )
    assert cfg.optimizer.nesterov
    assert cfg.train.clip_norm == 5
    (flip,) = cfg.dataloader.train.mapper.augmentations
    assert (flip.horizontal, flip.vertical) == (False, True)


def test_native_class_count_is_checked(datasets):
    cfg = lazy_from_yacs(
        NATIVE, ['DATASETS.TRAIN=("aerial_train",)', 'DATASETS.TEST=("aerial_val",)', "MODEL.ROI_HEADS.NUM_CLASSES=3"]
    )
    with pytest.raises(ConfigError, match=r"MODEL\.ROI_HEADS\.NUM_CLASSES=3 but dataset 'aerial_train' has 8"):
        validate_config(cfg)
