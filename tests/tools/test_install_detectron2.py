"""tools/install_detectron2.py: every part but the network, on a tiny fake source wheel."""

import base64
import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "install_detectron2.py"
spec = importlib.util.spec_from_file_location("install_detectron2", SCRIPT)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

MODEL_ZOO = """\
import os
import pkg_resources
from LabGym.detectron2.config import get_cfg

def find(config_path):
    return pkg_resources.resource_filename(
        "LabGym.detectron2.model_zoo", os.path.join("configs", config_path)
    )
"""
FILES = {  # the lines that REWRITES expects, once each, and two prefixes
    "LabGym/detectron2/__init__.py": '__version__ = "0.6"\n',
    "LabGym/detectron2/model_zoo/model_zoo.py": MODEL_ZOO,
    "LabGym/detectron2/data/common.py": "i = self._rng.sample(self._fallback_candidates, k=1)[0]\n",
    "LabGym/detectron2/modeling/anchor_generator.py": "torch.meshgrid(shifts_y, shifts_x)\n",
    "LabGym/detectron2/layers/mask_ops.py": "mask = np.array(mask, copy=False)\n",
    "LabGym/detectron2/evaluation/sem_seg_evaluation.py": ("array = np.array(Image.open(f), copy=copy, dtype=dtype)\n"),
    "LabGym/other.py": "another licence\n",
    "labgym-3.1.2.dist-info/METADATA": "Name: LabGym\n",
}


@pytest.fixture
def source(tmp_path):
    """The fake source wheel."""
    path = tmp_path / "labgym-3.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in FILES.items():
            archive.writestr(name, text)
    return path


@pytest.fixture
def rewrites():
    """The real rewrites; the prefix occurs twice in the fake wheel, 427 times in the real one."""
    first, *others = tool.REWRITES
    return (first._replace(matches=2), *others)


@pytest.fixture
def offline(monkeypatch, source, rewrites):
    """The script with the fake wheel as its download, and every pip call recorded, not made."""
    calls = []
    monkeypatch.setattr(tool, "download", lambda directory: source)
    monkeypatch.setattr(tool, "REWRITES", rewrites)
    monkeypatch.setattr(tool, "install", lambda wheel: calls.append(wheel.name))
    return calls


def completed(returncode=0, stdout="", stderr=""):
    return subprocess.CompletedProcess([], returncode, stdout, stderr)


def assert_fails(capsys, *parts, argv=()):
    assert tool.main(argv) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1, "one message on one line"
    assert "Traceback" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("version", [(3, 10), (3, 11), (3, 12), (3, 13)])
def test_python_is_supported(version):
    tool.check_python(version)


@pytest.mark.parametrize("version", [(3, 9), (3, 14), (2, 7), (4, 0)])
def test_other_python_is_refused(version):
    with pytest.raises(tool.InstallError, match=r"3\.10 to 3\.13"):
        tool.check_python(version)


def test_other_python_is_one_message(monkeypatch, capsys, offline):
    monkeypatch.setattr(tool.sys, "version_info", (3, 9, 0))
    assert_fails(capsys, "Python 3.9", "Nothing was installed")
    assert offline == []


def test_tree_holds_detectron2_only(source):
    tree = tool.read_tree(source)
    assert len(tree) == 6
    assert all(name.startswith("detectron2/") for name in tree)


def test_rewrites_give_the_new_lines(source, rewrites):
    tree = tool.read_tree(source)
    before = dict(tree)
    result = tool.apply_rewrites(tree, rewrites)
    assert tree == before, "the input is unchanged"
    assert not any("LabGym" in t or "pkg_resources" in t for t in result.values())
    assert "sample(list(self._fallback_candidates), k=1)" in result["detectron2/data/common.py"]
    assert 'indexing="ij"' in result["detectron2/modeling/anchor_generator.py"]
    assert result["detectron2/layers/mask_ops.py"] == "mask = np.asarray(mask)\n"
    code = result["detectron2/model_zoo/model_zoo.py"].replace("from detectron2.config import get_cfg", "")
    scope = {"__file__": "/somewhere/model_zoo.py"}
    exec(code, scope)
    assert scope["find"]("a.yaml") == "/somewhere/configs/a.yaml"


@pytest.mark.parametrize(("old", "found"), [("absent", 0), ("a", 3)])
def test_changed_number_of_matches_is_refused(old, found):
    files = {"detectron2/x.py": "a a\n", "detectron2/y.py": "a\n"}
    with pytest.raises(tool.InstallError, match=rf"'{old}' was found {found} times, expected 1"):
        tool.apply_rewrites(files, [tool.Rewrite(old, "b", 1)])


def test_rewrite_of_one_file_ignores_the_others():
    files = {"x.py": "a\n", "y.py": "a\n"}
    assert tool.apply_rewrites(files, [tool.Rewrite("a", "b", 1, "y.py")])["x.py"] == "a\n"


def test_rewrite_of_a_missing_file_names_it(capsys, monkeypatch, offline, rewrites):
    gone = tool.Rewrite("a", "b", 1, "detectron2/gone.py")
    monkeypatch.setattr(tool, "REWRITES", (*rewrites, gone))
    assert_fails(capsys, "detectron2/gone.py", "expected 1", argv=["--force"])
    assert offline == []


