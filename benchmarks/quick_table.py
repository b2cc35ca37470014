#!/usr/bin/env python
"""Train variants of the small configs with equal budgets, and write their tables into ``results``.

Each training is a process with one thread, so that parallel trainings do not disturb each other. Finished trainings are
skipped and interrupted ones resumed, so the command can be stopped and repeated.

    DETECTRON2_DATASETS=/data python benchmarks/quick_table.py --table ablation --jobs 2 train.amp.enabled=true
"""

from __future__ import annotations

import json
import math
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from common import RESULTS, ROOT, kept_entries, make_parser, parse_with_overrides
from scipy import stats

from d2tiny.data.datasets.benchmarks import BENCHMARKS
from d2tiny.utils.files import write_text

ASSIGNER = "model.proposal_generator.assigner"
RPN_LOSS, ROI_LOSS = "model.proposal_generator.box_loss", "model.roi_heads.box_predictor.box_loss"


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: name of the result files.
        title: first cell of the row.
        config: name of the config; without a folder, of one in ``quick/``.
        overrides: overrides of the config.
        start: name of the row whose final weights this training starts from; empty for none.
        base: name of the row that this one is compared with; empty for that of the table.
    """

    name: str
    title: str
    config: str
    overrides: tuple[str, ...] = ()
    start: str = ""
    base: str = ""

    @property
    def config_name(self) -> str:
        """Name of the config in the zoo."""
        return self.config if "/" in self.config else f"quick/{self.config}"


def _assigner(name: str, title: str, cls: str, *settings: str, body: str = "r18") -> Row:
    """Return a row with another assigner, on anchors of 8-128 px."""
    changes = (f"{ASSIGNER}={cls}", *(f"{ASSIGNER}.{s}" for s in settings))
    return Row(name, title, f"faster_rcnn_{body}_fpn_maxiou_a8", changes)


def _loss(
    name: str,
    title: str,
    cls: str,
    *settings: str,
    body: str = "r18",
    places: Sequence[str] = (RPN_LOSS, ROI_LOSS),
) -> Row:
    """Return a row with another box loss in RPN and box head, or in one of them, with RFLA."""
    changes = [f"{key}={cls}" for key in places]
    changes += [f"{key}.{s}" for key in places for s in settings]
    return Row(name, title, f"faster_rcnn_{body}_fpn_rfla", tuple(changes))


# Losses on decoded boxes are at most 1 or 2, the L1 loss of encoded deltas is larger: the weight compensates for it.
BOX_WEIGHT = "loss_weight=5.0"
DETECTORS_RUN = ("train.max_iter=200", "optimizer.lr=0.0005")

TABLES = {
    "quick": (
        Row("faster_rcnn_r18_fpn_maxiou", "MaxIoU, anchors 32-512 px (8 × stride)", "faster_rcnn_r18_fpn_maxiou"),
        Row("faster_rcnn_r18_fpn_maxiou_a8", "MaxIoU, anchors 8-128 px", "faster_rcnn_r18_fpn_maxiou_a8"),
        Row("faster_rcnn_r18_fpn_rfla", "RFLA", "faster_rcnn_r18_fpn_rfla"),
        Row("faster_rcnn_r18_efpnbs_rfla_dcloss", "E-FPN-BS + RFLA + DCLoss", "faster_rcnn_r18_efpnbs_rfla_dcloss"),
    ),
    # Assigners with L1, then losses with HLA (kld); HLA on its receptive-field anchors, the others on 8-128 px.
    "ablation": (
        Row("maxiou", "MaxIoU, IoU", "faster_rcnn_r18_fpn_maxiou_a8"),
        _assigner("maxiou_nwd", "MaxIoU, NWD", "MaxIoUAssigner", "metric=nwd", "min_quality=0.3"),
        _assigner("rka", "NWD-RKA (k = 2)", "RKAAssigner", "topk=2"),
        _assigner("atss", "ATSS (k = 9)", "ATSSAssigner", "topk=9"),
        Row("hla_kld", "HLA, KLD (RFLA)", "faster_rcnn_r18_fpn_rfla"),
        Row("hla_wd", "HLA, WD", "faster_rcnn_r18_fpn_rfla", (f"{ASSIGNER}.metric=wd",)),
        _loss("dcloss_prose", "HLA, DCLoss (prose)", "DCLoss", "mode=prose"),
        _loss("dcloss_formula", "HLA, DCLoss (formula)", "DCLoss", "mode=formula"),
        _loss("sal_iou2", "HLA, SAL (1 − IoU²)", "SALoss", "base=iou2", BOX_WEIGHT),
        _loss("sal_giou", "HLA, SAL (1 − GIoU)", "SALoss", "base=giou", BOX_WEIGHT),
        _loss("nwd", "HLA, NWD loss", "NWDLoss", BOX_WEIGHT),
    ),
}
# Detectors with the parts of the E-FPN-BS paper, and with SARL.
TABLES["rcnn"] = tuple(
    Row(config, title, config, base=f"{config.partition('_')[0]}_rcnn_r18_fpn_rfla")
    for config, title in (
        ("faster_rcnn_r18_fpn_rfla", "Faster R-CNN, RFLA"),
        ("faster_rcnn_r18_efpnbs_rfla", "Faster R-CNN, RFLA + E-FPN-BS"),
        ("faster_rcnn_r18_efpnbslight_rfla", "Faster R-CNN, RFLA + light E-FPN-BS (ours)"),
        ("faster_rcnn_r18_efpnbs_rfla_dcloss", "Faster R-CNN, RFLA + E-FPN-BS + DCLoss"),
        ("faster_rcnn_r18_sarl_rfla", "Faster R-CNN, RFLA + SARL"),
        ("cascade_rcnn_r18_fpn_rfla", "Cascade R-CNN, RFLA"),
        ("cascade_rcnn_r18_efpnbs_rfla", "Cascade R-CNN, RFLA + E-FPN-BS"),
        ("cascade_rcnn_r18_efpnbs_rfla_dcloss", "Cascade R-CNN, RFLA + E-FPN-BS + DCLoss"),
    )
)
# From random weights DetectoRS learns little in minutes. It therefore starts from the trained Cascade R-CNN with the
# same parts, whose function it has initially.
TABLES["rcnn"] += tuple(
    Row(config, f"DetectoRS, {parts}, after the Cascade R-CNN", config, DETECTORS_RUN, start, "detectors_r18_rfp_rfla")
    for config, parts, start in (
        ("detectors_r18_rfp_rfla", "RFLA", "cascade_rcnn_r18_fpn_rfla"),
        ("detectors_r18_efpnbs_rfla", "RFLA + E-FPN-BS", "cascade_rcnn_r18_efpnbs_rfla"),
        ("detectors_r18_efpnbs_rfla_dcloss", "RFLA + E-FPN-BS + DCLoss", "cascade_rcnn_r18_efpnbs_rfla_dcloss"),
    )
)
# One-stage detectors with the parts of the SARL and RS-TinyNet papers.
TABLES["onestage"] = tuple(
    Row(name, title, config, base="yolox_s" if name.startswith("yolox") else "yolo11_n")
    for name, title, config in (
        ("yolox_s", "YOLOX-s", "yolox_s"),
        ("yolox_s_l1", "YOLOX-s, L1 throughout", "yolox_s_l1"),
        ("yolox_s_sarl", "YOLOX-s, SARL", "yolox_s_sarl"),
        ("yolox_s_sal", "YOLOX-s, SAL", "yolox_s_sal"),
        ("yolox_s_sarl_sal", "YOLOX-s, SARL + SAL", "yolox_s_sarl_sal"),
        ("yolo11_n", "YOLO11n", "yolo11_n"),
        ("yolo11_n_tinytal", "YOLO11n, TAL with tiny candidates", "yolo11_n_tinytal"),
        ("yolo11_n_p2", "YOLO11n, level of stride 4", "yolo11_n_p2"),
        ("yolo11_n_mdca", "YOLO11n, MDCA", "yolo11_n_mdca"),
        ("yolo11_n_arb", "YOLO11n, ARB", "yolo11_n_arb"),
        ("yolo11_n_pfdh", "YOLO11n, PFDH as the paper shows it", "yolo11_n_pfdh_literal"),
        ("rs_tinynet_n", "RS-TinyNet-n (MDCA, ARB, PFDH) likewise", "rs_tinynet_n_literal"),
    )
)


def _pfdh(name: str, title: str, **settings: str | int) -> Row:
    """Return a row of PFDH with other settings than the paper's chain."""
    changes = tuple(f"model.backbone.neck.{key}={value}" for key, value in settings.items())
    return Row(name, title, "yolo11_n_pfdh_literal", changes)


