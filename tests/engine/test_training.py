"""Training end to end on drawn scenes, with a detector narrow enough for seconds."""

from __future__ import annotations

import importlib
import json
import shutil

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf

from d2tiny.cli.train import train_main
from d2tiny.config import load_config
from d2tiny.engine.checkpoint import TinyCheckpointer
from d2tiny.engine.ema import ModelEMA
from d2tiny.engine.optim import parameter_groups
from d2tiny.engine.run import Evaluation, run
from d2tiny.engine.schedule import warmup_cosine, warmup_multistep
from d2tiny.layers.depthwise import keep_depthwise_float32
from d2tiny.modeling.assigners import HLAAssigner
from d2tiny.modeling.losses import DCLoss
from d2tiny.utils import precision
from d2tiny.utils.errors import CheckpointError, ConfigError, DatasetError, NonFiniteLossError
from d2tiny.utils.weights import load_weights
from tests.helpers.training import CONFIG, SMALL, losses, settings

assign = HLAAssigner._assign
_HOOK = "d2tiny.engine.hooks.SetAttribute"


def test_trains_writes_and_evaluates(datasets, tmp_path):
    metrics = run(load_config(CONFIG, settings(tmp_path, "train.max_iter=4", "train.eval_period=2")))
    assert {"AP", "AP50", "APvt", "APt", "APs", "APm", "AR@1500"} <= set(metrics)
    for name in ("model_last.pth", "model_best.pth", "model_final.pth", "config.yaml", "result.json", "log.txt"):
        assert (tmp_path / name).is_file(), name
    assert list(tmp_path.glob("events.out.tfevents*"))
    assert sorted(losses(tmp_path)) == [0, 1, 2, 3]
    result = json.loads((tmp_path / "result.json").read_text())
    assert {"commit", "seed", "hardware", "command", "metrics", "max_iter", "overrides"} <= set(result)
    assert not list(tmp_path.glob(".*"))  # nothing half-written


def test_the_record_names_the_commit_that_was_trained(datasets, tmp_path, monkeypatch):
    """A checkout may change during a long training; the modules that run are those of its start."""
    checkout = {"commit": "at the start"}
    evaluate = Evaluation.__call__

    def change_and_evaluate(*args):
        checkout["commit"] = "later"
        return evaluate(*args)

    engine = importlib.import_module("d2tiny.engine.run")  # the package's name `run` is the function
    monkeypatch.setattr(engine, "_commit", lambda: checkout["commit"])
    monkeypatch.setattr(Evaluation, "__call__", change_and_evaluate)
    run(load_config(CONFIG, settings(tmp_path, "train.max_iter=1")))
    assert json.loads((tmp_path / "result.json").read_text())["commit"] == "at the start"


def test_resume_is_bit_equal(datasets, tmp_path):
    """Six iterations at once, and two + four after an interruption: same losses, same final weights."""
    full, interrupted = tmp_path / "full", tmp_path / "interrupted"
    common = ["train.max_iter=6", "train.checkpoint_period=2"]
    run(load_config(CONFIG, settings(full, *common)))

    class Interrupted(Exception):
        pass

    from d2tiny.engine import trainer as module

    original = module.Trainer.run_step

    def stops_at_three(self):
        if self.iter == 3:
            raise Interrupted
        original(self)

    module.Trainer.run_step = stops_at_three
    try:
        with pytest.raises(Interrupted):
            run(load_config(CONFIG, settings(interrupted, *common)))
    finally:
        module.Trainer.run_step = original
    assert (interrupted / "last_checkpoint").read_text() == "model_last.pth"
    run(load_config(CONFIG, settings(interrupted, *common)), resume=True)
    assert losses(interrupted) == losses(full)
    for name in ("model_last.pth", "model_final.pth"):
        a, b = (torch.load(folder / name) for folder in (full, interrupted))
        assert all(torch.equal(a["model"][k], b["model"][k]) for k in a["model"])


def test_resume_of_a_finished_run_evaluates(datasets, tmp_path):
    cfg = settings(tmp_path, "train.max_iter=2")
    first = run(load_config(CONFIG, cfg))
    again = run(load_config(CONFIG, cfg), resume=True)
    assert again == pytest.approx(first, nan_ok=True)


def test_eval_only_gives_the_metrics_of_training(datasets, tmp_path):
    cfg = settings(tmp_path / "a", "train.max_iter=2", "model.roi_heads.box_predictor.test_score_thresh=0.0")
    trained = run(load_config(CONFIG, cfg))
    weights = tmp_path / "a" / "model_final.pth"
    cfg = [*settings(tmp_path / "b"), cfg[-1], f"train.init_checkpoint='{weights}'"]
    assert run(load_config(CONFIG, cfg), eval_only=True) == pytest.approx(trained, nan_ok=True)
    assert (tmp_path / "b" / "eval.json").is_file()
    assert not (tmp_path / "b" / "result.json").exists()  # the record of a training is not touched
    with pytest.raises(ConfigError, match=r"train\.init_checkpoint"):
        run(load_config(CONFIG, settings(tmp_path / "c")), eval_only=True)


