#!/usr/bin/env python
"""Train a small detector and show what it finds (``make demo``); see ``--help``."""

from d2tiny.cli import quickstart_main

if __name__ == "__main__":
    raise SystemExit(quickstart_main())
