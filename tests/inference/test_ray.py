"""A run over a Ray cluster finds and writes what one process does, also when a node dies in the middle."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from d2tiny import model_zoo
from d2tiny.inference import predict_scenes
from d2tiny.inference.ray import RayEngine, _setup, _Worker
from d2tiny.inference.run import SceneRun
from d2tiny.utils.errors import CheckpointError, ConfigError, MissingPackageError
from tests.helpers.runs import content, settings, write_scenes

CONFIG = "quick/faster_rcnn_r18_fpn_rfla"
OVERRIDES = ["model.roi_heads.box_predictor.test_topk_per_image=40"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": instantiate(model_zoo.get_config(CONFIG).model).state_dict()}, path)
    return path


def config(weights: Path):
    return model_zoo.get_cfg(CONFIG, weights, OVERRIDES, "cpu")


def test_without_the_extra(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'd2tiny\[ray\]'"):
        RayEngine(config(weights), settings(ray="auto"))


@pytest.mark.parametrize(
    ("address", "words"), [("127.0.0.1:1", "no cluster can be reached there"), ("nowhere", "give auto, or HOST:PORT")]
)
def test_no_cluster(weights: Path, address: str, words: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=words):
        RayEngine(config(weights), settings(ray=address))


def test_weights_that_are_not_on_a_node_are_asked_for(tmp_path: Path, weights: Path) -> None:
    """Of a path that is not there, or is another file; what comes is what is loaded."""
    setup = _setup(config(weights), settings(score=0.02), None, gpu=False)
    other = tmp_path / "model.pth"
    for place in (tmp_path / "none.pth", other):
        cfg = setup.cfg.clone()
        cfg.MODEL.WEIGHTS = str(place)
        other.write_bytes(b"another file")
        worker = _Worker(setup._replace(cfg=cfg))
        assert worker.build() is None
        about = worker.build(np.fromfile(weights, np.uint8))
        assert about is not None
        assert len(about.classes) == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    right = torch.load(weights, weights_only=True)["model"]
    assert worker._engine is not None
    assert all(torch.equal(value, right[key]) for key, value in worker._engine.predictor.model.state_dict().items())


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
class TestCluster:
    """A head without processors, and two nodes of one."""

    @pytest.fixture(scope="class")
    def scenes(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return write_scenes(tmp_path_factory.mktemp("scenes") / "in")

    @pytest.fixture(scope="class")
    def alone(self, tmp_path_factory: pytest.TempPathFactory, weights: Path, scenes: Path) -> Path:
        output = tmp_path_factory.mktemp("alone") / "out"
        predict_scenes(config(weights), [str(scenes)], output, settings(score=0.02))
        return output

    @pytest.fixture(scope="class")
    def cluster(self):
        ray = pytest.importorskip("ray")
        from ray.cluster_utils import Cluster

        os.environ.setdefault("RAY_worker_niceness", "0")  # on a busy machine nice processes get nowhere
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 << 20})
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()

    def test_a_node_that_is_killed_loses_nothing(self, tmp_path, weights, scenes, alone, cluster, monkeypatch):
        """Nothing is lost or there twice: the same bytes, and each unit was told once."""
        nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 << 20) for _ in range(2)]
        told: list[tuple[int, int]] = []
        inner = SceneRun.found

        def found(self, scene, unit, objects):
            told.append((scene, unit))
            if len(told) == 12:
                cluster.remove_node(nodes[1], allow_graceful=False)
            inner(self, scene, unit, objects)

        monkeypatch.setattr(SceneRun, "found", found)
        summary = predict_scenes(
            config(weights), [str(scenes)], tmp_path / "out", settings(score=0.02, ray=cluster.address)
        )
        assert len(told) == len(set(told))
        assert len(told) > 24
        assert [Path(text.split(":")[0]).name for text in summary.failed] == ["broken.png"]
        right, now = content(alone), content(tmp_path / "out")
        assert now.keys() == right.keys()
        assert [name for name in now if now[name] != right[name]] == []
        assert len(json.loads(now["detections.json"])["annotations"]) > 100

    def test_errors_of_all_scenes_end_the_run_with_their_words(self, tmp_path, weights, scenes, cluster):
        with pytest.raises(ConfigError, match="no node of the cluster has a GPU"):
            cfg = config(weights)
            cfg.MODEL.DEVICE = "cuda"
            RayEngine(cfg, settings(ray=cluster.address))
        cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
        wrong = model_zoo.get_cfg("quick/faster_rcnn_r18_efpnbs_rfla_dcloss", weights, (), "cpu")
        with pytest.raises(CheckpointError, match="does not fit the model"):
            predict_scenes(wrong, [str(scenes)], tmp_path / "out", settings(ray=cluster.address))
        assert not (tmp_path / "out" / ".run").exists()
