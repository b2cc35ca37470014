"""``d2tiny predict`` and ``tools/demo.py``: detect objects in images."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from d2tiny.cli.common import (
    BEST_SCORES,
    SCORE,
    add_config_option,
    add_device_option,
    add_output_option,
    add_register_option,
    add_score_option,
    add_stretch_option,
    add_weights_place_option,
    comma_list,
    guarded,
    register_given,
)
from d2tiny.utils.errors import CheckpointError, ConfigError
from d2tiny.utils.malloc import keep_freed_memory

if TYPE_CHECKING:
    from d2tiny.inference import ReadSettings, RunSettings, RunSummary
    from d2tiny.inference.scores import Scores
    from d2tiny.runtime import ExportedModel
    from d2tiny.utils.published import PublishedWeights

__all__ = ["EXAMPLE", "add_arguments", "demo_main", "demo_parser", "run", "split_overrides", "tell_results"]

EXAMPLE = (
    "d2tiny predict images/ --config quick/faster_rcnn_lite0_fpn_rfla "
    "--weights output/demo/run/model_final.pth --output found/ --score 0.3"
)
_NO_BEST = (
    f"--score {BEST_SCORES} is known of published weights only (d2tiny zoo --published). Name a score, or one by "
    "class: ship=0.5,0.3."
)
_OVERRIDE = re.compile(r"\+*[A-Za-z_][\w.]*=")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="images of any size, folders, globs, URLs, .txt lists of these; then key=value overrides",
    )
    _add_options(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_config_option(parser, required=False, what="config file or zoo name (default: that of the weights)")
    parser.add_argument(
        "--weights",
        metavar="W",
        help="checkpoint or published weights (d2tiny zoo --published); default: the config's",
    )
    add_weights_place_option(parser)
    parser.add_argument(
        "--model",
        metavar="PATH",
        help="exported model (.onnx, .xml, or the folder of one) instead of config and weights; needs no PyTorch",
    )
    add_output_option(parser, "folder of the results (default: %(default)s)", default=Path("found"))
    add_score_option(parser)
    add_device_option(parser)
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16: faster where the processor has it")
    parser.add_argument("--tta", action="store_true", help="look at mirror images too: finds more, takes twice as long")
    _add_scene_options(parser)
    _add_run_options(parser)
    add_register_option(parser)


def _add_scene_options(parser: argparse.ArgumentParser) -> None:
    """Add how scenes are read and what is written of them."""
    group = parser.add_argument_group("scenes")
    group.add_argument(
        "--tile",
        type=int,
        metavar="PX",
        help="larger images are cut; a multiple of 32 (default: 800, or what an exported model suits)",
    )
    group.add_argument("--overlap", default="auto", metavar="PX", help="of tiles (default: by the objects found)")
    group.add_argument("--batch", type=int, default=1, metavar="N", help="tiles at once (default %(default)s)")
    add_stretch_option(group, default="2%%,98%%")
    group.add_argument("--bands", metavar="R,G,B", help="bands of a raster, counted from 1 (default: as the file says)")
    group.add_argument("--gsd", type=float, metavar="M", help="resample rasters to this many metres a pixel")
    group.add_argument(
        "--resize", type=float, metavar="F", help="factor of all images, where objects are too large (0.5) or small (2)"
    )
    group.add_argument("--aoi", type=Path, metavar="FILE", help="search this area only (GeoJSON, GeoPackage, ...)")
    group.add_argument(
        "--format",
        type=comma_list,
        metavar="F",
        help="geojson, gpkg, fgb, parquet, csv, coco, with commas between (default: geojson of georeferenced images)",
    )
    group.add_argument("--no-pictures", action="store_true", help="draw no pictures")
    group.add_argument(
        "--page",
        action=argparse.BooleanOptionalAction,
        help="a page to zoom into for each scene (default: for a single one that is cut into tiles)",
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add how the work is spread and gone on with."""
    group = parser.add_argument_group("many scenes")
    group.add_argument("--resume", action="store_true", help="go on with the interrupted run in --output")
    group.add_argument("--shard", type=_shard, metavar="I/N", help="do one of N parts; d2tiny merge joins them")
    group.add_argument(
        "--backend", choices=("openvino", "onnxruntime"), help="runs exported models (default: openvino if installed)"
    )
    group.add_argument("--ray", default="", metavar="A", help="auto, or the address of a Ray cluster")


