"""Made-up published weights in a folder, and a server of the loopback interface for it."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate

from d2tiny import model_zoo
from d2tiny.engine.publish import halved

CONFIG = "quick/yolo11_n"  # the smallest of the zoo
CLASSES = ["airplane", "bridge", "tank", "boat", "pool", "vehicle", "person", "mill"]


def entry(name: str, content: bytes, **changes: Any) -> dict[str, Any]:
    """Return an entry of a manifest as json has it, for a file of this content."""
    return {
        "name": name,
        "title": f"Made-up objects of {name}",
        "config": CONFIG,
        "file": f"{name}.pth",
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "classes": CLASSES,
        "licence": "CC-BY-4.0",
        "data": [{"name": "Scenes", "licence": "MIT", "citation": "Nobody (2026)"}],
        "measured": {"dataset": "aerial_val", "protocol": "aitod", "metrics": {"AP": 12.345, "AP50": None}},
        "images": "colour images",
    } | changes


def write_manifest(folder: Path, *entries: dict[str, Any], default: str = "", **changes: Any) -> Path:
    """Write a manifest and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"version": 1, "default": default, "weights": list(entries)} | changes
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def write_weights(folder: Path, name: str, content: bytes = b"content", **changes: Any) -> dict[str, Any]:
    """Write a file of any content, and return its entry."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.pth").write_bytes(content)
    return entry(name, content, **changes)


@functools.cache
def random_model() -> torch.nn.Module:
    """Return the model of :data:`CONFIG` with random weights from a fixed seed; not to be modified."""
    torch.manual_seed(0)
    return instantiate(model_zoo.get_config(CONFIG).model).eval()


def write_model(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Write random weights of :data:`CONFIG` in half precision, and return their entry."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": halved(random_model())}, folder / f"{name}.pth")
    return entry(name, (folder / f"{name}.pth").read_bytes(), **changes)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        self.server.paths.append(self.path)  # type: ignore[attr-defined]


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder; yields its URL and the list of what is asked for."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    server.paths = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.paths  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
