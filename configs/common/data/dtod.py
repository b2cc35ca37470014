"""DTOD, judged as SODA is; its classes are those of your json."""

from .aitod import dataloader

dataloader.train.dataset.names = "dtod_train"
dataloader.test.dataset.names = "dtod_val"
dataloader.evaluator.protocol = "soda"
