"""The YOLO recipes: schedules, groups, hooks, and a training with all of them that resumes exactly."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from torch import nn

from d2tiny import model_zoo
from d2tiny.config import load_config
from d2tiny.engine.hooks import MomentumWarmup, SetAttribute
from d2tiny.engine.optim import parameter_groups
from d2tiny.engine.run import run
from d2tiny.engine.schedule import warmup_cosine, warmup_linear
from d2tiny.engine.trainer import Trainer
from d2tiny.utils.errors import ConfigError
from tests.helpers.images import item


def test_quadratic_warmup_cosine_and_flat_end_by_hand():
    """100 steps: (t/10)² up, half a cosine from 1 to .05 over the first 80 %, then .05."""
    rate = warmup_cosine(
        max_iter=100, end_factor=0.05, warmup_iters=10, warmup_factor=0.0, warmup_power=2.0, flat_fraction=0.2
    )
    end = rate(0.1)
    assert [rate(0.0), rate(0.05)] == pytest.approx([0.0, end / 4])
    assert rate(0.4) == pytest.approx((1 + 0.05) / 2)
    assert [rate(0.8), rate(0.9), rate(1.0)] == pytest.approx([0.05] * 3, abs=1e-6)


def test_linear_warmup_and_line_by_hand():
    rate = warmup_linear(max_iter=100, end_factor=0.01, warmup_iters=10, warmup_factor=0.0)
    assert [rate(0.0), rate(0.05), rate(0.1), rate(0.5)] == pytest.approx([0, (1 - 0.099) / 2, 1 - 0.099, 1 - 0.495])


def test_warmup_may_be_longer_than_the_training():
    assert warmup_linear(max_iter=5, warmup_iters=50)(0.999) <= 1
    with pytest.raises(ValueError, match="flat_fraction"):
        warmup_cosine(max_iter=10, flat_fraction=1.0)


def test_groups_decay_weights_only():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))
    groups = parameter_groups(model=model, weight_decay_norm=0.0, weight_decay_bias=0.0)
    decayed = {id(p) for g in groups if g.get("weight_decay") != 0.0 for p in g["params"]}
    assert decayed == {id(model[0].weight), id(model[2].weight)}
    biases = {id(p) for g in groups if g.get("bias") for p in g["params"]}
    assert biases == {id(model[0].bias), id(model[1].bias), id(model[2].bias)}
    torch.optim.SGD(groups, lr=0.1, weight_decay=1e-4)
    plain = parameter_groups(model=model)
    assert not any("bias" in g for g in plain)


def test_momentum_and_biases_warm_up():
    model = nn.Linear(2, 1)
    groups = parameter_groups(model=model, weight_decay_bias=0.0)
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    for group in optimizer.param_groups:
        group["initial_lr"], group["lr"] = 0.01, 0.005  # as a schedule leaves them
    hook = MomentumWarmup(warmup_iters=10, warmup_momentum=0.8, warmup_bias_lr=0.1)
    hook.trainer = SimpleNamespace(optimizer=optimizer, iter=5)
    hook.before_step()
    by_kind = {bool(g.get("bias")): g for g in optimizer.param_groups}
    assert by_kind[True]["lr"] == pytest.approx((0.1 + 0.005) / 2)  # half the way to what the schedule says
    assert by_kind[False]["lr"] == 0.005
    assert all(g["momentum"] == pytest.approx(0.85) for g in optimizer.param_groups)
    assert MomentumWarmup(warmup_iters=0).warmup_iters == 0
    hook.trainer.iter = 11
    by_kind[True]["lr"] = 0.007
    hook.before_step()
    assert by_kind[True]["lr"] == 0.007
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.85)  # left where iteration 10 puts it
    hook.trainer.iter = 10
    hook.before_step()
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.9)


def test_an_attribute_is_set_from_its_time_on():
    model = nn.Module()
    model.head = SimpleNamespace(l1_weight=0.0)
    hook = SetAttribute(attribute="head.l1_weight", value=1.0, start_fraction=0.5)
    hook.trainer = SimpleNamespace(model=model, iter=4, max_iter=10)
    hook.before_train()
    hook.before_step()
    assert model.head.l1_weight == 0
    hook.trainer.iter = 5
    hook.before_step()
    assert model.head.l1_weight == 1
    wrong = SetAttribute(attribute="head.l2_weight", value=1.0, start_fraction=0.5)
    wrong.trainer = hook.trainer
    with pytest.raises(ConfigError, match=r"no attribute 'head\.l2_weight'"):
        wrong.before_train()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MomentumWarmup(warmup_iters=-1), "warmup_iters"),
        (lambda: SetAttribute(attribute="a", value=1.0, start_fraction=2.0), "start_fraction"),
    ],
)
def test_bad_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("name", ["aitod/yolox_m_300e", "aitod/yolo11_m_600e"])
def test_the_papers_recipes(name):
    """docs/papers/yolo.md#training-recipes."""
    cfg = load_config(name)
    mapper, x = cfg.dataloader.train.mapper, "yolox" in name
    batch = cfg.dataloader.train.total_batch_size
    epoch = -(-14018 // batch)
    assert cfg.train.max_iter == (300 if x else 600) * epoch
    assert mapper.close_share == pytest.approx(1 - (15 / 300 if x else 10 / 600))
    assert (mapper.multi_scale, mapper.mixup_prob) == ((5, 1.0) if x else (0, 0.0))
    assert cfg.optimizer.lr == pytest.approx(0.01 * batch / 64 if x else 0.01)
    steps = instantiate(cfg.train.accumulate)
    assert (steps.images, steps.reduction, cfg.train.clip_norm) == ((batch, "mean", 0) if x else (64, "sum", 10))
    assert cfg.optimizer.nesterov
    assert cfg.optimizer.momentum == (0.9 if x else 0.937)
    assert cfg.optimizer.weight_decay == 5e-4
    assert cfg.train.ema.decay == (0.9998 if x else 0.9999)
    rate = instantiate(cfg.lr_multiplier)
    assert rate(0.9999) == pytest.approx(0.05 if x else 0.01, abs=1e-3)


@pytest.mark.parametrize("name", ["yolov5_m_300e", "yolo11_m_600e"])
@pytest.mark.parametrize("batch", [4, 16, 24, 64, 128])
def test_an_image_moves_the_weights_as_the_released_recipe_does(name, batch):
    """0.01 × the gradient of the image's own loss, whatever the batch; docs/papers/yolo.md#rate-of-an-image."""
    cfg = load_config(f"aitod/{name}", [f"dataloader.train.total_batch_size={batch}"])
    steps = instantiate(cfg.train.accumulate)
    assert steps.images == {4: 64, 16: 64, 24: 72, 64: 64, 128: 128}[batch]

    class Images(nn.Linear):
        """The weight is the loss of an image; the heads multiply the mean of a batch with the number of images."""

        def forward(self, batch):
            return {"loss": self.weight.sum() * len(batch)}

    model = Images(1, 1)
    before = model.weight.item()
    optimizer = torch.optim.SGD(model.parameters(), lr=cfg.optimizer.lr)
    trainer = Trainer(model, optimizer, seed=0, device="cpu", accumulation=steps)
    trainer.set_data_iterator(iter(lambda: [{}] * batch, None))
    trainer.iter = steps.warmup_iters
    with EventStorage(0) as trainer.storage:
        while not trainer.stepped:
            trainer.run_step()
    assert before - model.weight.item() == pytest.approx(0.01 * steps.images, rel=1e-4)


@pytest.mark.parametrize("name", ["yolov5_s", "yolo11_n"])
def test_losses_of_yolo_are_multiplied_by_the_number_of_images(name):
    """The same image twice: equal statistics of the batch norms and equal means, so twice the loss."""
    torch.manual_seed(0)
    model = instantiate(model_zoo.get_config(f"quick/{name}").model).train()
    # so many objects that the sum of the targets is above its least value of 1
    image = item([[x, y, x + 20, y + 18] for x in range(4, 72, 8) for y in range(4, 72, 8)], (96, 96))
    with EventStorage(0):
        one, two = (sum(model([image] * count).values()) for count in (1, 2))
    assert float(two) == pytest.approx(2 * float(one), rel=1e-3)


TINY = [
    "model.head.num_classes=8",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.mapper.size=64",
    "dataloader.train.mapper.multi_scale=1",
    "dataloader.train.mapper.multi_scale_period=2",
    "dataloader.train.mapper.source.0.size=[64,64]",
    "dataloader.train.mapper.augmentations.0.size=[64,64]",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "dataloader.train.dataset.names=aerial_train",
    "dataloader.test.dataset.names=aerial_val",
    "lr_multiplier.warmup_iters=3",
    "train.log_period=1",
    "train.num_threads=1",
    "train.device=cpu",
    "train.max_iter=6",
    "train.eval_period=0",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolox_s_300e", "yolo11_n_600e"])
def test_a_whole_recipe_trains_and_resumes_exactly(name, datasets, tmp_path, monkeypatch):
    """Mosaic, mixup, multi-scale, plain images at the end, hooks; killed in iteration 4, saved in 3."""

    def train(folder, *more, resume=False):
        overrides = [*TINY, f"train.output_dir='{folder}'", *more]
        run(load_config(f"aitod/{name}", overrides), resume=resume)
        rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
        return {r["iteration"]: r["total_loss"] for r in rows if "total_loss" in r}

    hooks = ["train.hooks.0.start_fraction=0.5"]
    if "yolo11" in name:  # steps of 1, 1, 2 and 2 iterations, the third of which is cut
        hooks = ["train.hooks.0.warmup_iters=3", "train.accumulate.warmup_iters=3"]
        hooks.append("train.accumulate.nominal_batch_size=4")
    full = train(tmp_path / "full", *hooks)
    step = Trainer.run_step

    def dies(self):
        if self.iter == 4:
            raise KeyboardInterrupt
        step(self)

    cut = [*hooks, "train.checkpoint_period=3"]  # with yolo11 in the middle of a step
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "run_step", dies)
        train(tmp_path / "cut", *cut)
    resumed = train(tmp_path / "cut", *cut, resume=True)
    assert [full[i] for i in (3, 4, 5)] == [resumed[i] for i in (3, 4, 5)]
