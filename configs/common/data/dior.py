"""DIOR with horizontal boxes: trainval and test; AP50 by four integrators."""

from .aitod import dataloader

dataloader.train.dataset.names = "dior_trainval"
dataloader.test.dataset.names = "dior_test"
dataloader.evaluator.protocol = "dior"
