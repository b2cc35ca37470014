"""Training recipes: each function takes a dataset and returns ``dataloader, optimizer, lr_multiplier, train``.

:func:`experiment` joins a model and a recipe to a config.
"""

import torch
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from d2tiny.data.loading.mosaic import MosaicMapper
from d2tiny.data.transforms import ObjectCrop, Photometric, ResizeByFactor
from d2tiny.engine.accumulation import Accumulation
from d2tiny.engine.hooks import MomentumWarmup, SetAttribute
from d2tiny.engine.optim import parameter_groups
from d2tiny.engine.schedule import warmup_cosine, warmup_linear, warmup_multistep

from .data import dataloader, flips, small_crops

RESNET50 = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
EFFICIENTNET_LITE0 = "timm://tf_efficientnet_lite0"


def experiment(model, recipe):
    """The config of a model and what a recipe returned."""
    dataloader, optimizer, lr_multiplier, train = recipe
    return dict(model=model, dataloader=dataloader, optimizer=optimizer, lr_multiplier=lr_multiplier, train=train)


def settings(**changes):
    """Settings of a run, ``train`` of every config; ``output_dir`` follows from the config's name when it is loaded."""
    train = dict(
        output_dir="???",
        init_checkpoint="",
        max_iter=90000,
        seed=0,
        device="auto",
        num_threads=0,  # torch's own choice
        channels_last=False,  # a memory layout that some processors prefer
        amp=dict(enabled=False, dtype="bfloat16"),
        ema=dict(enabled=False, decay=0.999),
        clip_norm=0.0,  # 0 does not clip
        # 0 makes a step of the optimizer in each iteration; `max_iter` and schedules count iterations.
        accumulate=L(Accumulation)(nominal_batch_size=0, batch_size="${dataloader.train.total_batch_size}"),
        sync_bn=False,  # statistics of batch norms over all processes
        checkpoint_period=5000,
        eval_period=0,  # 0 evaluates at the end only
        tta=dict(enabled=False, scales=[1.0], hflip=True, vflip=False),  # evaluations look at several views of an image
        early_stopping=0,  # ends after so many evaluations in a row without a better AP; 0 never
        log_period=20,
        hooks=[],  # more of d2tiny.engine.hooks
    )
    return train | changes


def sgd(lr=0.02):
    """SGD of Detectron2, without weight decay on normalisation layers."""
    return L(torch.optim.SGD)(
        params=L(parameter_groups)(model=None, weight_decay_norm=0.0), lr=lr, momentum=0.9, weight_decay=1e-4
    )


def adamw(lr):
    """AdamW without weight decay on normalisation layers."""
    return L(torch.optim.AdamW)(
        params=L(parameter_groups)(model=None, weight_decay_norm=0.0), lr=lr, betas=(0.9, 0.999), weight_decay=0.05
    )


def rcnn_1x(dataset, batch_size=2, lr=0.005, warmup_iters=5000):
    """12 epochs of SGD, the rate divided by ten after epochs 8 and 11: the "1x" of the AI-TOD papers.

    Differences from their released configs: images without objects are trained too (mmdetection leaves them out by
    default); the affine parts of the backbone's batch norms are frozen like their statistics; an epoch of DOTA-v2.0 is
    what `num_images` of the dataset says, 5,000 iterations of 2 tiles (4,257 in RFLA's released log).
    """
    train = settings(
        max_iter=12 * dataset.iterations(2) * 2 // batch_size,
        eval_period=dataset.iterations(batch_size),
        init_checkpoint=RESNET50,
    )
    schedule = L(warmup_multistep)(
        max_iter="${train.max_iter}", milestones=[8 / 12, 11 / 12], warmup_iters=warmup_iters
    )
    return dataloader(dataset, batch_size, flips(dataset)), sgd(lr), schedule, train


def nwd_1x(dataset):
    """The same 12 epochs as the papers of NWD train them: a batch of 8 with the rate 0.01."""
    return rcnn_1x(dataset, batch_size=8, lr=0.01)


def adamw_1x(dataset, weights, batch_size=16, lr=1e-4, lr_factors=None):
    """12 epochs of AdamW, as mmdetection trains Swin (lr 0.0001) and ResNets of "strikes back" (0.0002).

    Args:
        dataset: of data.py.
        weights: ``timm://NAME``.
        batch_size: of all GPUs together.
        lr: for that batch.
        lr_factors: of parameters by prefix, see :func:`convnext_factors`.
    """
    optimizer = adamw(lr)
    if lr_factors:
        optimizer.params.update(base_lr="${..lr}", lr_factors=lr_factors)
    epoch = dataset.iterations(batch_size)
    train = settings(max_iter=12 * epoch, eval_period=epoch, init_checkpoint=weights)
    schedule = L(warmup_multistep)(
        max_iter="${train.max_iter}", milestones=[8 / 12, 11 / 12], warmup_iters=1000, warmup_factor=0.001
    )
    return dataloader(dataset, batch_size, flips(dataset)), optimizer, schedule, train


