"""Log output of a run."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

__all__ = ["setup_loggers"]

_OURS = "_d2tiny_handler"


def setup_loggers(output: Path, *, rank: int = 0) -> None:
    """Send the logs of d2tiny, detectron2 and fvcore to the terminal and to ``log.txt``.

    Calling it again moves the output; lines never come twice. Other processes than the first write to
    ``log.txt.rank<N>`` only.
    """
    handlers: list[logging.Handler] = [
        logging.FileHandler(output / ("log.txt" if rank == 0 else f"log.txt.rank{rank}"))
    ]
    if rank == 0:
        handlers.append(logging.StreamHandler(sys.stdout))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("[%(asctime)s %(name)s] %(levelname)s: %(message)s", "%m/%d %H:%M:%S"))
        setattr(handler, _OURS, True)
    for name in ("d2tiny", "detectron2", "fvcore"):
        logger = logging.getLogger(name)
        for old in [h for h in logger.handlers if getattr(h, _OURS, False)]:
            logger.removeHandler(old)
            old.close()
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
        for handler in handlers:
            logger.addHandler(handler)