# PFDH: the paper's chain, and what could make it learn.
TABLES["pfdh"] = (
    Row("yolo11_n", "YOLO11n", "yolo11_n"),
    _pfdh("literal", "PFDH, the paper's chain"),
    _pfdh("around", "PFDH, skip round it", skip="around"),
    _pfdh("stages", "PFDH, skips inside the stages", skip="stages"),
    _pfdh("around_w32", "PFDH, skip round it, width ≥ 32", skip="around", min_width=32),
    Row("around_keep", "PFDH, skip round it, width ≥ 32, levels keep their channels", "yolo11_n_pfdh_wide"),
    _pfdh("residual", "PFDH, the chain with AFPN's four residual blocks", block="residual", repeats=4),
    Row("rs_tinynet", "RS-TinyNet (MDCA, ARB, PFDH with a skip round it)", "rs_tinynet_n"),
)
# DINO, with each part of ScaleBridge-Det, and with both.
TABLES["transformers"] = (
    Row("dino_r18", "DINO", "dino_r18"),
    Row("dino_r18_dgq", "DINO, DGQ", "dino_r18_dgq"),
    Row("dino_r18_rem", "DINO, REM", "dino_r18_rem"),
    Row("scalebridge_r18", "ScaleBridge-Det (DGQ, REM)", "scalebridge_r18"),
)
_NECK = "model.backbone.neck"
_FROZEN = "model.backbone.backbone.bottom_up.freeze_at=5"


def _neck(name: str, title: str, *settings: str, base: str = "") -> Row:
    """Return a row with a form of E-FPN-BS on frozen ImageNet features."""
    changes = (_FROZEN, *(f"{_NECK}.{s}" for s in settings))
    return Row(name, title, "faster_rcnn_lite0_efpnbs_rfla", changes, base=base)


