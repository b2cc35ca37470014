"""Training recipes of the YOLO papers (SPEC §7.1, §8); each alters dataloader, train and optimizer."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from d2tiny.data.loading.mosaic import MosaicMapper
from d2tiny.data.transforms import ObjectCrop, Photometric
from d2tiny.engine.hooks import MomentumWarmup, SetAttribute
from d2tiny.engine.schedule import warmup_cosine, warmup_linear, warmup_multistep


def mosaic(dataloader, *, size, close_share, mixup_prob, multi_scale, saturation, value, hue, image_format="RGB"):
    """Mosaic, mixup, affine, HSV and flips; larger images are cut to `size` round their objects first."""
    crop = L(ObjectCrop)(size=(size, size), object_prob=0.9)
    old = dataloader.train.mapper
    dataloader.train.mapper = L(MosaicMapper)(
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
            crop,  # of plain images; a mosaic has that size already
            L(Photometric)(brightness=0.0, contrast=0.0, gamma=0.0, gain=0.0, saturation=saturation, hue=hue, prob=1.0),
            L(T.RandomBrightness)(intensity_min=1 - value, intensity_max=1 + value),
            L(T.RandomFlip)(prob=0.5, horizontal=True),
        ],
        image_format=image_format,
        ignore_regions=old.ignore_regions,
    )
    dataloader.test.mapper.image_format = image_format


def _length(dataloader, train, *, images, epochs, batch):
    """Iterations of an epoch."""
    dataloader.train.total_batch_size = batch
    epoch = -(-images // batch)
    train.max_iter, train.eval_period = epochs * epoch, max(1, epochs // 20) * epoch
    return epoch


def yolox(dataloader, train, optimizer, *, images, epochs=300, batch=8, size=800):
    """YOLOX: raw BGR values, SGD with a quadratic warm-up and a cosine; plain images and L1 in the last 15 epochs."""
    epoch, last = _length(dataloader, train, images=images, epochs=epochs, batch=batch), 15 / epochs
    mosaic(
        dataloader,
        size=size,
        close_share=1 - last,
        mixup_prob=1.0,
        multi_scale=5,
        saturation=0.12,
        value=0.12,
        hue=10.0,
        image_format="BGR",
    )
    train.ema = dict(enabled=True, decay=0.9998)
    train.hooks = [L(SetAttribute)(attribute="head.l1_weight", value=1.0, start_fraction=1 - last)]
    optimizer.lr, optimizer.momentum = 0.01 * batch / 64, 0.9
    return L(warmup_cosine)(
        max_iter="${train.max_iter}",
        end_factor=0.05,
        warmup_iters=5 * epoch,
        warmup_factor=0.0,
        warmup_power=2.0,
        flat_fraction=last,
    )


def ultralytics(dataloader, train, optimizer, *, images, epochs=600, batch=16, size=800, close_epochs=10):
    """YOLOv5 and YOLO11: SGD with a line down to a hundredth; momentum and biases warm up by themselves."""
    epoch = _length(dataloader, train, images=images, epochs=epochs, batch=batch)
    mosaic(
        dataloader,
        size=size,
        close_share=1 - close_epochs / epochs,
        mixup_prob=0.0,
        multi_scale=0,
        saturation=0.7,
        value=0.4,
        hue=5.4,
    )
    train.ema = dict(enabled=True, decay=0.9999)
    train.hooks = [L(MomentumWarmup)(warmup_iters=3 * epoch, warmup_momentum=0.8, warmup_bias_lr=0.1)]
    # Released code gathers gradients of 64 images; a smaller batch takes a smaller step instead.
    optimizer.lr = 0.01 * batch / 64
    return L(warmup_linear)(max_iter="${train.max_iter}", end_factor=0.01, warmup_iters=3 * epoch, warmup_factor=0.0)


def dino(dataloader, train, *, images, epochs, batch=16):
    """DINO: AdamW, gradients clipped at 0.1, the rate falls once, one epoch (of 24: two) before the end."""
    epoch = _length(dataloader, train, images=images, epochs=epochs, batch=batch)
    train.eval_period, train.clip_norm = epoch, 0.1
    train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
    return L(warmup_multistep)(
        max_iter="${train.max_iter}", milestones=[1 - max(1, epochs // 12) / epochs], warmup_iters=1000
    )
