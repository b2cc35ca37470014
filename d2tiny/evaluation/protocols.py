"""Evaluation protocols of the datasets, as data for the evaluation engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from d2tiny.utils.errors import ConfigError, did_you_mean

__all__ = ["INFINITE", "PROTOCOLS", "Integrator", "Protocol", "get_protocol", "make_protocol"]

INFINITE = 1e10

Integrator = Literal["coco101", "voc_area", "voc07", "lerp101"]
_INTEGRATORS = ("coco101", "voc_area", "voc07", "lerp101")


def _coco_ious() -> tuple[float, ...]:
    return tuple(np.linspace(0.5, 0.95, 10).tolist())


def _frozen(areas: Mapping[str, Sequence[float]]) -> Mapping[str, tuple[float, float]]:
    return MappingProxyType({str(label): (float(low), float(high)) for label, (low, high) in areas.items()})


@dataclass(frozen=True)
class Protocol:
    """Rules of an evaluation: which objects and detections count, how they match, and how AP is averaged.

    Attributes:
        name: name of the protocol.
        areas: area ranges in px², label → (low, high), closed at both ends; they give ``AP{label}`` and ``AR{label}``.
        max_dets: ascending limits on the detections of an image and class, best scores first; each gives
            ``AR@{limit}``.
        iou_thresholds: IoU thresholds over which AP is averaged.
        extra_ious: further IoU thresholds whose AP is reported but not averaged (0.25 gives ``AP25``).
        integrators: how a precision-recall curve becomes one number. The first gives AP, the others are reported as
            ``AP50_{integrator}``. ``coco101``: mean of the envelope at 101 recalls; ``voc_area``: area under the
            envelope; ``voc07``: mean of the envelope at 11 recalls; ``lerp101``: trapezoidal rule over 101 points of
            the linearly interpolated envelope, as YOLO repositories compute it.
        matching: ``coco``: a detection matches the best object that is not matched yet, ignored objects last; ``voc``:
            it matches the object of largest IoU only, and is a false positive if that is already matched.
        overlap_plus_one: count sides as ``x2 - x1 + 1`` (VOC's integer pixels).
        strict_overlap: a match needs IoU > threshold instead of ≥.
        base_area: area range in px² of AP and AR, closed at both ends; objects outside are ignored.
        ap_max_dets: whether AP uses the ``first`` or the ``last`` limit of ``max_dets``.
        olrp: report optimal LRP at the first IoU threshold, and the optimal score thresholds.
        class_mean: weights of the mean over classes; ``classes``: equal for all classes with objects; ``images``: the
            number of images with an object of the class.
        count_ignored: count ignored objects in the denominator of recall (VisDrone's toolkit).
        drop_in_ignored_regions: remove objects and detections that lie at least half inside the ignored regions of
            their image before matching, and do not use ignored boxes at all (VisDrone). Otherwise both are treated as
            crowds of every class.
        max_dets_per_image: ``max_dets`` limits the detections of an image over all classes, instead of by class.
    """

    name: str
    areas: Mapping[str, tuple[float, float]]
    max_dets: tuple[int, ...]
    iou_thresholds: tuple[float, ...] = field(default_factory=_coco_ious)
    extra_ious: tuple[float, ...] = ()
    integrators: tuple[Integrator, ...] = ("coco101",)
    matching: Literal["coco", "voc"] = "coco"
    overlap_plus_one: bool = False
    strict_overlap: bool = False
    base_area: tuple[float, float] = (0.0, INFINITE)
    ap_max_dets: Literal["first", "last"] = "last"
    olrp: bool = False
    class_mean: Literal["classes", "images"] = "classes"
    count_ignored: bool = False
    drop_in_ignored_regions: bool = False
    max_dets_per_image: bool = False

    def __post_init__(self) -> None:
        limits = self.max_dets
        if not limits or limits[0] < 1 or list(limits) != sorted(set(limits)):
            raise ConfigError(f"max_dets must be positive and rising, got {limits}.")
        for label, (low, high) in [*self.areas.items(), ("all", self.base_area)]:
            if label in self.areas and (not label.isidentifier() or label == "all"):
                raise ConfigError(f"Area bin '{label}': its name must be a word (letters first), and not 'all'.")
            if not 0 <= low < high:
                raise ConfigError(f"Area bin '{label}' must have 0 <= low < high in px², got {low}:{high}.")
        for value in (*self.iou_thresholds, *self.extra_ious):
            if not 0 < value <= 1:
                raise ConfigError(f"IoU thresholds lie in (0, 1], got {value}.")
        if list(self.iou_thresholds) != sorted(set(self.iou_thresholds)):
            raise ConfigError(f"iou_thresholds must be rising, got {self.iou_thresholds}.")
        if self.olrp and self.iou_thresholds and self.iou_thresholds[0] >= 1:
            raise ConfigError("oLRP needs a first IoU threshold below 1.")
        for name in self.integrators:
            if name not in _INTEGRATORS:
                raise ConfigError(f"Unknown integrator '{name}'. {did_you_mean(name, _INTEGRATORS)}")
        if not self.iou_thresholds or not self.integrators:
            raise ConfigError(f"Protocol '{self.name}' needs an IoU threshold and an integrator.")

    def with_max_dets(self, max_dets: Sequence[int]) -> Protocol:
        """Return a copy of the protocol with other ``max_dets``.

        Raises:
            ConfigError: the limits are not positive and ascending.
        """
        limits = tuple(int(k) for k in max_dets)
        return replace(self, max_dets=limits)

    def with_areas(self, areas: Mapping[str, Sequence[float]]) -> Protocol:
        """Return a copy of the protocol with other area ranges, label → (low, high) in px².

        Raises:
            ConfigError: a range is empty or negative.
        """
        return replace(self, areas=_frozen(areas))

    @property
    def ap_limit(self) -> int:
        """Return the limit of ``max_dets`` that AP uses."""
        return self.max_dets[0 if self.ap_max_dets == "first" else -1]

    def all_areas(self) -> np.ndarray:
        """Return the (A, 2) area ranges in px²: the base area, then ``areas``."""
        return np.array([self.base_area, *self.areas.values()], dtype=np.float64)


# As in aitodpycocotools 12.0.3, an object of exactly 64 px² counts as very tiny and as tiny.
_AITOD_AREAS = _frozen({"vt": (0, 8**2), "t": (8**2, 16**2), "s": (16**2, 32**2), "m": (32**2, INFINITE)})
_VOC: dict[str, Any] = {"areas": _frozen({}), "iou_thresholds": (0.5,), "matching": "voc"}

_ALL = (
    Protocol("aitod", _AITOD_AREAS, (1, 100, 1500), olrp=True),
    Protocol("coco", _frozen({"s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, INFINITE)}), (1, 10, 100)),
    # DOTA-v2 with horizontal boxes as papers on tiny objects report it: COCO json of tiles, AI-TOD's area ranges.
    Protocol("dota_hbb", _AITOD_AREAS, (300, 1000, 3000), olrp=True),
    # dota_evaluation_task2.py of the devkit: VOC matching, +1, IoU > 0.5, 11 points, on full images.
    Protocol("dota_task2", max_dets=(1_000_000,), overlap_plus_one=True, strict_overlap=True,
             integrators=("voc07", "voc_area"), **_VOC),
    # There is no official script and papers differ, so all integrators are reported.
    Protocol("dior", max_dets=(1_000_000,), integrators=("voc_area", "voc07", "coco101", "lerp101"), **_VOC),
    Protocol("visdrone", _frozen({}), (1, 10, 100, 500), integrators=("voc_area",), class_mean="images",
             count_ignored=True, drop_in_ignored_regions=True, max_dets_per_image=True),
    # The same matching and limits, but equal class weights, and ignored objects do not count for recall.
    Protocol("visdrone_unique", _frozen({}), (1, 10, 100, 500), integrators=("voc_area",), drop_in_ignored_regions=True,
             max_dets_per_image=True),
    # SODA / CFINet (sodadeval.py): AP is that of "Small", every AP counts 100 detections, objects over 2,000 px²
    # are ignored.
    Protocol("soda", _frozen({"eS": (0, 12**2), "rS": (12**2, 20**2), "gS": (20**2, 32**2), "Normal": (32**2, 2000)}),
             (100, 300, 1000), base_area=(0.0, 32.0**2), ap_max_dets="first"),
    Protocol("scalebridge", _frozen({"vt": (0, 8**2), "t": (8**2, 16**2), "s": (16**2, 32**2), "m": (32**2, 96**2),
                                     "l": (96**2, INFINITE)}), (1, 100, 1500), olrp=True),
)  # fmt: skip

PROTOCOLS: dict[str, Protocol] = {p.name: p for p in _ALL}


def get_protocol(protocol: str | Protocol) -> Protocol:
    """Return the protocol of a name; a :class:`Protocol` is returned unchanged.

    Raises:
        ConfigError: unknown name; the message lists the known ones.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise ConfigError(f"Unknown protocol '{protocol}'. {did_you_mean(protocol, PROTOCOLS)}")
    return PROTOCOLS[protocol]


def make_protocol(
    protocol: str | Protocol,
    *,
    max_dets: Sequence[int] | None = None,
    areas: Mapping[str, Sequence[float]] | None = None,
    extra_ious: Sequence[float] | None = None,
) -> Protocol:
    """Return a protocol with some attributes replaced.

    Args:
        protocol: name or :class:`Protocol`.
        max_dets: new limits; None keeps the protocol's.
        areas: new area ranges, label → (low, high) in px²; None keeps the protocol's.
        extra_ious: new IoU thresholds that are reported in addition; None keeps the protocol's.

    Raises:
        ConfigError: unknown name, or a value outside its range.
    """
    result = get_protocol(protocol)
    if max_dets is not None:
        result = result.with_max_dets(max_dets)
    if areas is not None:
        result = result.with_areas(areas)
    if extra_ious is not None:
        result = replace(result, extra_ious=tuple(float(v) for v in extra_ious))
    return result
