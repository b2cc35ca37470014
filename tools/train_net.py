#!/usr/bin/env python
"""Train or evaluate a config; see ``--help``."""

from d2tiny.cli.train import train_main

if __name__ == "__main__":
    raise SystemExit(train_main())