def _shard(text: str) -> tuple[int, int]:
    """Read ``3/16``."""
    number, slash, count = text.partition("/")
    if not slash or not number.isdecimal() or not count.isdecimal() or not 1 <= int(number) <= int(count):
        raise argparse.ArgumentTypeError(f"{text!r} must look like 3/16, the first number from 1 to the second")
    return int(number), int(count)


def demo_parser() -> argparse.ArgumentParser:
    """Return the parser of ``tools/demo.py``, which has the option names of Detectron2's script."""
    parser = argparse.ArgumentParser(
        prog="tools/demo.py",
        description="Detect objects in images: annotated pictures and a COCO-style json.",
        epilog="example: tools/demo.py --config quick/faster_rcnn_lite0_fpn_rfla "
        "--weights output/try/model_final.pth --input images/ --output found/",
    )
    parser.add_argument("--input", required=True, nargs="+", metavar="I", help="images, folders or globs")
    _add_options(parser)
    parser.add_argument("--opts", nargs="+", default=[], metavar="key=value", help="config overrides")
    return parser


def demo_main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``tools/demo.py``; returns the exit code."""
    args = demo_parser().parse_args(argv)
    return guarded(lambda: _predict(args, args.input, args.opts), output=args.output)


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell images from overrides: what looks like ``key=value`` and is no file is an override.

    Returns:
        images and overrides, each in the order given.
    """
    overrides = [w for w in words if _OVERRIDE.match(w) and not Path(w).exists()]
    return [w for w in words if w not in overrides], overrides


def run(args: argparse.Namespace) -> int:
    """Predict; the exit code is 1 if images could not be read."""
    images, overrides = split_overrides(args.images)
    if not images:
        raise ConfigError("Name images, folders or globs before the key=value overrides.")
    return _predict(args, images, overrides)


def _predict(args: argparse.Namespace, images: Sequence[str], overrides: Sequence[str]) -> int:
    if args.model is not None:
        return _predict_exported(args, images, overrides)
    if args.backend is not None:
        raise ConfigError(f"--backend {args.backend} runs exported models: name one with --model.")
    published = _chosen(args)  # before anything heavy is imported
    if args.score == BEST_SCORES and published is None and (args.config or args.weights):
        raise ConfigError(_NO_BEST)
    from d2tiny import model_zoo
    from d2tiny.inference import predict_scenes
    from d2tiny.inference.scores import scores_text
    from d2tiny.utils.compiled import COMPILING
    from d2tiny.utils.logs import messages_shown

    # Refuses wrong values before a model is built.
    settings = _run_settings(args, _name(args, published), _scores(args, published))
    register_given(args)
    keep_freed_memory()
    weights = args.weights
    if args.config is None and weights is None:
        published, weights = _fitting(args, images, settings.read)
    cfg = model_zoo.get_cfg(args.config, weights, overrides, args.device, place=args.weights_from)
    if published is not None:
        print(_introduction(published))
        settings = replace(settings, model=published.name, score=_scores(args, published))
        if args.score == BEST_SCORES:
            print(f"Lowest scores: {scores_text(settings.score)}.")
    with messages_shown("d2tiny.inference", COMPILING):  # which bands, values, overlap
        summary = predict_scenes(cfg, images, args.output, settings)
    _tell(summary, args)
    return int(bool(summary.failed))


