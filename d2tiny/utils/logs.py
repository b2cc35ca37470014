"""Logging of a run to the terminal and to a file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

__all__ = ["messages_shown", "setup_loggers"]

# Attribute that marks handlers of this module, so that a second call replaces them.
_HANDLER_MARK = "_d2tiny_handler"


def setup_loggers(output: Path, *, rank: int = 0) -> None:
    """Send the logs of d2tiny, detectron2 and fvcore to the terminal and to ``log.txt``.

    A second call replaces the handlers of the first, so that no line is logged twice. Processes other than the main one
    write only to ``log.txt.rank<N>``.

    Args:
        output: existing folder of the log file.
        rank: rank of this process.
    """
    handlers: list[logging.Handler] = [
        logging.FileHandler(output / ("log.txt" if rank == 0 else f"log.txt.rank{rank}"))
    ]
    if rank == 0:
        handlers.append(logging.StreamHandler(sys.stdout))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("[%(asctime)s %(name)s] %(levelname)s: %(message)s", "%m/%d %H:%M:%S"))
        setattr(handler, _HANDLER_MARK, True)
    for name in ("d2tiny", "detectron2", "fvcore"):
        logger = logging.getLogger(name)
        for old in [h for h in logger.handlers if getattr(h, _HANDLER_MARK, False)]:
            logger.removeHandler(old)
            old.close()
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
        for handler in handlers:
            logger.addHandler(handler)


class _AboveBar(logging.Handler):
    """Prints to stderr above a progress bar; what is told several times in a row, once."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if text != self.last:
            tqdm.write(text, file=sys.stderr)
        self.last = text


@contextmanager
def messages_shown(*names: str) -> Iterator[None]:
    """Print what loggers tell, from INFO on, to stderr inside a ``with`` block."""
    loggers, handler = [logging.getLogger(name) for name in names], _AboveBar()
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
