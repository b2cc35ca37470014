"""What the commands share: options of one name and meaning, types of arguments, exit codes.

Nothing heavy is imported here, so names that options offer as choices are repeated; a test compares them with what the
library knows.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from d2tiny.utils.errors import ConfigError, D2TinyError
from d2tiny.utils.stop import Stopped, raise_on_sigterm

__all__ = [
    "BEST_SCORES",
    "EXIT_CODES",
    "PROTOCOLS",
    "SCORE",
    "add_config_option",
    "add_device_option",
    "add_images_option",
    "add_output_option",
    "add_overrides",
    "add_protocol_options",
    "add_register_option",
    "add_score_option",
    "add_stretch_option",
    "add_weights_place_option",
    "areas",
    "comma_list",
    "disk_error",
    "guarded",
    "integers",
    "lowest_scores",
    "name_value",
    "numbers",
    "refuse_original",
    "register_given",
    "require_folder",
]

EXIT_CODES = """exit codes:
  0    all went well
  1    errors in the data that were checked, labels without a usable object, or images that could not be predicted
  2    wrong arguments, files or configs; the message says what to do
  130  interrupted by Ctrl-C; a training has saved its state, and so have predictions
  143  ended by SIGTERM, likewise"""
SCORE = 0.3
BEST_SCORES = "best"
PROTOCOLS = ("aitod", "coco", "visdrone", "visdrone_unique", "dota_hbb", "dota_task2", "dior", "soda", "scalebridge")


def guarded(action: Callable[[], int | None], *, output: Path | None = None) -> int:
    """Run an action and return its exit code; errors that the user can mend are printed without a traceback.

    Args:
        action: what to run.
        output: where it writes, for errors of the disk that name no file.
    """
    try:
        with raise_on_sigterm():
            code = action()
        sys.stdout.flush()
        return code or 0
    except BrokenPipeError:  # `d2tiny zoo | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (D2TinyError, ImportError) as err:  # also a missing extra
        print(f"\nerror: {_text_of(err)}", file=sys.stderr)
        return 2
    except OSError as err:
        print(f"\nerror: {disk_error(err, output)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as err:
        print("\nstopped", file=sys.stderr)
        return err.exit_code if isinstance(err, Stopped) else 130


_ADVICE = {
    errno.ENOSPC: "free space there, or choose another folder",
    errno.EDQUOT: "free space there, or choose another folder",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "choose a folder that can be written to, or ask for the right",
    errno.EPERM: "choose a folder that can be written to, or ask for the right",
}


def disk_error(err: OSError, output: Path | None) -> str:
    """Return a sentence about an error of the disk: where, what, and what to do."""
    place = err.filename or output or ""
    text = f"{os.fspath(place) if not isinstance(place, int) else output}: " if place else ""
    advice = f"; {_ADVICE[err.errno]}" if err.errno in _ADVICE else ""
    return f"{text}{err.strerror or err}{advice}."


# --- options -----------------------------------------------------------------------------------------------------


def add_config_option(parser: argparse.ArgumentParser, *names: str, required: bool = True, what: str = "") -> None:
    """Add ``--config``, or the same option under other names."""
    help_text = what or "lazy config (.py), native YAML, or zoo name"
    parser.add_argument(*(names or ("--config",)), dest="config", required=required, metavar="X", help=help_text)


def _text_of(error: BaseException) -> str:
    """Return what an error says; of a missing package, which extra has it."""
    if not isinstance(error, ImportError):
        return str(error)
    from d2tiny.utils.env import missing_package

    return missing_package(error)


def add_output_option(
    parser: argparse.ArgumentParser, what: str, *, metavar: str = "DIR", default: Path | None = None
) -> None:
    """Add ``--output``; it is required where there is no default."""
    parser.add_argument(
        "--output", "-o", type=Path, required=default is None, default=default, metavar=metavar, help=what
    )


def add_images_option(parser: argparse.ArgumentParser, what: str, *, required: bool = False) -> None:
    """Add ``--images``, a folder."""
    parser.add_argument("--images", type=Path, required=required, metavar="DIR", help=what)


def add_score_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--score``."""
    parser.add_argument(
        "--score",
        type=lowest_scores,
        default=SCORE,
        metavar="S",
        help="lowest score shown, or by class, such as ship=0.5,0.3 (0.3 for all others); "
        f"'{BEST_SCORES}': those with the fewest errors on the validation images of published weights "
        "(default %(default)s)",
    )


def add_stretch_option(parser: argparse._ActionsContainer, default: str = "refuse them") -> None:
    """Add ``--stretch``; the value is a text, which the reader of images checks; ``default`` is told in the help."""
    parser.add_argument(
        "--stretch",
        type=stretch,
        metavar="MIN,MAX",
        help="for images that are not 8-bit: values that become black and white, such as 0,4095, or percentiles, such "
        f"as 2%%,98%% (default: {default})",
    )


