"""Check that a wheel of d2tiny works outside the checkout.

    python tools/check_wheel.py                  # builds the wheel
    python tools/check_wheel.py dist/*.whl       # takes one

The wheel is installed, without its dependencies, into a fresh virtual environment that sees the packages of the
environment that runs this script, but neither its d2tiny nor the checkout. There, in an empty folder, the installed
command draws scenes, predicts one with published weights, writes the page of a scene, trains five iterations,
predicts with what came out, and evaluates. The exit code is 0 if all of it works, else 1 with one message.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "quick/faster_rcnn_lite0_fpn_rfla"
# Files that are no modules, and what is lost without them.
NEEDED = {
    "d2tiny/py.typed": "types",
    "d2tiny/weights/manifest.json": "published weights",
    "d2tiny/inference/viewer/page.js": "pages of scenes",
    "d2tiny/inference/viewer/openseadragon.min.js": "pages of scenes",
    "d2tiny/configs/common/recipes.py": "configs",
    f"d2tiny/configs/{CONFIG.split('/', maxsplit=1)[0]}/rcnn.py": "configs",
    "d2tiny/configs/yaml/faster_rcnn_r50_efpnbs_rfla_dcloss.yaml": "configs",
}
# The packages of the environment that runs this script, after those of the fresh one. A .pth file of an editable
# installation there is not followed: sys.path gets the folder alone.
SEE_PACKAGES = "{folder}\n"
WHERE = "import d2tiny, sys; print(d2tiny.__file__)"


class WheelError(Exception):
    """Something that does not work; the text says what."""


def run(command: Sequence[str], folder: Path) -> str:
    """Run a command in a folder without the checkout on its path; return what it printed.

    Raises:
        WheelError: it failed.
    """
    hidden = ("PYTHONPATH", "PYTHONHOME", "D2TINY_WEIGHTS", "DETECTRON2_DATASETS")
    env = {k: v for k, v in os.environ.items() if k not in hidden}
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if result.returncode:
        tail = "\n".join((result.stdout + result.stderr).splitlines()[-25:])
        raise WheelError(f"{' '.join(command)}: exit code {result.returncode}\n{tail}")
    return result.stdout


def build_wheel(folder: Path) -> Path:
    """Build the wheel of the checkout into a folder; a copy is built, so that the checkout stays as it is.

    Raises:
        WheelError: it cannot be built.
    """
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "setup.py", "pyproject.toml", "README.md",
         "LICENSE", "NOTICE", "d2tiny", "configs"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if files.returncode:
        raise WheelError(f"{ROOT}: git cannot list its files; give a wheel that is built.")
    source = folder / "source"
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    run([sys.executable, "-m", "pip", "wheel", *options, str(source)], folder)
    return next(folder.glob("d2tiny-*.whl"))


def check_content(wheel: Path) -> None:
    """Raise unless a wheel has configs, viewer, and the published weights that its manifest names.

    Raises:
        WheelError: files are missing, or there are tests.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        missing = {name: what for name, what in NEEDED.items() if name not in names}
        if missing:
            listed = ", ".join(f"{name} ({what})" for name, what in missing.items())
            raise WheelError(f"{wheel.name}: lacks {listed}. See package_data in setup.py.")
        manifest = json.loads(archive.read("d2tiny/weights/manifest.json"))
    lacking = [entry["file"] for entry in manifest["weights"] if f"d2tiny/weights/{entry['file']}" not in names]
    if lacking:
        raise WheelError(f"{wheel.name}: lacks the weights {', '.join(lacking)} of its manifest.")
    foreign = sorted({name.split("/")[0] for name in names} - {"d2tiny"})
    if [name for name in foreign if not name.endswith(".dist-info")]:
        raise WheelError(f"{wheel.name}: has other packages: {', '.join(foreign)}.")


def install(wheel: Path, folder: Path) -> Path:
    """Install a wheel into a fresh environment in a folder; return the folder of its programs.

    Raises:
        WheelError: it cannot be installed, or another d2tiny is imported.
    """
    venv.create(folder, with_pip=False)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    python = str(programs / "python")
    packages = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip())
    options = ["--quiet", "--no-deps", "--no-index", "--no-warn-script-location"]
    run([sys.executable, "-m", "pip", "--python", python, "install", *options, str(wheel)], folder)
    see = SEE_PACKAGES.format(folder=sysconfig.get_path("purelib"))
    (packages / "packages_of_the_caller.pth").write_text(see, encoding="utf-8")
    found = Path(run([python, "-c", WHERE], folder).strip())
    if packages not in found.parents:
        raise WheelError(f"{found} is imported, and not what was installed into {packages}.")
    return programs


def steps() -> dict[str, str]:
    """Return what is done with the installed command: what for → arguments."""
    data = " ".join(f"--register my_{s} data/instances_{s}.json data/{s}" for s in ("train", "val"))
    return {
        "lists configs": "zoo quick/*",
        "lists published weights": "zoo --published",
        "draws scenes": "draw --output data --train 4 --val 2",
        "predicts with published weights": "predict data/val/synthetic_000000.png --output found --page --device cpu",
        "trains five iterations and evaluates": f"train --config {CONFIG} --output run --device cpu {data} "
        "dataloader.train.dataset.names=my_train dataloader.test.dataset.names=my_val train.max_iter=5 "
        "train.init_checkpoint=d2tiny://colour dataloader.train.total_batch_size=2",
        "evaluates a result file": "evaluate run/inference/coco_instances_results.json data/instances_val.json "
        "--images data/val --report report",
    }


WRITTEN = ("found/detections.json", "found/synthetic_000000.html", "run/model_final.pth", "run/result.json",
           "report/index.html")  # fmt: skip


def check_wheel(wheel: Path, folder: Path) -> None:
    """Install a wheel and do all steps with it.

    Args:
        wheel: the file.
        folder: an empty folder for environment and results.

    Raises:
        WheelError: something does not work.
    """
    check_content(wheel)
    programs = install(wheel, folder / "environment")
    work = folder / "elsewhere"
    work.mkdir()
    for what, arguments in steps().items():
        print(f"{what}: d2tiny {arguments}", flush=True)
        run([str(programs / "d2tiny"), *arguments.split()], work)
    missing = [name for name in WRITTEN if not (work / name).is_file()]
    if missing:
        raise WheelError(f"{', '.join(missing)}: not written.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Check that a wheel of d2tiny works outside the checkout.")
    parser.add_argument("wheel", nargs="?", type=Path, help="default: built of the checkout")
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name).resolve()
            wheel = args.wheel.resolve() if args.wheel else build_wheel(folder)
            check_wheel(wheel, folder)
            print(f"{wheel.name} ({wheel.stat().st_size / 1e6:.1f} MB) works outside the checkout.")
    except WheelError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
