"""Quick YOLOX-s on aerial_* with mosaics of crops instead of crops."""

from ..common.recipes import mosaic
from .yolox_s import dataloader, lr_multiplier, model, optimizer, train

mosaic(
    dataloader,
    size=160,
    close_share=0.9,
    mixup_prob=0.0,
    multi_scale=0,
    saturation=0.3,
    value=0.3,
    hue=5.4,
    image_format="BGR",
)
train.output_dir = "output/quick/yolox_s_mosaic"
