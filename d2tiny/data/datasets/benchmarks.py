"""Facts about the benchmarks: names of their splits, classes, numbers of images, protocols."""

from __future__ import annotations

from dataclasses import dataclass

from d2tiny.data.datasets.categories import (
    AITOD_CLASSES,
    COLOUR_CLASSES,
    DIOR_CLASSES,
    DOTA_V2_CLASSES,
    HITUAV_CLASSES,
    VISDRONE_CLASSES,
)

__all__ = ["BENCHMARKS", "Benchmark"]


@dataclass(frozen=True)
class Benchmark:
    """A dataset as a training sees it.

    Attributes:
        train: registered name of the training split.
        test: registered name of the split that is evaluated.
        num_classes: K.
        num_images: images (or tiles) of the training split, from which the length of an epoch follows.
        protocol: of the evaluation; see ``d2tiny.evaluation.PROTOCOLS``.
        crop: side in px of random crops for training; None trains on whole images.
    """

    train: str
    test: str
    num_classes: int
    num_images: int
    protocol: str = "aitod"
    crop: int | None = None

    def iterations(self, batch_size: int) -> int:
        """Return the iterations of an epoch with batches of ``batch_size`` images."""
        return -(-self.num_images // batch_size)


BENCHMARKS = {
    "aerial": Benchmark("aerial_train", "aerial_val", len(AITOD_CLASSES), 290, crop=160),
    # Its real tiles; configs add drawn scenes.
    "colour": Benchmark("colour_train", "colour_val", len(COLOUR_CLASSES), 42, crop=160),
    # Thermal images of 640x512 px, halved so that its objects are tiny (datasets/README.md).
    "hituav": Benchmark("hituav_train", "hituav_val", len(HITUAV_CLASSES), 2029),
    "aitod": Benchmark("aitod_trainval", "aitod_test", len(AITOD_CLASSES), 14018),
    "aitodv2": Benchmark("aitodv2_trainval", "aitodv2_test", len(AITOD_CLASSES), 14018),
    # Tables of papers on tiny objects use AI-TOD's metrics; VisDrone's own are protocol="visdrone". Images have up to
    # 2000x1500 px: crops keep the native size of the objects, and objects that they cut become ignore regions.
    "visdrone": Benchmark("visdrone_train", "visdrone_val", len(VISDRONE_CLASSES), 6471, crop=1024),
    # How many tiles there are depends on how they are cut; 10,000 stand for an epoch, which makes 5,000 iterations with
    # a batch of 2. The released log of RFLA has 4,257 (docs/papers/rfla.md#published-numbers). Set yours:
    # dotav2(num_images=...).
    "dotav2": Benchmark("dotav2_train", "dotav2_val", len(DOTA_V2_CLASSES), 10000, protocol="dota_hbb"),
    "dior": Benchmark("dior_trainval", "dior_test", len(DIOR_CLASSES), 11725, protocol="dior"),
    # Classes and images are those of your json; the check before a training says how many classes there are.
    "dtod": Benchmark("dtod_train", "dtod_val", 1, 10000, protocol="soda"),
}
