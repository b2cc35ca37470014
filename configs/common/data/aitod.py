"""AI-TOD: trainval for training, test for testing, 800×800 tiles, horizontal flips."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from d2tiny.data.loading.loader import build_test_loader, build_train_loader, load_datasets
from d2tiny.data.loading.mapper import TinyDatasetMapper
from d2tiny.evaluation import TinyCOCOEvaluator

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(load_datasets)(names="aitod_trainval", filter_empty=False),
        mapper=L(TinyDatasetMapper)(
            is_train=True,
            augmentations=[L(T.RandomFlip)(prob=0.5, horizontal=True)],
            image_format="RGB",
            ignore_regions=True,
        ),
        total_batch_size=2,
        num_workers=2,
        seed="${train.seed}",
    ),
    test=L(build_test_loader)(
        dataset=L(load_datasets)(names="aitod_test", filter_empty=False),
        mapper=L(TinyDatasetMapper)(is_train=False, augmentations=[], image_format="RGB"),
        num_workers=2,
    ),
    evaluator=L(TinyCOCOEvaluator)(
        dataset_name="${dataloader.test.dataset.names}",
        protocol="aitod",
        output_dir="${train.output_dir}/inference",
    ),
)
