"""Data loaders. Every training batch is a function of (seed, iteration), so that training resumes exactly."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from d2tiny.data.datasets import find_source
from d2tiny.data.loading.check_records import check_records
from d2tiny.data.loading.headers import check_images
from d2tiny.data.loading.stretch import StretchLike
from d2tiny.utils.errors import ConfigError, DatasetError, did_you_mean

__all__ = ["ResumableLoader", "StreamMapper", "build_test_loader", "build_train_loader", "load_datasets"]

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Mapper = Callable[[Record], Record]


@runtime_checkable
class StreamMapper(Protocol):
    """A mapper that also needs other images, or the iteration of the training."""

    def draw(self, records: Sequence[Record], index: int, iteration: int) -> Record:
        """Return the training input made of ``records[index]``; random generators are seeded by the caller.

        Properties that all images of a batch share, such as their size, may depend on ``iteration`` only.
        """


def load_datasets(
    names: str | Sequence[str],
    *,
    check: bool = True,
    filter_empty: bool = False,
    stretch: StretchLike = None,
    repeats: Sequence[int] | None = None,
) -> list[Record]:
    """Load one or several registered datasets.

    Args:
        names: registered names; all must have the same classes.
        check: check every image file first, see :func:`~d2tiny.data.loading.headers.check_images`.
        filter_empty: leave out images that have no objects, or ignored ones only.
        stretch: that of the mapper, for the check of images that are not 8-bit.
        repeats: how often an epoch shows each dataset (mmdetection's ``RepeatDataset``), one number for each name;
            None shows each once.

    Returns:
        Detectron2 dataset dicts of all datasets, in the order of ``names``.

    Raises:
        ConfigError: ``repeats`` that are no whole numbers from 1 on, or not as many as names.
        DatasetError: an unknown name, no or different classes, broken images, records that cannot be learned from
            (see :func:`~d2tiny.data.loading.check_records.check_records`), or nothing left.
    """
    names = [names] if isinstance(names, str) else list(names)
    times = [1] * len(names) if repeats is None else list(repeats)
    if len(times) != len(names) or not all(type(n) is int and n >= 1 for n in times):
        raise ConfigError(f"repeats={times} needs a whole number from 1 on for each of the datasets {names}.")
    records: list[Record] = []
    classes: list[str] | None = None
    for name, number in zip(names, times, strict=True):
        part, here = _load_dataset(name)
        if classes is not None and here != classes:
            raise DatasetError(f"'{name}' has the classes {here}, but '{names[0]}' has {classes}.")
        classes = here
        if check and comm.is_main_process():
            check_images(part, name, stretch)
        records += part * number
    if filter_empty:
        records = [r for r in records if _count_objects([r])]
    if not records:
        raise DatasetError(f"The dataset {names} has no images{' with objects' if filter_empty else ''}.")
    objects = _count_objects(records)
    logger.info("Loaded %d images with %d objects from %s.", len(records), objects, ", ".join(names))
    return records


def _load_dataset(name: str) -> tuple[list[Record], list[str]]:
    """Return the records of a registered dataset and its class names; those of a user's own function are checked."""
    if name not in DatasetCatalog.list():
        raise DatasetError(f"Unknown dataset '{name}'. {did_you_mean(name, DatasetCatalog.list())}")
    records = DatasetCatalog.get(name)
    classes = list(MetadataCatalog.get(name).get("thing_classes") or ())
    if not classes:
        raise DatasetError(
            f"'{name}' has no class names. Set them where it is registered: "
            f"MetadataCatalog.get('{name}').thing_classes = ['name of class 0', ...]."
        )
    return (records if find_source(name) is not None else check_records(records, classes, name)), classes


def _count_objects(records: Sequence[Record]) -> int:
    """Return the number of objects, without ignored ones."""
    return sum(not a.get("iscrowd", 0) for r in records for a in r.get("annotations", []))


class _Positioned(Dataset[Record]):
    """Maps each record with random generators that are seeded by its position in the training stream."""

    def __init__(self, records: list[Record], mapper: Mapper, seed: int, batch: int) -> None:
        self.records, self.mapper, self.seed, self.batch = records, mapper, seed, batch

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> Record:
        position, index = key
        state = np.random.get_state(), random.getstate(), torch.get_rng_state()
        seed = int(np.random.SeedSequence((self.seed, position)).generate_state(1)[0])
        np.random.seed(seed)
        random.seed(seed)
        torch.manual_seed(seed)
        try:
            if isinstance(self.mapper, StreamMapper):
                return self.mapper.draw(self.records, index, position // self.batch)
            return self.mapper(self.records[index])
        finally:
            np.random.set_state(state[0])
            random.setstate(state[1])
            torch.set_rng_state(state[2])


class _StreamSampler(Sampler[list[tuple[int, int]]]):
    """Yields batches of (position, index) of an endless stream of permutations, beginning at an iteration."""

    def __init__(self, size: int, batch: int, seed: int, start: int) -> None:
        self.size, self.batch, self.seed, self.start = size, batch, seed, start
        self.rank, self.world = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = -1
        order: np.ndarray = np.zeros(0, dtype=np.int64)
        share = self.batch // self.world
        iteration = self.start
        while True:
            first = iteration * self.batch + self.rank * share
            keys = []
            for position in range(first, first + share):
                if position // self.size != epoch:
                    epoch = position // self.size
                    order = np.random.default_rng((self.seed, epoch)).permutation(self.size)
                keys.append((position, int(order[position % self.size])))
            yield keys
            iteration += 1


def _as_list(batch: list[Record]) -> list[Record]:
    return batch


class ResumableLoader:
    """An endless training loader; batch i is always the same, also when training was interrupted before it."""

    def __init__(
        self, records: list[Record], mapper: Mapper, total_batch_size: int, num_workers: int, seed: int
    ) -> None:
        world = comm.get_world_size()
        if total_batch_size < 1 or total_batch_size % world:
            raise ConfigError(
                f"dataloader.train.total_batch_size={total_batch_size} must be a multiple of the {world} processes."
            )
        self.dataset = _Positioned(records, mapper, seed, total_batch_size)
        self.total_batch_size = total_batch_size
        self.num_workers = num_workers
        self.seed = seed

    def iter_from(self, iteration: int) -> Iterator[list[Record]]:
        """Yield the batches of this process, beginning with that of ``iteration``."""
        sampler = _StreamSampler(len(self.dataset), self.total_batch_size, self.seed, iteration)
        yield from DataLoader(
            self.dataset,
            batch_sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=_as_list,
            generator=torch.Generator(),  # else the loader would draw from the global generator
        )


def build_train_loader(
    *,
    dataset: list[Record],
    mapper: Mapper,
    total_batch_size: int,
    num_workers: int = 0,
    seed: int = 0,
) -> ResumableLoader:
    """Build the training loader.

    Args:
        dataset: Detectron2 dataset dicts, as from :func:`load_datasets`.
        mapper: maps a dataset dict to a training input, such as :class:`TinyDatasetMapper`.
        total_batch_size: number of images in an iteration, over all processes.
        num_workers: number of loading processes; 0 loads in the main process.
        seed: random seed of the order of the images and of all augmentations.

    Raises:
        ConfigError: ``total_batch_size`` is no multiple of the number of processes.
        DatasetError: there is no object to learn.
    """
    loader = ResumableLoader(list(dataset), mapper, total_batch_size, num_workers, seed)
    if not _count_objects(dataset):
        ignored = sum(len(record.get("annotations", [])) for record in dataset)
        raise DatasetError(
            f"No object to learn: {len(dataset)} images for training, {ignored} ignored regions. "
            "`d2tiny check` says what is wrong with a json."
        )
    return loader


class _Mapped(Dataset[Record]):
    def __init__(self, records: list[Record], mapper: Mapper) -> None:
        self.records, self.mapper = records, mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.mapper(self.records[index])


def build_test_loader(
    *, dataset: list[Record], mapper: Mapper, batch_size: int = 1, num_workers: int = 0
) -> DataLoader[list[Record]]:
    """Build a loader that yields each image once, divided among the processes.

    Args:
        dataset: Detectron2 dataset dicts, as from :func:`load_datasets`.
        mapper: maps a dataset dict to a test input, such as :class:`TinyDatasetMapper`.
        batch_size: number of images of a batch in one process.
        num_workers: number of loading processes; 0 loads in the main process.
    """
    records = list(dataset)[comm.get_rank() :: comm.get_world_size()]
    mapped: Dataset[Any] = _Mapped(records, mapper)
    return DataLoader(mapped, batch_size=batch_size, num_workers=num_workers, collate_fn=_as_list)
