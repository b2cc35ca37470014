#!/usr/bin/env python
"""Detect objects in image files; see ``--help``."""

from d2tiny.cli.predict import demo_main

if __name__ == "__main__":
    raise SystemExit(demo_main())