# Forms of E-FPN-BS on frozen ImageNet features.
TABLES["necks"] = (
    Row("fpn", "FPN", "faster_rcnn_lite0_fpn_rfla", ("model.backbone.bottom_up.freeze_at=5",)),
    _neck("paper", "CEM, FBSM as printed"),
    _neck("cem", "CEM", "fbsm=false"),
    _neck("fbsm_residual", "FBSM with a residual", "cem=false", "residual=true"),
    _neck("residual", "CEM, FBSM with a residual", "residual=true"),
    _neck("paper_taught", "CEM, FBSM as printed, taught masks", "mask_loss_weight=0.5"),
    _neck("residual_taught", "CEM, FBSM with a residual, taught masks", "residual=true", "mask_loss_weight=0.5"),
    _neck("light", "light E-FPN-BS", "light=true"),
    # FBSM alone, and what each change of its equation does; FPN was trained again with them.
    Row("fpn_again", "FPN, again", "faster_rcnn_lite0_fpn_rfla", ("model.backbone.bottom_up.freeze_at=5",)),
    _neck("fbsm", "FBSM as printed", "cem=false", base="fpn_again"),
    _neck("fbsm_scaled", "FBSM, P2 + γ · FBSM(P2), γ learned from 0", "cem=false", "form=scaled", base="fpn_again"),
    _neck("fbsm_doubled", "FBSM, twice the mask", "cem=false", "form=doubled", base="fpn_again"),
    _neck("fbsm_signed", "FBSM without its ReLU", "cem=false", "form=signed", base="fpn_again"),
    _neck("fbsm_normed", "FBSM, a norm behind its ReLU", "cem=false", "form=normed", base="fpn_again"),
)
# Families of one-stage detectors, necks and heads on EfficientNet-Lite0: name and title of each row.
_ONE_STAGE = (
    (("fcos_lite0_p2", "FCOS, P2-P6"), ("fcos_lite0_p2_rfla", "FCOS, P2-P6, RFLA")),
    (("retinanet_lite0_fpn_maxiou", "RetinaNet, P3-P7"), ("retinanet_lite0_fpn_rfla", "RetinaNet, P3-P7, RFLA")),
    (
        ("yolox_lite0_s", "YOLOX-s neck and head"),
        ("yolox_lite0_s_l1", "YOLOX-s neck and head, L1 throughout"),
        ("yolox_lite0_s_sarl", "YOLOX-s neck and head, SARL"),
        ("yolox_lite0_s_sal", "YOLOX-s neck and head, SAL and L1"),
        ("yolox_lite0_s_sarl_sal", "YOLOX-s neck and head, SARL, SAL and L1"),
    ),
    (
        ("yolo11_lite0_n", "YOLO11n neck and head"),
        ("yolo11_lite0_n_p2", "YOLO11n neck and head, level of stride 4"),
        ("yolo11_lite0_n_mdca", "YOLO11n neck and head, MDCA"),
        ("yolo11_lite0_n_arb", "YOLO11n neck and head, ARB"),
        ("yolo11_lite0_n_pfdh", "YOLO11n neck and head, PFDH with a skip round it"),
        ("yolo11_lite0_n_pfdh_literal", "YOLO11n neck and head, PFDH, the paper's chain"),
        ("rs_tinynet_lite0", "RS-TinyNet (MDCA, ARB, PFDH with a skip) with YOLO11n neck and head"),
    ),
)
# Each one-stage row is compared with the first of its family, those of SAL with the one that has their L1.
_ONE_STAGE_BASES = {name: family[0][0] for family in _ONE_STAGE for name, _ in family}
_ONE_STAGE_BASES |= dict.fromkeys(("yolox_lite0_s_sal", "yolox_lite0_s_sarl_sal"), "yolox_lite0_s_l1")
# Rows that change one part of another: DCLoss takes the place of smooth L1 in a cascade, so that L1 is its base.
_HITUAV_BASES = _ONE_STAGE_BASES | {
    "cascade_rcnn_lite0_efpnbs_rfla_dcloss": "cascade_rcnn_lite0_fpn_rfla_l1",
    "cascade_rcnn_lite0_efpnbs_taught_rfla": "cascade_rcnn_lite0_fpn_rfla",
    "cascade_rcnn_lite0_fpn_rfla_narrow": "cascade_rcnn_lite0_fpn_rfla",
    "cascade_rcnn_lite0_sarl_rfla_x2": "cascade_rcnn_lite0_fpn_rfla_x2",
    "faster_rcnn_lite0_efpnbs_taught_rfla_x2": "faster_rcnn_lite0_efpnbs_taught_rfla",
    "detectors_lite0_efpnbs_rfla_dcloss": "detectors_lite0_rfp_rfla",
}
# HIT-UAV from ImageNet weights: assigners, necks, box losses, detectors.
TABLES["hituav"] = tuple(
    Row(config, title, f"hituav/{config}", base=_HITUAV_BASES.get(config, ""))
    for config, title in (
        ("faster_rcnn_lite0_fpn_maxiou", "MaxIoU, anchors 32-512 px (8 × stride)"),
        ("faster_rcnn_lite0_fpn_maxiou_a8", "MaxIoU, anchors 8-128 px"),
        ("faster_rcnn_lite0_fpn_rka", "NWD-RKA (k = 2)"),
        ("faster_rcnn_lite0_fpn_rfla", "RFLA"),
        ("faster_rcnn_lite0_cem_rfla", "RFLA + CEM"),
        ("faster_rcnn_lite0_fbsm_rfla", "RFLA + FBSM"),
        ("faster_rcnn_lite0_efpnbs_rfla", "RFLA + E-FPN-BS"),
        ("faster_rcnn_lite0_efpnbs_taught_rfla", "RFLA + E-FPN-BS, residual, taught masks (ours)"),
        ("faster_rcnn_lite0_efpnbslight_rfla", "RFLA + light E-FPN-BS (ours)"),
        ("faster_rcnn_lite0_sarl_rfla", "RFLA + SARL"),
        ("faster_rcnn_lite0_sarl_nomax_rfla", "RFLA + SARL without the maximum over the image (ours)"),
        ("faster_rcnn_lite0_fpn_rfla_dcloss", "RFLA + DCLoss (prose)"),
        ("faster_rcnn_lite0_fpn_rfla_dcloss_formula", "RFLA + DCLoss (formula)"),
        ("faster_rcnn_lite0_fpn_rfla_dcloss_roi", "RFLA + DCLoss (prose; box head, shares of proposals)"),
        ("faster_rcnn_lite0_fpn_rfla_sal", "RFLA + SAL (1 − IoU²)"),
        ("faster_rcnn_lite0_fpn_rfla_nwdloss", "RFLA + NWD loss"),
        ("faster_rcnn_lite0_efpnbs_rfla_dcloss", "RFLA + E-FPN-BS + DCLoss"),
        ("cascade_rcnn_lite0_fpn_rfla", "Cascade R-CNN, RFLA"),
        ("cascade_rcnn_lite0_fpn_rfla_narrow", "Cascade R-CNN, RFLA, box heads of 128 channels"),
        ("cascade_rcnn_lite0_fpn_rfla_l1", "Cascade R-CNN, RFLA, L1"),
        ("cascade_rcnn_lite0_efpnbs_rfla_dcloss", "Cascade R-CNN, RFLA + E-FPN-BS + DCLoss"),
        ("cascade_rcnn_lite0_efpnbs_taught_rfla", "Cascade R-CNN, RFLA + E-FPN-BS, residual, taught masks (ours)"),
        ("faster_rcnn_lite0_efpnbs_taught_rfla_x2", "RFLA + E-FPN-BS, taught masks, images enlarged × 2 (ours)"),
        ("cascade_rcnn_lite0_efpnbs_taught_rfla_x2", "Cascade R-CNN, the same, images enlarged × 2 (ours)"),
        ("cascade_rcnn_lite0_fpn_rfla_x2", "Cascade R-CNN, RFLA, images enlarged × 2"),
        ("cascade_rcnn_lite0_sarl_rfla_x2", "Cascade R-CNN, RFLA + SARL, images enlarged × 2"),
        ("detectors_lite0_rfp_rfla", "DetectoRS without SAC, RFLA"),
        ("detectors_lite0_efpnbs_rfla_dcloss", "DetectoRS without SAC, RFLA + E-FPN-BS + DCLoss"),
        *(row for family in _ONE_STAGE for row in family),
    )
)
_UNIT, _UNIT_2 = "model.selection.delta_unit", "model.decoder.delta_unit"
_HEAVY = ("model.density.map_weight=1.0", "model.density.count_weight=0.1")
# as the crop asks for, and queries at all maxima in tests, too
_FEW = ("model.density.train_queries=0", "model.selection.num_contents=100", "model.density.peak_threshold=0.0")
_FEW_TOKENS = "model.encoder.sparsity.threshold=0.01"
# ScaleBridge-Det on small tiles, 450 iterations.
TABLES["scalebridge_aerial"] = (
    Row("dino_lite0", "DINO", "dino_lite0"),
    Row(
        "dino_lite0_logits",
        "DINO, boxes move in logits of the image",
        "dino_lite0",
        (f"{_UNIT}=null", f"{_UNIT_2}=null"),
    ),
    Row("dino_lite0_dgq", "DINO, DGQ", "dino_lite0_dgq"),
    Row("dino_lite0_dgq_few", "DINO, DGQ, queries as the crop asks for", "dino_lite0_dgq", _FEW),
    Row("dino_lite0_dgq_heavy", "the same, losses of the density × 10", "dino_lite0_dgq", (*_HEAVY, *_FEW)),
    Row("dino_lite0_dgq_classes", "DINO, DGQ, number by classes as in DQ-DETR", "dino_lite0_dgq_classes"),
    Row("dino_lite0_dgq_nopeaks", "DINO, DGQ, no query at a peak", "dino_lite0_dgq", ("model.density.peak_share=0.0",)),
    Row("dino_lite0_sparse", "DINO, sparse encoder", "dino_lite0_sparse"),
    Row(
        "dino_lite0_sparse_blocks",
        "the same, finest level in the last layer alone",
        "dino_lite0_sparse",
        ("model.encoder.sparsity.finest_every=2",),
    ),
    Row("dino_lite0_dgq_sparse", "DINO, DGQ, sparse encoder", "dino_lite0_dgq_sparse"),
    Row("dino_lite0_rem", "DINO, REM", "dino_lite0_rem"),
    Row("dino_lite0_rem_top1", "DINO, REM, best expert alone", "dino_lite0_rem", ("model.routing.topk=1",)),
    Row("scalebridge_lite0", "ScaleBridge-Det (DGQ, REM)", "scalebridge_lite0"),
    Row("scalebridge_lite0_sparse", "ScaleBridge-Det, sparse encoder", "scalebridge_lite0_sparse"),
    *(
        Row(
            f"more{name}",
            f"DINO, then half as long {title}",
            config,
            ("train.max_iter=225", *changes),
            "dino_lite0",
            "more",
        )
        for name, title, config, *changes in (
            ("", "again", "dino_lite0"),
            ("_dgq", "with DGQ", "dino_lite0_dgq"),
            ("_rem", "with REM", "dino_lite0_rem"),
            ("_sparse", "with a sparse encoder", "dino_lite0_sparse"),
            ("_dgq_sparse", "with DGQ and a sparse encoder", "dino_lite0_dgq_sparse"),
            ("_sparse_few", "with a sparse encoder, threshold 0.01", "dino_lite0_sparse", _FEW_TOKENS),
        )
    ),
)
# The same on crops of as many px of HIT-UAV, whole images in the test: another set of images, seven times as many.
_HITUAV_CROPS = (
    "dataloader.train.dataset.names=hituav_train",
    "dataloader.test.dataset.names=hituav_val",
    f"model.num_classes={BENCHMARKS['hituav'].num_classes}",
)
TABLES["scalebridge_crops"] = tuple(
    replace(row, overrides=(*_HITUAV_CROPS, *row.overrides)) for row in TABLES["scalebridge_aerial"] if not row.start
)
# Three epochs of HIT-UAV: what the parts of ScaleBridge-Det and a sparse encoder do to DINO.
TABLES["scalebridge"] = tuple(
    Row(config, title, f"hituav/{config}", ("train.max_iter=762",))
    for config, title in (
        ("dino_lite0", "DINO"),
        ("dino_lite0_dgq", "DINO, DGQ"),
        ("dino_lite0_dgq_classes", "DINO, DGQ, number by classes as in DQ-DETR"),
        ("dino_lite0_sparse", "DINO, sparse encoder"),
        ("dino_lite0_dgq_sparse", "DINO, DGQ, sparse encoder"),
        ("dino_lite0_rem", "DINO, REM"),
        ("dino_lite0_rem_scale", "DINO, REM, gate taught where tiny objects are"),
        ("scalebridge_lite0", "ScaleBridge-Det (DGQ, REM)"),
        ("scalebridge_lite0_sparse", "ScaleBridge-Det, sparse encoder"),
    )
)
_DRAWN = "dataloader.train.dataset.names=synthetic_train"
# Small tiles from ImageNet weights: assigners, necks, relays (SARL: training sees crops, the test whole tiles), losses
# and where they act, drawn scenes before real tiles (beside as many iterations of real tiles), and the best detector.
_RFLA, _EFPNBS = "faster_rcnn_lite0_fpn_rfla", "faster_rcnn_lite0_efpnbs_rfla"
_lite0_loss = partial(_loss, body="lite0")
TABLES["aerial"] = (
    Row("maxiou", "MaxIoU, anchors 32-512 px (8 × stride)", "faster_rcnn_lite0_fpn_maxiou"),
    Row("maxiou_a8", "MaxIoU, anchors 8-128 px", "faster_rcnn_lite0_fpn_maxiou_a8"),
    _assigner("rka", "NWD-RKA (k = 2)", "RKAAssigner", "topk=2", body="lite0"),
    Row("rfla", "RFLA", _RFLA),
    Row("rfla_longer", "RFLA, 1,500 iterations", _RFLA, ("train.max_iter=1500",)),
    Row("drawn", "RFLA, 500 of drawn scenes alone", _RFLA, (_DRAWN, "train.max_iter=500")),
    Row("drawn_real", "RFLA, 500 of drawn scenes, then 1,000", _RFLA, (), "drawn", base="rfla_longer"),
    Row("cem", "RFLA + CEM", _EFPNBS, (f"{_NECK}.fbsm=false",)),
    Row("fbsm", "RFLA + FBSM", _EFPNBS, (f"{_NECK}.cem=false",)),
    Row("efpnbs", "RFLA + E-FPN-BS", _EFPNBS),
    Row("efpnbs_taught", "RFLA + E-FPN-BS, residual, taught masks (ours)", "faster_rcnn_lite0_efpnbs_taught_rfla"),
    Row(
        "fbsm_taught",
        "RFLA + FBSM, residual, taught masks, without CEM (ours)",
        "faster_rcnn_lite0_efpnbs_taught_rfla",
        (f"{_NECK}.cem=false",),
    ),
    Row("efpnbs_light", "RFLA + light E-FPN-BS (ours)", _EFPNBS, (f"{_NECK}.light=true",)),
    Row("efpnbs_dcloss", "RFLA + E-FPN-BS + DCLoss", "faster_rcnn_lite0_efpnbs_rfla_dcloss"),
    Row("sarl", "RFLA + SARL", "faster_rcnn_lite0_sarl_rfla"),
    Row("sarl_nomax", "RFLA + SARL without the maximum over the image (ours)", "faster_rcnn_lite0_sarl_nomax_rfla"),
    _lite0_loss("dcloss", "RFLA + DCLoss (prose)", "DCLoss", "mode=prose"),
    _lite0_loss("dcloss_rpn", "RFLA + DCLoss (prose; RPN alone)", "DCLoss", "mode=prose", places=(RPN_LOSS,)),
    _lite0_loss("dcloss_roi", "RFLA + DCLoss (prose; box head alone)", "DCLoss", "mode=prose", places=(ROI_LOSS,)),
    _lite0_loss(
        "dcloss_roi_shares",
        "RFLA + DCLoss (prose; box head alone, δ in shares of proposals)",
        "DCLoss",
        "mode=prose",
        "unit=10.0",
        places=(ROI_LOSS,),
    ),
    _lite0_loss("dcloss_formula", "RFLA + DCLoss (formula)", "DCLoss", "mode=formula"),
    # What DCLoss takes from the gradient there on average, by a smaller weight (results/aerial/box_errors.json); then
    # that is given back, and as much more given to L1.
    Row("rpn_light", "RFLA, box loss of the RPN × 0.6", _RFLA, (f"{RPN_LOSS}.loss_weight=0.6",)),
    Row("rpn_heavy", "RFLA, box loss of the RPN × 1.6", _RFLA, (f"{RPN_LOSS}.loss_weight=1.6",)),
    _lite0_loss(
        "dcloss_rpn_heavy",
        "RFLA + DCLoss (prose; RPN alone, × 1.6)",
        "DCLoss",
        "mode=prose",
        "loss_weight=1.6",
        places=(RPN_LOSS,),
    ),
    _lite0_loss("sal", "RFLA + SAL (1 − IoU²)", "SALoss", "base=iou2", BOX_WEIGHT),
    _lite0_loss("iou2", "RFLA + 1 − IoU² (SAL without its weights)", "IoULoss", "kind=iou2", BOX_WEIGHT),
    # Trained again with later code, on another kind of processor: what of a difference stays.
    Row("rfla_again", "RFLA, again", _RFLA),
    Row("efpnbs_again", "RFLA + E-FPN-BS, again", _EFPNBS, base="rfla_again"),
    _lite0_loss("nwd", "RFLA + NWD loss", "NWDLoss", BOX_WEIGHT),
    _lite0_loss(
        "nwd_rpn", "RFLA + NWD loss in the RPN alone, as published", "NWDLoss", "loss_weight=10.0", places=(RPN_LOSS,)
    ),
    Row("cascade", "Cascade R-CNN, RFLA", "cascade_rcnn_lite0_fpn_rfla"),
    Row("cascade_l1", "Cascade R-CNN, RFLA, L1", "cascade_rcnn_lite0_fpn_rfla_l1"),
    Row(
        "cascade_efpnbs_dcloss",
        "Cascade R-CNN, RFLA + E-FPN-BS + DCLoss",
        "cascade_rcnn_lite0_efpnbs_rfla_dcloss",
        base="cascade_l1",
    ),
    Row("cascade_x2", "Cascade R-CNN, RFLA, images enlarged × 2", "cascade_rcnn_lite0_fpn_rfla_x2"),
    Row(
        "cascade_sarl_x2",
        "Cascade R-CNN, RFLA + SARL, images enlarged × 2",
        "cascade_rcnn_lite0_sarl_rfla_x2",
        base="cascade_x2",
    ),
    Row(
        "cascade_efpnbs_taught_x2",
        "Cascade R-CNN, RFLA + E-FPN-BS, taught masks, images enlarged × 2 (ours)",
        "cascade_rcnn_lite0_efpnbs_taught_rfla_x2",
        base="cascade_x2",
    ),
)
# The same on small tiles.
TABLES["aerial_dense"] = tuple(
    Row(name, title, name, base=_ONE_STAGE_BASES[name]) for family in _ONE_STAGE for name, title in family
)
# The row of a table that the others are compared with.
BASES = {
    "quick": "faster_rcnn_r18_fpn_rfla",
    "ablation": "hla_kld",
    "rcnn": "faster_rcnn_r18_fpn_rfla",
    "onestage": "yolo11_n",
    "transformers": "dino_r18",
    "aerial": "rfla",
    "hituav": "faster_rcnn_lite0_fpn_rfla",
    "scalebridge": "dino_lite0",
    "scalebridge_aerial": "dino_lite0",
    "scalebridge_crops": "dino_lite0",
    "necks": "fpn",
    "pfdh": "yolo11_n",
}
# Classes with enough objects in the test for an AP: of the other one of HIT-UAV there are 12, and its AP, a quarter of
# the mean, differs by 4 between seeds.
_HITUAV_COMMON = ("person", "car", "bicycle")
COMMON_CLASSES = {
    "hituav": _HITUAV_COMMON,
    "scalebridge": _HITUAV_COMMON,
    "scalebridge_crops": _HITUAV_COMMON,
}
WORK = "output/quick_table"
METRICS = ("AP", "AP50", "AP75", "APvt", "APt", "APs", "APm")
TRAINING_COST = "training_cost.json"  # of benchmarks/training_cost.py
ERRORS = ("oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN", "AR@1500")
KINDS = ("missed", "localisation", "class", "both", "duplicate", "background")  # of benchmarks/error_kinds.py
_PRECISIONS = ("float32", "bfloat16")
_TWINS = ("", *(f"_{precision}" for precision in _PRECISIONS))  # what a file's name may have after that of its row


