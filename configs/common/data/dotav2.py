"""DOTA-v2.0 tiles with horizontal boxes (datasets/README.md says how to make them); AI-TOD's bins, 3,000 detections."""

from .aitod import dataloader

dataloader.train.dataset.names = "dotav2_train"
dataloader.test.dataset.names = "dotav2_val"
dataloader.evaluator.protocol = "dota_hbb"