def convnext_factors(decay=0.95, body="backbone.bottom_up.body."):
    """Learning rates that fall towards the stem of a ConvNeXt-T, layer by layer, as mmdetection trains it."""
    powers = {"stem_": 7, "stages_0.": 6, "stages_1.": 5, "stages_2.": 4, "stages_3.": 1}
    powers |= {f"stages_2.blocks.{block}.": 4 - block // 3 for block in range(3, 9)}
    return {f"{body}{part}": decay**power for part, power in powers.items()}


def quick(dataset, batch_size=8, max_iter=1000, clip_norm=10.0):
    """Minutes on a processor from random weights: AdamW on small crops, average weights.

    Many small crops show more objects and backgrounds for the same arithmetic than few large ones.
    """
    train = settings(max_iter=max_iter, checkpoint_period=250, ema=dict(enabled=True, decay=0.995), clip_norm=clip_norm)
    schedule = L(warmup_cosine)(max_iter="${train.max_iter}", end_factor=0.01, warmup_iters=100)
    loaders = dataloader(dataset, batch_size, small_crops(dataset), num_workers=0)
    return loaders, adamw(lr=1e-3), schedule, train


def pretrained_quick(dataset, weights=EFFICIENTNET_LITE0, **changes):
    """The same from ImageNet weights, in the memory layout that convolutions of processors prefer."""
    loaders, optimizer, schedule, train = quick(dataset, **changes)
    return loaders, optimizer, schedule, train | dict(init_checkpoint=weights, channels_last=True)


def whole_images(dataset, weights=EFFICIENTNET_LITE0, epochs=12, batch_size=8, lr=1e-3, clip_norm=10.0):
    """Epochs of whole images on a processor from ImageNet weights: AdamW with a cosine, average weights."""
    epoch = dataset.iterations(batch_size)
    train = settings(
        max_iter=epochs * epoch,
        checkpoint_period=epoch,
        init_checkpoint=weights,
        channels_last=True,
        ema=dict(enabled=True, decay=0.998),
        clip_norm=clip_norm,
    )
    schedule = L(warmup_cosine)(max_iter="${train.max_iter}", end_factor=0.01, warmup_iters=100)
    return dataloader(dataset, batch_size, flips(dataset), num_workers=0), adamw(lr), schedule, train


def enlarged(recipe, factor):
    """A recipe that enlarges all images, in training after cropping: objects get larger for the detector."""
    loaders, optimizer, schedule, train = recipe
    resize = L(ResizeByFactor)(factor=factor)
    loaders["train"].mapper.augmentations = [*loaders["train"].mapper.augmentations, resize]
    loaders["test"].mapper.augmentations = [resize, *loaders["test"].mapper.augmentations]
    return loaders, optimizer, schedule, train


def with_mosaic(loaders, *, size, close_share, mixup_prob, multi_scale, saturation, value, hue):
    """Train on mosaics with mixup, affine maps, HSV and flips; images larger than `size` are cropped round objects."""
    crop = L(ObjectCrop)(size=(size, size), object_prob=0.9)
    loaders["train"].mapper = L(MosaicMapper)(
        is_train=True,
        size=size,
        max_iter="${train.max_iter}",
        mosaic_prob=1.0,
        mixup_prob=mixup_prob,
        # The released 0.1 to 2 would leave nothing of tiny objects, and rotation would loosen their boxes.
        scale=(0.5, 1.5),
        translate=0.1,
        close_share=close_share,
        multi_scale=multi_scale,
        multi_scale_seed="${train.seed}",
        source=[crop],
        augmentations=[
            crop,  # of images outside mosaics; a mosaic has that size already
            L(Photometric)(brightness=0.0, contrast=0.0, gamma=0.0, gain=0.0, saturation=saturation, hue=hue, prob=1.0),
            L(T.RandomBrightness)(intensity_min=1 - value, intensity_max=1 + value),
            L(T.RandomFlip)(prob=0.5, horizontal=True),
        ],
        image_format="${model.input_format}",
        ignore_regions=loaders["train"].mapper.ignore_regions,
        stretch="${dataloader.stretch}",
    )
    return loaders


def _nesterov(lr, momentum, weight_decay=5e-4):
    """SGD with Nesterov momentum, without weight decay on biases and norms."""
    return L(torch.optim.SGD)(
        params=L(parameter_groups)(model=None, weight_decay_norm=0.0, weight_decay_bias=0.0),
        lr=lr,
        momentum=momentum,
        nesterov=True,
        weight_decay=weight_decay,
    )


def _yolo_settings(dataset, batch_size, epochs, ema_decay, hooks):
    epoch = dataset.iterations(batch_size)
    return settings(
        max_iter=epochs * epoch,
        eval_period=max(1, epochs // 20) * epoch,
        ema=dict(enabled=True, decay=ema_decay),
        hooks=hooks,
    )


def yolox_sgd(dataset, epochs=300, batch_size=8, size=800):
    """YOLOX: a quadratic warm-up and a cosine; no mosaics and an L1 loss in the last 15 epochs.

    Losses are means over the positives of a batch, and the rate is 0.01 for 64 images.
    """
    last = 15 / epochs
    loaders = with_mosaic(
        dataloader(dataset, batch_size, []),
        size=size,
        close_share=1 - last,
        mixup_prob=1.0,
        multi_scale=5,
        saturation=0.12,
        value=0.12,
        hue=10.0,
    )
    l1 = L(SetAttribute)(attribute="head.l1_weight", value=1.0, start_fraction=1 - last)
    schedule = L(warmup_cosine)(
        max_iter="${train.max_iter}",
        end_factor=0.05,
        warmup_iters=5 * dataset.iterations(batch_size),
        warmup_factor=0.0,
        warmup_power=2.0,
        flat_fraction=last,
    )
    train = _yolo_settings(dataset, batch_size, epochs, 0.9998, [l1])
    return loaders, _nesterov(0.01 * batch_size / 64, momentum=0.9), schedule, train


def ultralytics_sgd(dataset, epochs=600, batch_size=16, size=800, close_epochs=10):
    """YOLOv5 and YOLO11: a linear decay to a hundredth; momentum and the rate of biases have warm-ups of their own.

    A step of the optimizer, with the rate 0.01, is for 64 images, whose gradients are added: the losses are multiplied
    by the number of images already, so that the rate must not be divided by what the batch is smaller;
    docs/papers/yolo.md#rate-of-an-image.
    """
    loaders = with_mosaic(
        dataloader(dataset, batch_size, []),
        size=size,
        close_share=1 - close_epochs / epochs,
        mixup_prob=0.0,
        multi_scale=0,
        saturation=0.7,
        value=0.4,
        hue=5.4,
    )
    warmup_iters = max(3 * dataset.iterations(batch_size), 100)
    schedule = L(warmup_linear)(
        max_iter="${train.max_iter}", end_factor=0.01, warmup_iters=warmup_iters, warmup_factor=0.0
    )
    warmup = L(MomentumWarmup)(warmup_iters=warmup_iters, warmup_momentum=0.8, warmup_bias_lr=0.1)
    train = _yolo_settings(dataset, batch_size, epochs, 0.9999, [warmup])
    steps = dict(nominal_batch_size=64, reduction="sum", warmup_iters=warmup_iters)
    train["accumulate"].update(steps)
    train["clip_norm"] = 10.0
    weight_decay = 5e-4 * Accumulation(batch_size=batch_size, **steps).images / 64
    return loaders, _nesterov(0.01, momentum=0.937, weight_decay=weight_decay), schedule, train


def dino_adamw(dataset, epochs, batch_size=16, weights=RESNET50):
    """DINO: AdamW, gradients clipped at 0.1, the rate divided by ten once; images of one size, with flips.

    The step comes after 11, 20 and 30 epochs of 12, 24 and 36, as in DINO's paper, else in the last twelfth.
    """
    optimizer = L(torch.optim.AdamW)(
        params=L(parameter_groups)(
            model=None, weight_decay_norm=None, base_lr="${..lr}", lr_factors={"backbone.backbone.": 0.1}
        ),
        lr=1e-4,
        betas=(0.9, 0.999),
        weight_decay=1e-4,
    )
    epoch = dataset.iterations(batch_size)
    train = settings(max_iter=epochs * epoch, eval_period=epoch, clip_norm=0.1, init_checkpoint=weights)
    step = {24: 20, 36: 30}.get(epochs, epochs - max(1, epochs // 12))
    schedule = L(warmup_multistep)(max_iter="${train.max_iter}", milestones=[step / epochs], warmup_iters=1000)
    return dataloader(dataset, batch_size, flips(dataset)), optimizer, schedule, train


def dino_published(dataset, epochs=36, batch_size=16):
    """The same with the images of DINO's released training, as published numbers have it.

    A short side of 480 to 800 px, the long one at most 1333; of half of the images first a crop of 384 to 600 px after
    a resize to 400 to 600. Tests see a short side of 800 px.
    """
    loaders, optimizer, schedule, train = dino_adamw(dataset, epochs, batch_size)
    crop = L(T.AugmentationList)(
        augs=[
            L(T.ResizeShortestEdge)(short_edge_length=[400, 500, 600], sample_style="choice"),
            L(T.RandomCrop)(crop_type="absolute_range", crop_size=[384, 600]),
        ]
    )
    loaders["train"].mapper.augmentations = [
        L(T.RandomFlip)(prob=0.5, horizontal=True),
        L(T.RandomApply)(tfm_or_aug=crop, prob=0.5),
        L(T.ResizeShortestEdge)(short_edge_length=list(range(480, 801, 32)), max_size=1333, sample_style="choice"),
    ]
    loaders["test"].mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)]
    return loaders, optimizer, schedule, train