def add_weights_place_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--weights-from``."""
    parser.add_argument(
        "--weights-from",
        default="",
        metavar="PLACE",
        help="folder or URL with a manifest.json of published weights (default: $D2TINY_WEIGHTS, then d2tiny's own)",
    )


def add_device_option(parser: argparse.ArgumentParser, default: str | None = "auto") -> None:
    """Add ``--device``."""
    parser.add_argument("--device", default=default, metavar="D", help="auto (default), cpu or cuda")


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add ``key=value`` overrides of the config, after all other arguments."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config overrides")


def add_register_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--register NAME JSON IMAGES`` for users' own data."""
    parser.add_argument(
        "--register",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "JSON", "IMAGES"),
        help="register your own COCO json under NAME; may be given several times",
    )


def register_given(args: argparse.Namespace) -> None:
    """Register what ``--register`` names.

    Raises:
        DatasetError: a name is taken by other files.
    """
    from d2tiny.data.datasets import register_coco_like

    for name, json_file, images in args.register:
        register_coco_like(name, json_file, images)


def add_protocol_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--protocol`` and ``--areas``."""
    parser.add_argument("--protocol", choices=PROTOCOLS, default="aitod", help="default: aitod")
    parser.add_argument("--areas", type=areas, metavar="N=LOW:HIGH,...", help="own area bins in px²")


# --- types and checks of arguments -------------------------------------------------------------------------------


def lowest_scores(text: str) -> float | dict[str, float] | str:
    """Read ``0.3``, ``ship=0.5,0.3`` (by class, and that of all others, 0.3 where it is left out) or ``best``."""
    if text == BEST_SCORES:
        return text
    scores: dict[str, float] = {}
    for word in text.split(","):
        name, _, value = word.rpartition("=")
        name = name.strip() or "*"
        if name in scores:
            raise argparse.ArgumentTypeError(f"{text!r} has two scores for {'all classes' if name == '*' else name}")
        try:
            scores[name] = float(value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{word!r} must be a number, or look like ship=0.5") from None
    return scores["*"] if scores.keys() == {"*"} else {"*": SCORE, **scores}


def name_value(text: str) -> tuple[str, str]:
    """Read ``NAME=VALUE``."""
    name, equal, value = text.partition("=")
    if not equal or not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} must look like NAME=VALUE")
    return name.strip(), value.strip()


def areas(text: str) -> dict[str, tuple[float, float]]:
    """Read area bins ``vt=0:64,t=64:256`` in px²; an open end is infinite."""
    from d2tiny.evaluation.protocols import INFINITE

    result: dict[str, tuple[float, float]] = {}
    for part in text.split(","):
        label, bounds = name_value(part)
        low, colon, high = bounds.partition(":")
        try:
            if not colon:
                raise ValueError("no colon")
            if label in result:
                raise argparse.ArgumentTypeError(f"area bin {label!r} is given twice")
            result[label] = (float(low or 0), float(high or INFINITE))
        except ValueError as err:
            raise argparse.ArgumentTypeError(f"{part!r} must look like NAME=LOW:HIGH, in px²") from err
    return result


def stretch(text: str) -> str:
    """Check the ``min,max`` of ``--stretch``, two values or two percentiles."""
    from d2tiny.data.loading.stretch import make_stretch

    try:
        make_stretch(text)
    except ConfigError as err:
        raise argparse.ArgumentTypeError(str(err)) from err
    return text


def comma_list(text: str) -> list[str]:
    """Read words with commas between."""
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str) -> list[float]:
    """Read numbers with commas between."""
    try:
        return [float(word) for word in comma_list(text)]
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"{text!r} must be numbers with commas between") from err


def integers(text: str) -> list[int]:
    """Read whole numbers with commas between."""
    values = numbers(text)
    if not all(v.is_integer() for v in values):
        raise argparse.ArgumentTypeError(f"{text!r} must be whole numbers")
    return [int(v) for v in values]


def refuse_original(option: str, path: Path | None, source: Path) -> None:
    """Raise if an output is the file that is read.

    Raises:
        ConfigError: it is.
    """
    if path is not None and path.resolve() == source.resolve():
        raise ConfigError(f"{option} {path} is the original, which is never touched; name another file.")


def require_folder(path: Path | None) -> None:
    """Raise if ``--images`` was given and is no folder.

    Raises:
        ConfigError: there is no such folder.
    """
    if path is not None and not path.is_dir():
        raise ConfigError(f"--images {path}: no such folder.")