def test_nan_stops_with_the_batch_named(datasets, tmp_path):
    cfg = load_config(CONFIG, settings(tmp_path, "train.max_iter=50", "optimizer.lr=1e30", "train.clip_norm=0"))
    with pytest.raises(NonFiniteLossError, match=r"diverged at iteration \d+(.|\n)*\.png"):
        run(cfg)


@pytest.mark.parametrize("fast", [True, False])
def test_the_log_says_which_precision_was_chosen(fast, monkeypatch, caplog):
    """Once, for trainings and evaluations alike, with the layout, and that it is slow where it is."""
    caplog.set_level("INFO")
    engine = importlib.import_module("d2tiny.engine.run")  # the package's name `run` is the function
    monkeypatch.setattr(precision, "advise_on_bf16", lambda device: "" if fast else "It is slow.")
    monkeypatch.setattr(engine, "has_fast_bf16", lambda device: fast)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 3, groups=2), torch.nn.Conv2d(2, 2, 1))
    keep_depthwise_float32(model)
    for enabled in (False, True):
        amp = {"enabled": enabled, "dtype": "bfloat16"}
        cfg = OmegaConf.create({"train": {"amp": amp, "channels_last": enabled}})
        engine._log_precision(cfg, model, "cpu")
    first, *lines = [record.getMessage() for record in caplog.records]
    faster = "; train.amp.enabled=true would use this device's bfloat16"
    assert first == f"Precision: float32{faster if fast else ''}."
    assert "bfloat16 under autocast, channels last; 1 depth-wise convolutions stay in float32" in lines[0]
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"] + ["WARNING"] * (not fast)
    without = "Without it, everything is computed in float32."
    assert fast or lines[1] == f"train.amp.enabled=true: It is slow. {without}"


def test_bf16_and_float16(datasets, tmp_path):
    run(load_config(CONFIG, settings(tmp_path, "train.max_iter=2", "train.amp.enabled=true")))
    cfg = settings(tmp_path, "train.max_iter=2", "train.amp.enabled=true", "train.amp.dtype=float16")
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        run(load_config(CONFIG, cfg))
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        run(load_config(CONFIG, cfg), eval_only=True)


def test_command_line(datasets, tmp_path, capsys):
    arguments = ["--config-file", "configs/" + CONFIG + ".py", *settings(tmp_path, "train.max_iter=1")]
    assert train_main(arguments) == 0
    assert train_main([*arguments, "train.max_itr=5"]) == 2
    message = capsys.readouterr().err
    assert "Did you mean 'max_iter'?" in message
    assert "Traceback" not in message
    assert train_main([*arguments, "model.roi_heads.num_classes=80"]) == 2
    assert "num_classes=80" in capsys.readouterr().err


def test_yaml_under_the_same_trainer(datasets, tmp_path):
    code = train_main(
        [
            "--config-file",
            "configs/yaml/faster_rcnn_r50_efpnbs_rfla_dcloss.yaml",
            "MODEL.RESNETS.DEPTH=18",
            "MODEL.RESNETS.RES2_OUT_CHANNELS=64",
            "MODEL.RESNETS.NORM=BN",
            "MODEL.BACKBONE.FREEZE_AT=0",
            "MODEL.FPN.OUT_CHANNELS=16",
            "MODEL.WEIGHTS=''",
            'DATASETS.TRAIN=("aerial_train",)',
            'DATASETS.TEST=("aerial_val",)',
            "SOLVER.MAX_ITER=2",
            "DATALOADER.NUM_WORKERS=0",
            f"OUTPUT_DIR={tmp_path}",
            "train.device=cpu",
        ]
    )
    assert code == 0
    assert (tmp_path / "result.json").is_file()


def test_own_json(datasets, tmp_path):
    """--register with a json of two classes under strange ids."""
    data = json.loads((datasets / "instances_train.json").read_text())
    for annotation in data["annotations"]:
        annotation["category_id"] = 70 if annotation["category_id"] % 2 else 9
    data["categories"] = [{"id": 9, "name": "even"}, {"id": 70, "name": "odd"}]
    (tmp_path / "own.json").write_text(json.dumps(data))
    name = f"own_{tmp_path.name}"
    code = train_main(
        [
            "--config-file",
            CONFIG,
            "--register",
            name,
            str(tmp_path / "own.json"),
            str(datasets / "train"),
            *settings(tmp_path / "out", "train.max_iter=1"),
            f"dataloader.train.dataset.names={name}",
            f"dataloader.test.dataset.names={name}",
            "model.roi_heads.num_classes=2",
        ]
    )
    assert code == 0
    assert "AP-odd" in json.loads((tmp_path / "out" / "result.json").read_text())["metrics"]


