"""Install detectron2 0.6 from a package index alone: no git, no compiler.

Detectron2 has no release on the package index. A published wheel of another project carries the
whole Python tree of detectron2 0.6 (Apache-2.0) under a package prefix. This script downloads that
wheel (fixed version and hash), takes the tree, undoes the prefix, applies a handful of counted
compatibility rewrites, and installs the result as ``detectron2 0.6+nocext.1``. Everything else in
the downloaded wheel is dropped, and nothing of it is stored in this repository (see NOTICE).

    python tools/install_detectron2.py            # install; does nothing when that is done already
    python tools/install_detectron2.py --force    # install again, also over another detectron2
    python tools/install_detectron2.py --wheel-dir dist    # only build the wheel

A working detectron2 that is not ours (a build from source, 0.6 or main) is left alone. The exit
code is 0 when a usable detectron2 is there at the end, else 1 with one message on stderr.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

SOURCE = "labgym==3.1.2"
SOURCE_SHA256 = "a2900cff8a3fb508e1975f19b5f9abd9f261966db87b0c332697fb4138c1cb2b"
PREFIX = "LabGym/"
VERSION = "0.6+nocext.1"
PYTHON_MIN, PYTHON_MAX = (3, 10), (3, 13)
TIMESTAMP = (2024, 1, 8, 0, 0, 0)  # of the upstream commit; fixed, so that builds are identical
TAIL = "Nothing was installed."

METADATA = f"""\
Metadata-Version: 2.1
Name: detectron2
Version: {VERSION}
Summary: Detectron2 0.6 without its C++ extension, rebuilt by tools/install_detectron2.py of d2tiny
Author: FAIR
License: Apache-2.0
Requires-Python: >=3.10
Requires-Dist: torch
Requires-Dist: torchvision
Requires-Dist: numpy
Requires-Dist: Pillow>=7.1
Requires-Dist: matplotlib
Requires-Dist: pycocotools>=2.0.2
Requires-Dist: termcolor>=1.1
Requires-Dist: yacs>=0.1.8
Requires-Dist: tabulate
Requires-Dist: cloudpickle
Requires-Dist: tqdm>4.29.0
Requires-Dist: tensorboard
Requires-Dist: fvcore>=0.1.5
Requires-Dist: iopath>=0.1.7
Requires-Dist: omegaconf>=2.1
Requires-Dist: hydra-core>=1.1
Requires-Dist: packaging

Detectron2 is Copyright (c) Facebook, Inc. and its affiliates, Apache License 2.0.
Changed against upstream 0.6: no C++ extension; the lines that REWRITES in
tools/install_detectron2.py lists (setuptools without pkg_resources, Python >= 3.11, NumPy 2).
"""
WHEEL = "Wheel-Version: 1.0\nGenerator: d2tiny\nRoot-Is-Purelib: true\nTag: py3-none-any\n"

# Ours is recognised by its version; anything else has to import to count as working.
PROBE = """\
import importlib.metadata as m, importlib.util as u, json
found, version, error = u.find_spec("detectron2") is not None, None, None
try:
    version = m.version("detectron2")
except m.PackageNotFoundError:
    pass
if found and "+nocext." not in (version or ""):
    try:
        import detectron2.modeling
        version = version or getattr(detectron2, "__version__", "of unknown version")
    except BaseException as e:
        error = f"{type(e).__name__}: {e}"