def train(row: Row, seed: int, work: Path, results: Path, overrides: list[str]) -> str:
    """Run one training unless its result exists; return a line for the terminal."""
    target = results / f"{row.name}_seed{seed}.json"
    if target.exists():
        return f"{target.name}: done before"
    output = work / f"{row.name}_seed{seed}"
    output.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "tools/train_net.py", "--config-file", row.config_name, "--resume"]
    # Overrides of the row come last, because they take precedence over those of the table.
    changes = [f"train.seed={seed}", *overrides, *row.overrides]
    if row.start:
        weights = work / f"{row.start}_seed{seed}" / "model_final.pth"
        if not weights.exists():
            return f"{target.name}: FAILED, it starts from {row.start} with seed {seed}, which is not trained here"
        changes.append(f"train.init_checkpoint='{weights}'")
    command += [f"train.output_dir='{output}'", *changes]
    with (output / "terminal.txt").open("a") as log:
        code = subprocess.run(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        ).returncode
    if code:
        return f"{target.name}: FAILED, see {output}/terminal.txt"
    record = json.loads((output / "result.json").read_text())
    # The record has the command as a reader would type it, without the folders of this machine.
    record["overrides"] = [change for change in changes if "init_checkpoint" not in change]
    if row.start:
        start = f"{WORK}/{results.name}/{row.start}_seed{seed}/model_final.pth"
        record["overrides"].append(f"train.init_checkpoint={start}")
    record["command"] = f"python tools/train_net.py --config-file {row.config_name} " + " ".join(record["overrides"])
    target.write_text(json.dumps(record, indent=1) + "\n")
    return f"{target.name}: AP {record['metrics']['AP']}"


