"""Export of a trained detector to one file, verified before it is kept."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from d2tiny.data.loading.images import read_image
from d2tiny.export.accuracy import AnnotatedImages
from d2tiny.export.comparison import Verification, drawn_images, image_files, verify
from d2tiny.export.recipe import Recipe, recipe_of
from d2tiny.inference.detector import ExportedDetector
from d2tiny.inference.torch_detector import TorchDetector
from d2tiny.runtime.detections import ArrayDetections
from d2tiny.utils.env import require_extra
from d2tiny.utils.errors import CheckpointError, ConfigError

__all__ = ["ExportResult", "ExportSettings", "export_model", "write_model"]

FORMATS = {"onnx": "model.onnx", "openvino": "model.xml", "torchscript": "model.ts"}
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
_CALIBRATION_IMAGES = 100

Finder = Callable[[np.ndarray], ArrayDetections]


@dataclass(frozen=True)
class ExportSettings:
    """What is written, and how it is checked.

    Attributes:
        format: ``onnx``, ``openvino`` or ``torchscript``.
        precision: ``fp32``; ``bf16`` (OpenVINO computes in bfloat16) or ``int8`` (quantised; not TorchScript).
        channels: order of the channels of the input, ``RGB`` or ``BGR``; None takes the model's.
        tile: side in px of the tiles that scenes are cut into.
        verify: folder of images that both forms are run on; None draws scenes.
        annotations: COCO json of the images in ``verify``, to measure the AP of both.
        calibration: folder of images that int8 is fitted to.
        max_drop: largest loss of AP of bf16 and int8, in points.
    """

    format: str = "onnx"
    precision: str = "fp32"
    channels: str | None = None
    tile: int = 800
    verify: Path | None = None
    annotations: Path | None = None
    calibration: Path | None = None
    max_drop: float = 0.5

    def __post_init__(self) -> None:
        """Refuse settings that do not go together.

        Raises:
            ConfigError: they do not.
        """
        if self.format not in FORMATS:
            raise ConfigError(f"--format {self.format}: must be one of {', '.join(FORMATS)}.")
        if self.precision not in ("fp32", "bf16", "int8"):
            raise ConfigError(f"--precision {self.precision}: must be fp32, bf16 or int8.")
        if self.precision == "bf16" and self.format != "openvino":
            raise ConfigError(f"--precision bf16: computed by OpenVINO only; --format openvino, not {self.format}.")
        if self.precision == "int8" and self.format == "torchscript":
            raise ConfigError("--precision int8: --format onnx or openvino, not torchscript.")
        if (self.precision == "int8") != (self.calibration is not None):
            raise ConfigError("--precision int8 and --calibration DIR (some 100 usual images) go together.")
        if self.annotations is not None and self.verify is None:
            raise ConfigError(f"--annotations {self.annotations}: name the folder of its images with --verify.")
        if self.max_drop < 0:
            raise ConfigError(f"--max-drop {self.max_drop}: must be at least 0 points of AP.")


@dataclass(frozen=True)
class ExportResult:
    """An export that was kept.

    Attributes:
        path: the model.
        bytes: of all its files.
        verification: of the exported form against the model.
        ap: AP in percent of the model and of the exported form; None without annotations.
    """

    path: Path
    bytes: int
    verification: Verification
    ap: tuple[float, float] | None


def export_model(
    cfg: CfgNode,
    name: str,
    output: Path,
    settings: ExportSettings | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> ExportResult:
    """Export a detector, run both forms on images, and keep the file only if they agree.

    Args:
        cfg: of ``d2tiny.model_zoo.get_cfg``, with weights; computed on the processor.
        name: of the config.
        output: folder that gets the model; it must not exist, or be empty.
        settings: what is written.
        tell: gets a line of text about each step.

    Raises:
        ConfigError: a setting, an output that is in use, no weights, a part that no graph can hold, or a loss of AP
            over ``max_drop``.
        CheckpointError: weights that do not fit, or an exported model that finds other objects than the model.
        MissingPackageError: the extra ``export`` is not installed.
    """
    settings = settings or ExportSettings()
    for package in _PACKAGES.get(settings.format, ()) + (("nncf",) if settings.precision == "int8" else ()):
        require_extra(package, "export")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"--output {output}: there are files already; name a new or an empty folder.")
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError(f"{name}: no weights are published for this config; name yours with --weights.")
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    detector = TorchDetector(cfg)
    recipe = recipe_of(detector, name, channels=settings.channels, tile=settings.tile)
    images = _images(settings)
    annotated = _annotated(settings, recipe)
    with _new_folder(output) as folder:
        tell(f"writing {FORMATS[settings.format]}")
        path = write_model(recipe, detector, folder, settings, tell)
        tell(f"comparing on {len(images)} images")
        find = _finder(path, settings)
        result = verify(lambda image: _found(detector, image), find, images, settings.precision)
        if settings.precision == "fp32" and not result.exact:
            raise CheckpointError(f"{name}: the exported model finds other objects: {result}. Nothing was written.")
        ap = None
        if annotated is not None:
            tell("measuring AP")
            ap = (
                annotated.average_precision(lambda image: _found(detector, image)),
                annotated.average_precision(find),
            )
            if ap[0] - ap[1] > settings.max_drop:
                raise ConfigError(
                    f"{name}: {settings.precision} has AP {ap[1]:.2f}, the model {ap[0]:.2f}; that is over --max-drop "
                    f"{settings.max_drop:g}. Nothing was written."
                )
        size = sum(file.stat().st_size for file in folder.iterdir())
    return ExportResult(output / path.name, size, result, ap)


def _images(settings: ExportSettings) -> list[np.ndarray]:
    """Return the images of the comparison, BGR."""
    if settings.verify is None:
        return drawn_images()
    return [read_image(file, "BGR") for file in image_files(settings.verify, 8)]


def _annotated(settings: ExportSettings, recipe: Recipe) -> AnnotatedImages | None:
    if settings.annotations is None or settings.verify is None:
        return None
    about = recipe.metadata
    return AnnotatedImages(settings.annotations, settings.verify, about.classes, about.protocol)


def write_model(
    recipe: Recipe, detector: TorchDetector, folder: Path, settings: ExportSettings, tell: Callable[[str], None]
) -> Path:
    """Write a model into a folder, without a check, and return its file; arguments as of :func:`export_model`."""
    recipe = replace(recipe, metadata=replace(recipe.metadata, precision=settings.precision))
    path = folder / FORMATS[settings.format]
    if settings.format == "torchscript":
        from d2tiny.export.torchscript import trace_detector, write_torchscript

        write_torchscript(trace_detector(recipe), recipe.metadata, path)
        return path
    from d2tiny.export.onnx_model import build_onnx, write_onnx

    model: Any = build_onnx(recipe)
    quantized = settings.precision == "int8"
    if settings.format == "onnx":
        write_onnx(_quantized(model, recipe, detector, settings, tell) if quantized else model, path)
        return path
    from d2tiny.export.openvino_model import convert_to_openvino, write_openvino

    between = folder / "between.onnx"
    write_onnx(model, between)
    model = convert_to_openvino(between)
    write_openvino(_quantized(model, recipe, detector, settings, tell) if quantized else model, recipe.metadata, path)
    between.unlink()
    return path


def _quantized(
    model: Any, recipe: Recipe, detector: TorchDetector, settings: ExportSettings, tell: Callable[[str], None]
) -> Any:
    from d2tiny.export.quantize import quantize
    from d2tiny.runtime.resize import Resize, resized

    assert settings.calibration is not None
    files = image_files(settings.calibration, _CALIBRATION_IMAGES)
    tell(f"quantising with {len(files)} images")
    resize = Resize.from_dict(recipe.metadata.resize)

    def prepared(file: Path) -> np.ndarray:
        image = read_image(file, recipe.metadata.channels)
        return image if resize is None else resized(image, resize.size(*image.shape[:2]))

    return quantize(model, (np.ascontiguousarray(prepared(file))[None] for file in files))


def _found(detector: Any, image: np.ndarray) -> ArrayDetections:
    return ArrayDetections.of(detector.detect([np.ascontiguousarray(image[:, :, ::-1])], None)[0])


def _finder(path: Path, settings: ExportSettings) -> Finder:
    """Return what runs an exported model on an image (H, W, 3) BGR."""
    if settings.format == "torchscript":
        from d2tiny.export.torchscript import TorchScriptDetector

        script = TorchScriptDetector(path)
        return lambda image: _found(script, image)
    backend = "onnxruntime" if settings.format == "onnx" else "openvino"
    exported = ExportedDetector(path, backend=backend)
    return lambda image: _found(exported, image)


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """Yield a hidden folder that becomes ``output`` when the block ends well, and is removed otherwise."""
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = output.with_name(f".{output.name[:200]}.{os.getpid()}.{secrets.token_hex(8)}")
    folder.mkdir()
    try:
        yield folder
        if output.exists():
            output.rmdir()
        folder.replace(output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