def test_wheel_is_identical_twice_and_its_record_is_right(source, rewrites, tmp_path):
    files = tool.apply_rewrites(tool.read_tree(source), rewrites)
    first = tool.write_wheel(files, tmp_path / "one")
    second = tool.write_wheel(dict(reversed(files.items())), tmp_path / "two")
    assert first.name == "detectron2-0.6+nocext.1-py3-none-any.whl"
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
        record = archive.read("detectron2-0.6+nocext.1.dist-info/RECORD").decode().splitlines()
        assert [line.split(",")[0] for line in record] == names
        for line in record[:-1]:
            name, digest, size = line.split(",")
            data = archive.read(name)
            expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            assert (digest, int(size)) == (f"sha256={expected}", len(data))
        metadata = archive.read("detectron2-0.6+nocext.1.dist-info/METADATA").decode()
    assert "License: Apache-2.0" in metadata
    assert "Requires-Dist: fvcore" in metadata


def test_hash_is_checked(source):
    tool.check_sha256(source, hashlib.sha256(source.read_bytes()).hexdigest())
    with pytest.raises(tool.InstallError, match="expected 0000"):
        tool.check_sha256(source, "0" * 64)


def test_wrong_hash_is_one_message(monkeypatch, capsys):
    said = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\nlong text\n"
    monkeypatch.setattr(tool, "run", lambda arguments, cwd: completed(1, stderr=said))
    assert_fails(capsys, "labgym==3.1.2", tool.SOURCE_SHA256, "do not use it", argv=["--force"])


def test_missing_network_is_one_message(monkeypatch, capsys):
    said = "WARNING: Retrying\nERROR: No matching distribution found for labgym==3.1.2\n"
    monkeypatch.setattr(tool, "run", lambda arguments, cwd: completed(1, stderr=said))
    assert_fails(capsys, "No matching distribution", "Check the network", argv=["--force"])


def test_failed_pip_install_is_one_message(monkeypatch, capsys, source, rewrites):
    said = "ERROR: externally-managed-environment\n"
    monkeypatch.setattr(tool, "download", lambda directory: source)
    monkeypatch.setattr(tool, "REWRITES", rewrites)
    monkeypatch.setattr(tool, "run", lambda arguments, cwd: completed(1, stderr=said))
    assert_fails(capsys, "externally-managed", "make .venv", argv=["--force"])


def test_unwritable_wheel_dir_is_one_message(capsys, offline, tmp_path):
    (tmp_path / "file").write_text("")
    assert_fails(capsys, "Nothing was installed", argv=["--wheel-dir", str(tmp_path / "file")])


@pytest.mark.parametrize(
    ("installed", "says", "installs"),
    [
        (tool.Installed(False, None, None), "Installed detectron2", True),
        (tool.Installed(False, tool.VERSION, None), "Installed detectron2", True),
        (tool.Installed(True, "0.6+nocext.0", None), "Installed detectron2", True),
        (tool.Installed(True, tool.VERSION, None), "installed already", False),
        (tool.Installed(True, "0.6", None), "left alone", False),
    ],
    ids=["none", "metadata-only", "ours-older", "ours", "foreign"],
)
def test_what_is_there_decides(monkeypatch, capsys, offline, installed, says, installs):
    monkeypatch.setattr(tool, "probe", lambda cwd: installed)
    assert tool.main([]) == 0
    assert says in capsys.readouterr().out
    assert bool(offline) is installs


def test_force_installs_over_anything(monkeypatch, offline):
    monkeypatch.setattr(tool, "probe", lambda cwd: tool.Installed(True, tool.VERSION, None))
    assert tool.main(["--force"]) == 0
    assert offline == ["detectron2-0.6+nocext.1-py3-none-any.whl"]


def test_foreign_that_does_not_import_is_not_replaced(monkeypatch, capsys, offline):
    broken = tool.Installed(True, "0.6", "ImportError: _C.so: undefined symbol")
    monkeypatch.setattr(tool, "probe", lambda cwd: broken)
    assert_fails(capsys, "undefined symbol", "--force")
    assert offline == []


def test_wheel_dir_builds_and_installs_nothing(offline, tmp_path):
    assert tool.main(["--wheel-dir", str(tmp_path / "out")]) == 0
    assert [p.suffix for p in (tmp_path / "out").iterdir()] == [".whl"]
    assert offline == []


@pytest.mark.parametrize("works", [True, False])
def test_probe_sees_a_foreign_detectron2(monkeypatch, tmp_path, works):
    package = tmp_path / "site" / "detectron2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "9.9"\n')
    (package / "modeling.py").write_text("" if works else "raise ImportError('no _C')\n")
    info = tmp_path / "site" / "detectron2-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: detectron2\nVersion: 9.9\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    (tmp_path / "empty").mkdir()
    found = tool.probe(tmp_path / "empty")
    assert found == tool.Installed(True, "9.9", None if works else "ImportError: no _C")


def test_probe_ignores_the_folder_it_is_started_from(tmp_path):
    """An interpreter without site-packages sees no detectron2, whatever lies in the test's cwd."""
    command = [sys.executable, "-S", "-I", "-c", tool.PROBE]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "PROBE[false, null, null]" in result.stdout
