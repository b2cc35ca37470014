"""What an exported model says of itself; it is in the model's file, under :data:`KEY`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from d2tiny.runtime.resize import Resize
from d2tiny.utils.errors import ConfigError

__all__ = ["DIGEST_KEY", "FORMAT_VERSION", "KEY", "RT_INFO_PATH", "ModelMetadata"]

FORMAT_VERSION = 1
KEY = "d2tiny"  # in ``metadata_props`` of an ONNX file
DIGEST_KEY = "d2tiny_sha256"  # likewise, of all that comes before it in the file; optional
RT_INFO_PATH = ("d2tiny", "metadata")  # in ``rt_info`` of an OpenVINO model


@dataclass(frozen=True)
class ModelMetadata:
    """What has to be known to use an exported model, and where it comes from.

    Attributes:
        config: name of the config in the zoo, or its file.
        family: of detectors, such as ``faster_rcnn``.
        classes: K class names.
        channels: order that the graph's input expects, ``RGB`` or ``BGR``.
        protocol: of evaluation, such as ``aitod``.
        tile: side in px of the tiles that scenes are best cut into, a multiple of 32.
        max_size: largest side in px of an image, after ``resize``, that the graph takes; None for any.
        resize: what is done to images before the graph, see :meth:`Resize.from_dict`; None for nothing.
        batch: whether the graph takes N images of one size at once.
        nms_thresh: IoU above which the detector removes the worse of two objects; 1 for detectors that do not.
        score_thresh: detections have a score above it, in [0, 1].
        max_detections: most detections of an image.
        precision: ``fp32``, ``bf16`` (computed so by OpenVINO) or ``int8`` (quantised).
        weights_sha256: of the file of weights, in hexadecimal digits.
        d2tiny_version: that exported.
        title: one line for people.
        format_version: of this list.
    """

    config: str
    family: str
    classes: tuple[str, ...]
    channels: str
    protocol: str
    tile: int
    max_size: int | None
    resize: dict[str, Any] | None
    batch: bool
    nms_thresh: float
    score_thresh: float
    max_detections: int
    precision: str
    weights_sha256: str
    d2tiny_version: str
    title: str
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        """Check types and ranges.

        Raises:
            ConfigError: a value that is none; names the key.
        """
        for name, (allowed, fits) in _RULES.items():
            value = getattr(self, name)
            if not fits(value):
                raise ConfigError(f"metadata: {name}={value!r:.80} must be {allowed}.")
        Resize.from_dict(self.resize)
        object.__setattr__(self, "classes", tuple(self.classes))

    def to_json(self) -> str:
        """Return it as json."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelMetadata:
        """Read what :meth:`to_json` wrote.

        Raises:
            ConfigError: no json object, another format version, missing or unknown keys, or a value outside its range.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as err:
            raise ConfigError(f"metadata: no json ({err}).") from err
        if not isinstance(data, dict):
            raise ConfigError(f"metadata: must be a json object, got {text!r:.80}.")
        version = data.get("format_version")
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise ConfigError(
                f"metadata: format_version={version!r}, but this d2tiny reads {FORMAT_VERSION}. Export the model "
                "again, or install the version of d2tiny that wrote it."
            )
        known = {field.name for field in fields(cls)}
        for names, what in ((known - data.keys(), "missing"), (data.keys() - known, "unknown")):
            if names:
                raise ConfigError(f"metadata: {what} {', '.join(sorted(names))}. Export the model again.")
        return cls(**data)


def _whole(low: int) -> Any:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(name, str) for name in value)


# What each value may be, in words and as a test.
_RULES: dict[str, tuple[str, Any]] = {
    **{
        name: ("a text", lambda value: isinstance(value, str))
        for name in ("config", "family", "protocol", "weights_sha256", "d2tiny_version", "title")
    },
    "classes": ("a list of one or more names", _texts),
    "channels": ("RGB or BGR", lambda value: value in ("RGB", "BGR")),
    "precision": ("fp32, bf16 or int8", lambda value: value in ("fp32", "bf16", "int8")),
    "tile": ("a multiple of 32 px, at least 64", lambda value: _whole(64)(value) and value % 32 == 0),
    "max_size": ("null or a whole number of px from 1", lambda value: value is None or _whole(1)(value)),
    "resize": ("null or an object", lambda value: value is None or isinstance(value, dict)),
    "batch": ("true or false", lambda value: isinstance(value, bool)),
    "nms_thresh": ("in [0, 1]", _share),
    "score_thresh": ("in [0, 1]", _share),
    "max_detections": ("a whole number from 1", _whole(1)),
}