class Run(NamedTuple):
    """Seed and precision of a training; two that differ in precision alone are two runs."""

    seed: int
    precision: str


Records = Mapping[str, Mapping[Run, Mapping[str, Any]]]


def load_records(
    rows: Sequence[str], results: Path, classes: Sequence[str] = ()
) -> dict[str, dict[Run, dict[str, Any]]]:
    """Return the record of each training of these rows, by name and run, with the mean AP of some classes if any.

    ``NAME_float32_seed0.json`` is a training of the row NAME, too, beside one with the same seed in bfloat16. With
    ``superseded`` it is no run of the row by now, and only what others are compared with (``only_base``).
    """
    records: dict[str, dict[Run, dict[str, Any]]] = {}
    for row in rows:
        for twin in _TWINS:
            for file in sorted(results.glob(f"{row}{twin}_seed*.json")):
                record = json.loads(file.read_text())
                if classes:
                    own = [record["metrics"][f"AP-{name}"] for name in classes]
                    record["metrics"][_of_classes(classes)] = statistics.mean(own)
                record |= {"file": file.stem, "only_base": bool(twin and record.get("superseded"))}
                records.setdefault(row, {})[Run(record["seed"], _precision(record))] = record
    return records


def _of_classes(classes: Sequence[str]) -> str:
    """Return the name of the mean AP of some classes."""
    return f"AP, {len(classes)} classes"