print("\\nPROBE" + json.dumps([found, version, error]))
"""


class InstallError(Exception):
    """Something the user must know; the text says where, what, and what to do next."""


class Rewrite(NamedTuple):
    """A literal replacement that must match an exact number of times.

    Attributes:
        old: Text to look for.
        new: Text that takes its place.
        matches: Expected number of matches; a different number aborts.
        path: The one file it applies to, or ``""`` for every file.
    """

    old: str
    new: str
    matches: int
    path: str = ""


class Installed(NamedTuple):
    """What the interpreter knows about detectron2.

    Attributes:
        found: Whether a package ``detectron2`` can be found.
        version: Its version, if any is known.
        error: Why a detectron2 that is not ours cannot be imported; None where it can.
    """

    found: bool
    version: str | None
    error: str | None


REWRITES = (
    Rewrite("LabGym.detectron2", "detectron2", 427),
    # pkg_resources is gone from current setuptools.
    Rewrite("import pkg_resources\n", "", 1, "detectron2/model_zoo/model_zoo.py"),
    Rewrite(
        'pkg_resources.resource_filename(\n        "detectron2.model_zoo", os.path.join("configs", config_path)\n    )',
        'os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs", config_path)',
        1,
        "detectron2/model_zoo/model_zoo.py",
    ),
    # random.sample() of a set is a TypeError from Python 3.11 on.
    Rewrite(
        "self._rng.sample(self._fallback_candidates, k=1)",
        "self._rng.sample(list(self._fallback_candidates), k=1)",
        1,
        "detectron2/data/common.py",
    ),
    Rewrite(
        "torch.meshgrid(shifts_y, shifts_x)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
        1,
        "detectron2/modeling/anchor_generator.py",
    ),
    # np.array(copy=False) means "never copy" in NumPy 2, and raises where a copy is needed.
    Rewrite("np.array(mask, copy=False)", "np.asarray(mask)", 1, "detectron2/layers/mask_ops.py"),
    Rewrite(
        "np.array(Image.open(f), copy=copy, dtype=dtype)",
        "(np.array if copy else np.asarray)(Image.open(f), dtype=dtype)",
        1,
        "detectron2/evaluation/sem_seg_evaluation.py",
    ),
)


def check_python(version: tuple[int, int]) -> None:
    """Raise unless ``version`` (major, minor) is one that d2tiny supports."""
    if not PYTHON_MIN <= version <= PYTHON_MAX:
        raise InstallError(
            f"Python {version[0]}.{version[1]} ({sys.executable}) is not supported: use Python "
            f"{PYTHON_MIN[0]}.{PYTHON_MIN[1]} to {PYTHON_MAX[0]}.{PYTHON_MAX[1]}, for example "
            f"`make PYTHON=python3.12 .venv`. {TAIL}"
        )


def run(arguments: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the current interpreter with ``arguments`` in ``cwd`` and capture what it says."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, errors="replace", check=False)


def why(result: subprocess.CompletedProcess[str]) -> str:
    """Return the one line of a failed pip call that says most."""
    lines = [line.strip() for line in f"{result.stdout}\n{result.stderr}".splitlines()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    line = (errors or [line for line in lines if line] or ["no output"])[-1]
    return line.replace("ERROR: ", "").rstrip(".")


def probe(cwd: Path) -> Installed:
    """Look for detectron2 from a fresh interpreter.

    ``cwd`` is an empty folder: a folder named detectron2 where the user stands must not count.
    """
    result = run(["-c", PROBE], cwd)
    answers = [line for line in result.stdout.splitlines() if line.startswith("PROBE")]
    if not answers:
        return Installed(True, None, f"the import ended with exit code {result.returncode}")
    return Installed(*json.loads(answers[-1][len("PROBE") :]))


def check_sha256(path: Path, expected: str) -> None:
    """Raise unless the file ``path`` has the SHA-256 ``expected`` (hexadecimal)."""
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != expected:
        raise InstallError(
            f"{path.name}: sha256 is {actual}, expected {expected}. The index served another file "
            f"than the one this script was written for; do not use it. Check the index that pip "
            f"is set to (`pip config list`), then run this again. {TAIL}"
        )


def download(directory: Path) -> Path:
    """Download the source wheel into ``directory`` and check its hash."""
    requirements = directory / "requirements.txt"
    requirements.write_text(f"{SOURCE} --hash=sha256:{SOURCE_SHA256}\n", encoding="utf-8")
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:"]
    options += ["--ignore-requires-python", "--dest", str(directory), "-r", str(requirements)]
    result = run(["-m", "pip", "download", "--quiet", *options], directory)
    if "DO NOT MATCH THE HASHES" in result.stderr.upper():
        raise InstallError(
            f"{SOURCE}: the downloaded wheel does not have the expected sha256 {SOURCE_SHA256}; do "
            f"not use it. Check the index that pip is set to (`pip config list`). {TAIL}"
        )
    if result.returncode:
        raise InstallError(
            f"{SOURCE}: `pip download` failed ({why(result)}). Check the network and pip's index "
            f"settings (`pip config list`), then run this again. {TAIL}"
        )
    wheel = next(directory.glob("*.whl"))
    check_sha256(wheel, SOURCE_SHA256)
    return wheel


def read_tree(wheel: Path) -> dict[str, str]:
    """Return path → text of the detectron2 files in ``wheel``, without the package prefix."""
    root = f"{PREFIX}detectron2/"
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.startswith(root) and not n.endswith("/")]
        return {name[len(PREFIX) :]: archive.read(name).decode("utf-8") for name in names}


def apply_rewrites(files: Mapping[str, str], rewrites: Sequence[Rewrite]) -> dict[str, str]:
    """Return ``files`` with ``rewrites`` applied in order.

    Raises:
        InstallError: If a rewrite matches more or fewer times than it expects.
    """
    result = dict(files)
    for old, new, expected, path in rewrites:
        paths = [path] if path else list(result)
        found = sum(result.get(p, "").count(old) for p in paths)
        if found != expected:
            raise InstallError(
                f"{path or 'detectron2/**'}: {old.strip()!r} was found {found} times, expected "
                f"{expected}. The source is not the one the rewrites were written for; see "
                f"REWRITES in {Path(__file__).name}. {TAIL}"
            )
        for p in paths:
            result[p] = result[p].replace(old, new)
    return result


def write_wheel(files: Mapping[str, str], directory: Path) -> Path:
    """Write ``files`` as a wheel into ``directory``; equal files give equal bytes."""
    info = f"detectron2-{VERSION}.dist-info"
    members = {name: text.encode("utf-8") for name, text in sorted(files.items())}
    members[f"{info}/METADATA"] = METADATA.encode("utf-8")
    members[f"{info}/WHEEL"] = WHEEL.encode("utf-8")
    record = ""
    for name, data in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(data)}\n"
    members[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"detectron2-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name, TIMESTAMP)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return path


def build(directory: Path, workspace: Path) -> Path:
    """Download, rewrite and pack: return the new wheel in ``directory``."""
    return write_wheel(apply_rewrites(read_tree(download(workspace)), REWRITES), directory)


def install(wheel: Path) -> None:
    """Install ``wheel``, without its dependencies, into the running interpreter."""
    options = ["--quiet", "--no-deps", "--no-index", "--force-reinstall"]
    result = run(["-m", "pip", "install", *options, str(wheel)], wheel.parent)
    if result.returncode:
        raise InstallError(
            f"`pip install` of {wheel.name} failed ({why(result)}). Is {sys.prefix} a virtual "
            f"environment that you may write to? `make .venv` makes one. {TAIL}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Install detectron2 0.6 (pure Python).")
    parser.add_argument("--force", action="store_true", help="install over what is there")
    parser.add_argument("--wheel-dir", type=Path, metavar="DIR", help="only build the wheel, into DIR")
    args = parser.parse_args(argv)
    try:
        check_python(sys.version_info[:2])
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            if args.wheel_dir:
                print(f"Built {build(args.wheel_dir, work)}")
                return 0
            if not args.force:
                found, version, error = probe(work)
                if found and error:
                    raise InstallError(
                        f"An installed detectron2 that is not ours cannot be imported: {error}. "
                        f"Repair it, or replace it with `{Path(__file__).name} --force`. {TAIL}"
                    )
                if found and version == VERSION:
                    print(f"detectron2 {version} is installed already.")
                    return 0
                if found and "+nocext." not in (version or ""):
                    print(f"detectron2 {version} is installed and works; it is left alone.")
                    return 0
            install(build(work / "wheel", work))
            print(f"Installed detectron2 {VERSION} into {sys.prefix}")
    except InstallError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{Path(__file__).name}: {error}. {TAIL}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