def _predict_exported(args: argparse.Namespace, images: Sequence[str], overrides: Sequence[str]) -> int:
    """Predict with an exported model; neither PyTorch nor Detectron2 is imported."""
    _refuse_beside_model(args, overrides)
    if args.score == BEST_SCORES:
        raise ConfigError(_NO_BEST)
    from d2tiny.inference import TiledPredictor, predict_scenes
    from d2tiny.utils.compiled import COMPILING
    from d2tiny.utils.logs import messages_shown

    settings = _run_settings(args, Path(args.model).name, args.score)
    tiles = settings.tiles
    with messages_shown("d2tiny.inference", COMPILING):  # which bands, values, overlap
        predictor = TiledPredictor.from_export(
            args.model, args.tile, tiles.overlap, batch=tiles.batch, score=args.score, backend=args.backend
        )
        print(_model_introduction(predictor.model))
        summary = predict_scenes(predictor, images, args.output, settings)
    _tell(summary, args)
    return int(bool(summary.failed))


def _refuse_beside_model(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Raise if there are options that an exported model cannot have.

    Raises:
        ConfigError: there are; says why.
    """
    given = {
        "--config": args.config,
        "--weights": args.weights,
        "--weights-from": args.weights_from,
        "--register": args.register,
        "--bf16": args.bf16,
        "--tta": args.tta,
        "--device": args.device != "auto",
        "--ray": args.ray,
        f"'{overrides[0]}'" if overrides else "": overrides,
    }
    if wrong := [option for option, value in given.items() if value]:
        raise ConfigError(
            f"--model {args.model}: leave out {', '.join(wrong)}. An exported model has its weights, classes and "
            "precision in it and runs on the processor; d2tiny export makes another one, --shard spreads the work."
        )


def _model_introduction(model: ExportedModel) -> str:
    """Return which model is used, what it knows, and what runs it."""
    about = model.metadata
    return (
        f"Model: {model.path} ({about.title}), config {about.config}, {about.precision} by {model.backend}.\n"
        f"Classes: {', '.join(about.classes)}."
    )


def _run_settings(args: argparse.Namespace, model: str, score: Scores) -> RunSettings:
    """Return the settings that the options tell.

    Args:
        args: the options.
        model: its name, for the results.
        score: the lowest scores.

    Raises:
        ConfigError: one is outside its range.
    """
    from d2tiny.inference import OutputSettings, ReadSettings, RunSettings, TileSettings
    from d2tiny.inference.pixels import parse_bands

    if args.overlap != "auto" and not args.overlap.isdecimal():
        raise ConfigError(f"--overlap {args.overlap} must be auto or a number of px.")
    overlap = args.overlap if args.overlap == "auto" else int(args.overlap)
    return RunSettings(
        tiles=TileSettings(800 if args.tile is None else args.tile, overlap, args.batch),
        read=ReadSettings(args.stretch, parse_bands(args.bands) if args.bands else None, args.gsd, args.resize),
        outputs=OutputSettings(tuple(args.format) if args.format else None, not args.no_pictures, args.page),
        score=score,
        bf16=args.bf16,
        tta=args.tta,
        aoi=args.aoi,
        resume=args.resume,
        shard=args.shard,
        ray=args.ray,
        device=args.device,
        model=model,
    )


def _scores(args: argparse.Namespace, published: PublishedWeights | None) -> Scores:
    """Return the lowest scores that the options tell; the usual one while it is not known which weights are best.

    Raises:
        ConfigError: the weights do not say.
    """
    if args.score != BEST_SCORES:
        score: Scores = args.score
        return score
    if published is None:
        return SCORE
    best = published.best_scores
    if len(best) < len(published.classes):
        raise ConfigError(f"--score {BEST_SCORES}: they were not measured for {published.name}. Name a score.")
    return best


def _name(args: argparse.Namespace, published: PublishedWeights | None) -> str:
    """Return what results call the model: its weights, because one config has many."""
    if published is not None:
        return published.name
    if not args.weights:
        return str(args.config or "")
    # The file and its folder: results are passed on, and the whole path is nobody's business.
    path = PurePosixPath(urlsplit(args.weights).path) if "://" in args.weights else Path(args.weights).resolve()
    return "/".join(path.parts[-2:])


def _tell(summary: RunSummary, args: argparse.Namespace) -> None:
    """Print what was done, and where it is."""
    rate = f", {summary.tiles / summary.seconds:.1f} tiles/s" if summary.tiles and summary.seconds else ""
    nothing_left = args.resume and not summary.tiles and not summary.failed
    if args.shard is not None:
        number, count = args.shard
        did = "all done before" if nothing_left else f"{summary.tiles} tiles{rate}"
        print(f"Shard {number} of {count}: {did}. When all are done: d2tiny merge {args.output}")
        for message in summary.failed:
            print(f"error: {message}", file=sys.stderr)
        return
    took = ", all found before" if nothing_left else f", {summary.seconds:.1f} s{rate}"
    tell_results(summary, args.output, took)


def tell_results(summary: RunSummary, output: Path, more: str = "") -> None:
    """Print how much was found, where it is, and what failed.

    Args:
        summary: of the run.
        output: its folder.
        more: is added to the first line.
    """
    scenes, objects = (
        f"{n} {word}{'s' * (n != 1)}" for n, word in ((summary.scenes, "scene"), (summary.objects, "object"))
    )
    print(f"{scenes}, {objects}{more}.")
    print(f"Pictures, maps and detections.json: {output.resolve()}")
    pages = sorted(output.glob("*.html"))
    if summary.scenes == len(pages) == 1:
        print(f"To zoom into: {pages[0].resolve()}")
    for message in summary.failed:
        print(f"error: {message}", file=sys.stderr)


def _chosen(args: argparse.Namespace) -> PublishedWeights | None:
    """Return the published weights that the options name or leave out, or None where they name a file.

    Raises:
        ConfigError: no config is named, or one without published weights; says what to name.
        CheckpointError: there is no such file.
    """
    from d2tiny.config.published import config_beside, find_published, offers

    found = find_published(args.config, args.weights, args.weights_from)
    if found is not None:
        return found
    if args.config is None and (beside := config_beside(args.weights)) is not None:
        args.config = str(beside)
        return None
    offered = offers(args.weights_from)
    if args.weights is None:
        what = f"No weights are published for {args.config}" if args.config else "No detector is named"
        option = "--weights FILE" if args.config else "--config NAME --weights FILE"
        raise ConfigError(
            f"{what}: give {option}, for example the model_final.pth of a training (d2tiny train). {offered}".rstrip()
        )
    if "://" not in args.weights and not Path(args.weights).exists():
        raise CheckpointError(f"--weights {args.weights}: no such file. {offered}".rstrip())
    if args.config is None:
        raise ConfigError(
            f"--weights {args.weights}: name the config that they are of with --config. {offered}".rstrip()
        )
    return None


def _fitting(
    args: argparse.Namespace, images: Sequence[str], read: ReadSettings
) -> tuple[PublishedWeights | None, str | None]:
    """Return the default weights for grey or colour images, and what names them; says which was taken and why."""
    from d2tiny.config.published import find_published
    from d2tiny.inference import collect_scenes
    from d2tiny.inference.choice import fitting_weights
    from d2tiny.utils.published import known_weights

    found, kind = fitting_weights(collect_scenes(images), args.weights_from, read)
    if found is None:
        return None, None
    others = [f"--weights {entry.name}" for entry in known_weights(args.weights_from) if entry.name != found.name]
    reasons = {"grey": "the images are grey", "colour": "the images are in colour"}
    why = reasons[kind] if kind and found.kind == kind else "it is the default"
    print(f"No detector is named; {found.name} is taken, as {why}. Others: {', '.join(others) or 'none'}.")
    return find_published(None, found.url, args.weights_from), found.url


def _introduction(weights: PublishedWeights) -> str:
    """Return which detector is used, what it knows, and for what images it was made."""
    score = weights.measured.metrics.get("AP50")
    measured = f", AP50 {score:.1f} on {weights.measured.dataset}" if score is not None else ""
    return (
        f"Detector: {weights.name} ({weights.title}), config {weights.config}{measured}.\n"
        f"Classes: {', '.join(weights.classes)}. Made for {weights.images}.\n"
        f"Weights: {weights.licence}, trained on {', '.join(source.name for source in weights.data)}.\n"
        f"Where it fails: {weights.card} in d2tiny's repository."
    )
