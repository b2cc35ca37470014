"""The aerial tiles in larger crops, as many pixels a step: for models that see farther than 160 px.

DetectoRS reads up to 9 cells of stride 32 around each place and averages whole maps. From crops of 160 px it learns
that there is nothing, and whole images drive its features to several times their size.
"""

from .aerial import dataloader

dataloader.train.mapper.augmentations[0].size = (320, 320)
dataloader.train.total_batch_size = 2
