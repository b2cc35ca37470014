"""AI-TOD-v2: trainval for training, test for testing, as AI-TOD."""

from .aitod import dataloader

dataloader.train.dataset.names = "aitodv2_trainval"
dataloader.test.dataset.names = "aitodv2_test"
dataloader.evaluator.protocol = "aitod"