def _runs(records: Mapping[Run, Mapping[str, Any]]) -> dict[Run, Mapping[str, Any]]:
    """Return the trainings of a row that count as its runs."""
    return {run: record for run, record in records.items() if not record.get("only_base")}


class Difference(NamedTuple):
    """How a row differs from its base.

    Attributes:
        mean: over the runs that both have.
        half_width: of the 95 % confidence interval; NaN without degrees of freedom.
        runs: number of these runs.
        freedom: degrees of freedom of the variance.
    """

    mean: float
    half_width: float
    runs: int
    freedom: int

    def __str__(self) -> str:
        # With one or two degrees of freedom an interval is 4 to 13 standard errors wide, and calls anything equal.
        if self.freedom < 3:
            return f"{self.mean:+.1f} ({'one seed' if self.runs == 1 else f'{self.runs} seeds'})"
        text = f"{self.mean:+.1f} ± {self.half_width:.1f}"
        return text if abs(self.mean) > self.half_width else f"{text}: no difference"


def differences_to_bases(records: Records, bases: Mapping[str, str], metric: str = "AP") -> dict[str, list[float]]:
    """Return how much more each training has than that of its base row with the same seed, in its precision if any.

    Args:
        records: by row and run.
        metric: of which; AP by default.
        bases: name of the row that a row is compared with, by row; one that is its own base is left out, as are rows
            without a seed in common with their base.
    """
    differences: dict[str, list[float]] = {}
    for row, record, other in _pairs(records, bases):
        differences.setdefault(row, []).append(record["metrics"][metric] - other["metrics"][metric])
    return differences


