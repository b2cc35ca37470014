"""Datasets for experiments: each function returns the facts (classes, images, protocol) that a recipe asks for."""

from dataclasses import replace

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from d2tiny.data.datasets.benchmarks import BENCHMARKS
from d2tiny.data.loading.loader import build_test_loader, build_train_loader, load_datasets
from d2tiny.data.loading.mapper import TinyDatasetMapper
from d2tiny.data.transforms import GuardedScale, ObjectCrop, Photometric
from d2tiny.evaluation import TinyCOCOEvaluator


def aerial(**changes):
    """Small aerial tiles in the flat layout of datasets/README.md."""
    return replace(BENCHMARKS["aerial"], **changes)


def colour(**changes):
    """Colour images with ships, vehicles and airplanes: tiles of permissive licences."""
    return replace(BENCHMARKS["colour"], **changes)


def hituav(**changes):
    """HIT-UAV, halved: thermal images of 320x256 px from a drone, with persons of 8 px."""
    return replace(BENCHMARKS["hituav"], **changes)


def aitod(**changes):
    """AI-TOD: trainval for training, test for testing, tiles of 800x800 px."""
    return replace(BENCHMARKS["aitod"], **changes)


def aitodv2(**changes):
    """AI-TOD-v2: the images of AI-TOD with corrected annotations."""
    return replace(BENCHMARKS["aitodv2"], **changes)


def visdrone(**changes):
    """VisDrone-DET: in AI-TOD's metrics."""
    return replace(BENCHMARKS["visdrone"], **changes)


def dotav2(**changes):
    """DOTA-v2.0: tiles with horizontal boxes."""
    return replace(BENCHMARKS["dotav2"], **changes)


def dior(**changes):
    """DIOR with horizontal boxes: trainval and test."""
    return replace(BENCHMARKS["dior"], **changes)


def dtod(**changes):
    """DTOD; set its classes and number of images to those of your json."""
    return replace(BENCHMARKS["dtod"], **changes)


def flips(dataset):
    """Horizontal flips, after a random crop where the dataset's images are large."""
    crop = [L(ObjectCrop)(size=(dataset.crop, dataset.crop), object_prob=0.9)] if dataset.crop else []
    return [*crop, L(T.RandomFlip)(prob=0.5, horizontal=True)]


def small_crops(dataset):
    """Crops round objects in every orientation, with changes of brightness and contrast."""
    return [
        L(ObjectCrop)(size=(dataset.crop, dataset.crop), object_prob=0.8),
        L(T.RandomFlip)(prob=0.5, horizontal=True),
        L(T.RandomFlip)(prob=0.5, horizontal=False, vertical=True),
        L(T.RandomBrightness)(intensity_min=0.7, intensity_max=1.3),
        L(T.RandomContrast)(intensity_min=0.7, intensity_max=1.3),
    ]


def crops_for_other_places(dataset):
    """Crops round objects in every orientation, at other scales and in other light: what drawn scenes are to teach."""
    return [
        L(GuardedScale)(scales=(0.5, 1.5), min_object=3.0),
        L(ObjectCrop)(size=(dataset.crop, dataset.crop), object_prob=0.8),
        L(T.RandomFlip)(prob=0.5, horizontal=True),
        L(T.RandomFlip)(prob=0.5, horizontal=False, vertical=True),
        L(Photometric)(contrast=0.35, gamma=0.4, gain=0.1, saturation=0.8, hue=10.0, prob=0.9),
    ]


def dataloader(dataset, batch_size, augmentations, num_workers=2):
    """Loaders of training and test, and the evaluator, of a dataset."""
    return dict(
        stretch=None,  # values or percentiles that become black and white in images that are not 8-bit
        train=L(build_train_loader)(
            dataset=L(load_datasets)(names=dataset.train, filter_empty=False, stretch="${dataloader.stretch}"),
            mapper=L(TinyDatasetMapper)(
                is_train=True,
                augmentations=augmentations,
                image_format="${model.input_format}",
                ignore_regions=True,
                stretch="${dataloader.stretch}",
            ),
            total_batch_size=batch_size,
            num_workers=num_workers,
            seed="${train.seed}",
        ),
        test=L(build_test_loader)(
            dataset=L(load_datasets)(names=dataset.test, filter_empty=False, stretch="${dataloader.stretch}"),
            mapper=L(TinyDatasetMapper)(
                is_train=False,
                augmentations=[],
                image_format="${model.input_format}",
                stretch="${dataloader.stretch}",
            ),
            num_workers=num_workers,
        ),
        evaluator=L(TinyCOCOEvaluator)(
            dataset_name="${dataloader.test.dataset.names}",
            protocol=dataset.protocol,
            output_dir="${train.output_dir}/inference",
        ),
    )