def test_learnable_loss_is_trained_saved_and_not_decayed(datasets, tmp_path):
    key = "model.proposal_generator.box_loss.learnable=bounded"
    run(load_config(CONFIG, settings(tmp_path, "train.max_iter=3", key, "optimizer.lr=0.1")))
    saved = torch.load(tmp_path / "model_last.pth")["model"]
    fresh = DCLoss(learnable="bounded")
    assert saved["proposal_generator.box_loss.kappa"] != fresh.kappa
    model = instantiate(load_config(CONFIG, [*SMALL, key]).model)
    groups = parameter_groups(model=model)
    exempt = [g for g in groups for p in g["params"] if p is model.proposal_generator.box_loss.kappa]
    assert exempt[0]["weight_decay"] == 0


def test_checkpoint_errors(datasets, tmp_path):
    cfg = load_config(CONFIG, SMALL)
    model = instantiate(cfg.model)
    checkpointer = TinyCheckpointer(model, str(tmp_path))
    with pytest.raises(CheckpointError, match="no such file"):
        checkpointer.load(str(tmp_path / "no.pth"))
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(CheckpointError, match=r"cut\.pth"):
        checkpointer.load(str(tmp_path / "cut.pth"))
    torch.save({"model": {"x.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="none of the checkpoint's 1 tensors fits"):
        checkpointer.load(str(tmp_path / "other.pth"))


def test_a_killed_save_keeps_the_previous_file(tmp_path, monkeypatch):
    model = torch.nn.Linear(2, 2)
    checkpointer = TinyCheckpointer(model, str(tmp_path))
    checkpointer.save("model_last")
    before = (tmp_path / "model_last.pth").read_bytes()

    def dies(data, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("model_last")
    assert (tmp_path / "model_last.pth").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_last.pth"]


def test_a_new_run_in_a_used_folder_does_not_mix(datasets, tmp_path):
    cfg = settings(tmp_path, "train.max_iter=2")
    run(load_config(CONFIG, cfg))
    first = losses(tmp_path)
    config = (tmp_path / "config.yaml").read_text()
    run(load_config(CONFIG, [*cfg, "train.seed=5"]))
    assert losses(tmp_path) != first
    assert (tmp_path / "previous_1" / "config.yaml").read_text() == config != (tmp_path / "config.yaml").read_text()
    assert sorted(losses(tmp_path)) == [0, 1]
    assert (tmp_path / "previous_1" / "metrics.json").is_file()
    assert (tmp_path / "previous_1" / "model_last.pth").is_file()


def test_resume_with_another_config_is_refused(datasets, tmp_path):
    run(load_config(CONFIG, settings(tmp_path, "train.max_iter=1")))
    config = (tmp_path / "config.yaml").read_text()
    with pytest.raises(CheckpointError, match="training of another config"):
        run(load_config(CONFIG, settings(tmp_path, "model.roi_heads.box_head.fc_dims=[16,16]")), resume=True)
    assert (tmp_path / "config.yaml").read_text() == config  # it says what the weights beside it are


def _content(folder):
    """What a training leaves, without what is logged."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name not in ("log.txt", ".training.lock")]
    return {path.name: path.read_bytes() for path in files if "events.out" not in path.name}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.early_stopping=-1", "early_stopping"),
        ("lr_multiplier.flat_fraction=2", "flat_fraction must be"),
        (f"train.hooks=[{{_target_:{_HOOK},attribute:no.where,value:1,start_fraction:0}}]", r"no\.where"),
    ],
)
def test_a_start_that_is_refused_leaves_the_earlier_run_as_it_is(datasets, tmp_path, change, message, resume):
    run(load_config(CONFIG, settings(tmp_path, "train.max_iter=1")))
    before = _content(tmp_path)
    with pytest.raises((ConfigError, ValueError), match=message):
        run(load_config(CONFIG, settings(tmp_path, "train.max_iter=2", change)), resume=resume)
    assert _content(tmp_path) == before and not list(tmp_path.glob("previous_*"))
    with pytest.raises((ConfigError, ValueError), match=message):
        run(load_config(CONFIG, settings(tmp_path / "new", "train.max_iter=2", change)), resume=resume)
    assert not _content(tmp_path / "new")


def test_a_run_that_is_over_keeps_its_config_when_resumed(datasets, tmp_path):
    run(load_config(CONFIG, settings(tmp_path, "train.max_iter=1")))
    config = (tmp_path / "config.yaml").read_text()
    run(load_config(CONFIG, settings(tmp_path, "train.max_iter=1", "optimizer.lr=1")), resume=True)
    assert (tmp_path / "config.yaml").read_text() == config  # nothing was trained with that rate


def test_a_run_goes_on_with_the_defaults_that_it_began_with(datasets, tmp_path, monkeypatch):
    cfg = settings(tmp_path, "train.max_iter=1")
    run(load_config(CONFIG, cfg))
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text().replace("tie: value", "tie: index"))  # as if today's had been another one then
    ties = []
    monkeypatch.setattr(HLAAssigner, "_assign", lambda self, *args: ties.append(self.tie) or assign(self, *args))
    for iterations in (2, 3):  # the second one reads what the first one wrote
        run(load_config(CONFIG, [*cfg, f"train.max_iter={iterations}"]), resume=True)
    assert set(ties) == {"index"} and "tie: index" in path.read_text()


def test_a_refused_value_is_told_with_its_key(datasets, tmp_path):
    with pytest.raises(ConfigError, match=r"model: HLAAssigner: ratio must be in \(0, 1\], got 2"):
        run(load_config(CONFIG, settings(tmp_path, "model.proposal_generator.assigner.ratio=2")))


def test_strict_weights(tmp_path):
    model = torch.nn.Linear(2, 2)
    before = model.weight.detach().clone()
    torch.save({"model": {"weight": torch.zeros(2, 2)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"1 tensors are missing \(first: bias\)"):
        load_weights(model, tmp_path / "a.pth")
    torch.save({"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="another shape"):
        load_weights(model, tmp_path / "b.pth")
    assert torch.equal(model.weight, before)
    torch.save({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, tmp_path / "c.pth")
    load_weights(model, tmp_path / "c.pth")
    assert not model.weight.any()


def test_ema_by_hand():
    """Start 0, weight 1: decay min(0.9, 2/11) then 3/12, so 9/11 and then 9/11·1/4 + 3/4."""
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    ema = ModelEMA(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(1)
    ema.update()
    assert float(ema.average["weight"]) == pytest.approx(9 / 11)
    ema.update()
    expected = 9 / 11 / 4 + 3 / 4
    assert float(ema.average["weight"]) == pytest.approx(expected)
    with ema.applied():
        assert float(model.weight.detach()) == pytest.approx(expected)
    assert float(model.weight.detach()) == 1
    other = ModelEMA(model, 0.9)
    other.load_state_dict(ema.state_dict())
    assert torch.equal(other.average["weight"], ema.average["weight"])
    with pytest.raises(ValueError, match="decay"):
        ModelEMA(model, 1.0)


def test_schedules():
    steps = warmup_multistep(max_iter=100, milestones=(0.5, 0.8), warmup_iters=10)
    assert [steps(x / 100) for x in (0, 5, 10, 49, 51, 81)] == pytest.approx([0.001, 0.5005, 1, 1, 0.1, 0.01])
    cosine = warmup_cosine(max_iter=100, end_factor=0.0, warmup_iters=0)
    assert cosine(0.5) == pytest.approx(0.5)
    assert warmup_multistep(max_iter=3, warmup_iters=5000)(0.5) < 1  # longer than the training
    assert warmup_multistep(max_iter=1)(0.0) == pytest.approx(0.001)
    with pytest.raises(ValueError, match="max_iter"):
        warmup_cosine(max_iter=0)


def test_no_gpu_is_said(datasets, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="sees no GPU"):
        run(load_config(CONFIG, [*settings(tmp_path), "train.device=cuda"]))


def test_config_of_a_run_runs_again(datasets, tmp_path):
    run(load_config(CONFIG, settings(tmp_path / "a", "train.max_iter=1")))
    cfg = load_config(tmp_path / "a" / "config.yaml", [f"train.output_dir='{tmp_path / 'b'}'"])
    run(cfg)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert OmegaConf.is_struct(cfg)
    shutil.rmtree(tmp_path / "b")


def test_broken_test_data_stop_the_run_before_training(datasets, tmp_path, monkeypatch):
    copy = tmp_path / "data" / "aerial"
    shutil.copytree(datasets, copy)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(copy.parent))
    victim = min((copy / "val").iterdir())
    victim.write_bytes(victim.read_bytes()[:200])
    with pytest.raises(DatasetError, match=victim.name):
        run(load_config(CONFIG, settings(tmp_path / "out", "train.max_iter=2")))
    assert not (tmp_path / "out" / "metrics.json").exists()