def precisions_of_bases(records: Records, bases: Mapping[str, str]) -> dict[str, str]:
    """Return the precision of the base's trainings for rows that have none of their own to be compared with."""
    return {
        row: _precision(other)
        for row, record, other in _pairs(records, bases)
        if _precision(record) != _precision(other)
    }


def _pairs(records: Records, bases: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield each row with a training and the one of its base that it is compared with."""
    for row, base in bases.items():
        others = records.get(base, {})
        for run, record in sorted(_runs(records.get(row, {})).items()) if row != base else ():
            alike = (run, *(Run(run.seed, precision) for precision in _PRECISIONS))
            if other := next((others[key] for key in alike if key in others), None):
                yield row, record, other


def paired_differences(differences: Mapping[str, Sequence[float]]) -> dict[str, Difference]:
    """Return the mean of the differences of each row, with an interval.

    Their variance is estimated from all rows together, as in an analysis of variance, because two seeds of one row say
    next to nothing about it.
    """
    freedom = sum(len(d) - 1 for d in differences.values())
    squares = sum((x - statistics.mean(d)) ** 2 for d in differences.values() for x in d)
    deviation = math.sqrt(squares / freedom) if freedom else math.nan
    quantile = float(stats.t.ppf(0.975, freedom)) if freedom else math.nan
    return {
        row: Difference(statistics.mean(d), quantile * deviation / math.sqrt(len(d)), len(d), freedom)
        for row, d in differences.items()
    }


def table(rows: Sequence[Row], results: Path, base: str = "", classes: Sequence[str] = ()) -> str:
    """Return a table in Markdown: mean and, of several seeds, half range for each row, and differences to base rows.

    With ``classes`` there are two columns more: their mean AP, and the differences in it.
    """
    records = load_records([row.name for row in rows], results, classes)
    common = [_of_classes(classes)] if classes else []
    bases = {row.name: row.base or base for row in rows if row.base or base}
    compared = paired_differences(differences_to_bases(records, bases))
    other_precision = precisions_of_bases(records, bases)
    titles = {row.name: row.title for row in rows}
    of_classes = {name: paired_differences(differences_to_bases(records, bases, name)) for name in common}
    to_base = [f"ΔAP to {titles[base]}" if base else "ΔAP", *(f"Δ{name}" for name in common)]
    heads = ["config", "runs", *METRICS, *common, *(to_base if compared else [])]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    usual = next((_precision(record) for name in (base, *records) for record in records.get(name, {}).values()), "")
    for row in rows:
        if row.name not in records:
            lines.append(f"| {row.title} | 0 |" + " not run |" * (len(heads) - 2))
            continue
        runs = list(_runs(records[row.name]).values())
        cells = [_mean_and_half_range([run["metrics"][metric] for run in runs]) for metric in (*METRICS, *common)]
        if compared:
            of = bases.get(row.name, base)
            notes = [f"to {titles[of]}"] * (of != base)
            if row.name in other_precision:
                notes.append(f"in {other_precision[row.name]}")
            to = f" ({' '.join(notes)})" if notes else ""
            cells.append(f"{compared[row.name]}{to}" if row.name in compared else "")
            cells += [str(found[row.name]) if row.name in found else "" for found in of_classes.values()]
        lines.append(f"| {row.title} | {_number_of_runs(runs, usual)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def details(rows: Sequence[Row], results: Path, base: str = "") -> str:
    """Return a table in Markdown of what the first leaves out: errors, recall and cost of each row.

    Kinds of errors are those of ``error_kinds.json`` beside the records, for rows whose detections were kept; cost is
    that of the zoo, "-" where overrides of a row change its layers. The cost of a training step is that of
    ``training_cost.json``: its time an image as a multiple of that of the base row, and its memory.
    """
    records = load_records([row.name for row in rows], results)
    kinds = kept_entries(results / "error_kinds.json", "models")
    cost = json.loads((RESULTS / "zoo" / "cost.json").read_text())
    training = kept_entries(results / TRAINING_COST, "rows")
    heads = ["config", "runs", *ERRORS, *(f"ΔAP50 {kind}" for kind in KINDS if kinds), "parameters (M)", "GMAC"]
    heads += ["training step, ×", "MB in training"] if training else []
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        if row.name not in records:
            lines.append(f"| {row.title} | 0 |" + " not run |" * (len(heads) - 2))
            continue
        runs = _runs(records[row.name])
        metrics = [run["metrics"] for run in runs.values()]
        cells = [str(len(metrics))]
        cells += [_mean_and_half_range([run.get(metric) for run in metrics]) for metric in ERRORS]
        cells += _kinds(row.name, runs, kinds) if kinds else []
        cells += _cost(row, cost)
        cells += _training_cost(training.get(row.name), training.get(base)) if training else []
        lines.append(f"| {row.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _kinds(row: str, runs: Mapping[Run, Mapping[str, Any]], kinds: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return what each kind of error costs, of the runs whose detections were kept, or else of twins in float32."""
    kept = [kinds[record["file"]] for record in runs.values() if record["file"] in kinds]
    note = f" ({len(kept)} of {len(runs)})" if 0 < len(kept) < len(runs) else ""
    if not kept:
        kept = [kinds[name] for run in runs if (name := f"{row}_float32_seed{run.seed}") in kinds]
        note = " (float32)" if kept else ""
    return [_mean_and_half_range([run[kind] for run in kept]) + note for kind in KINDS]


def _cost(row: Row, cost: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return parameters and multiply-adds of a row's config, or of the same detector for HIT-UAV."""
    known = cost.get(row.config_name) or cost.get(f"hituav/{row.config}")
    if known is None or any(change.startswith(("model.backbone", "model.encoder")) for change in row.overrides):
        return ["-", "-"]
    return [f"{known['params_m']:.1f}", f"{known['gmac']:.1f}"]


def _training_cost(row: Mapping[str, float] | None, base: Mapping[str, float] | None) -> list[str]:
    """Return time an image of a training step, as a multiple of the base's, and its memory."""
    if row is None or base is None:
        return ["-", "-"]
    return [f"{row['seconds_per_image'] / base['seconds_per_image']:.2f}", f"{row['mb']:.0f}"]


def with_block(page: str, name: str, text: str) -> str:
    """Return a page with the rows of a table that were run between ``<!-- NAME -->`` and ``<!-- /NAME -->``."""
    rows = "\n".join(line for line in text.splitlines() if "| not run |" not in line)
    return re.sub(
        f"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)",
        lambda match: f"{match[1]}{rows}{match[2]}",
        page,
        flags=re.DOTALL,
    )


def _precision(record: Mapping[str, Any]) -> str:
    return _PRECISIONS["train.amp.enabled=true" in record["overrides"]]


def _number_of_runs(runs: Sequence[Mapping[str, Any]], usual: str) -> str:
    """Return how many runs there are, and of how many the precision is not that of the row they are compared with."""
    others = [precision for run in runs if (precision := _precision(run)) != usual]
    if not others:
        return str(len(runs))
    return f"{len(runs)} ({'' if len(others) == len(runs) else f'{len(others)} in '}{others[0]})"


def _mean_and_half_range(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):.1f}"
    return mean if len(known) == 1 else f"{mean} ± {(max(known) - min(known)) / 2:.1f}"  # one run has no spread


def _warn_of_slow_bf16() -> None:
    """Say on the terminal what the log of each training says, too: that this machine has no bfloat16."""
    from d2tiny.utils.env import advise_on_bf16, resolve_device  # imports torch, which tables do not need

    if advice := advise_on_bf16(resolve_device()):
        print(f"train.amp.enabled=true: {advice}", file=sys.stderr)


def main() -> None:
    """Train the rows of a table, print the table and write it."""
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--table", choices=tuple(TABLES), default="quick")
    parser.add_argument("--rows", nargs="+", help="names of rows; default: all")
    parser.add_argument("--jobs", type=int, default=2, help="number of parallel trainings")
    parser.add_argument("--work", type=Path, help=f"folder of the trainings; default: {WORK}/TABLE")
    parser.add_argument("--results", type=Path, help="default: results/TABLE")
    parser.add_argument("--table-only", action="store_true", help="train nothing")
    args, overrides = parse_with_overrides(parser)
    names = [row.name for row in TABLES[args.table]]
    if unknown := sorted(set(args.rows or ()) - set(names)):
        parser.error(f"--rows: {unknown} not in {names}")
    rows = [row for row in TABLES[args.table] if not args.rows or row.name in args.rows]
    args.results = args.results or RESULTS / args.table
    args.work = args.work or ROOT / WORK / args.table  # rows of two tables may have one name
    args.results.mkdir(parents=True, exist_ok=True)
    failed = False
    if not args.table_only:
        if "train.amp.enabled=true" in overrides:
            _warn_of_slow_bf16()
        with ThreadPoolExecutor(args.jobs) as pool:
            jobs = [
                pool.submit(train, row, seed, args.work, args.results, overrides) for seed in args.seeds for row in rows
            ]
            for job in jobs:
                failed |= "FAILED" in job.result()
                print(job.result(), flush=True)
    text = table(TABLES[args.table], args.results, BASES.get(args.table, ""), COMMON_CLASSES.get(args.table, ()))
    write_text(args.results / "table.md", text + "\n")
    write_text(args.results / "details.md", details(TABLES[args.table], args.results, BASES.get(args.table, "")) + "\n")
    if args.results.resolve() == (RESULTS / args.table).resolve():
        pages = {page: page.read_text() for page in RESULTS.glob("*.md")}
        showing = {page: old for page, old in pages.items() if f"<!-- {args.table} -->" in old}
        for page, old in showing.items():
            write_text(page, with_block(old, args.table, text))
        if not showing:
            print(f"No page of {RESULTS.name}/ shows this table between <!-- {args.table} --> and its end.")
    print(text)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
