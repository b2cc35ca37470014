"""``python -m d2tiny``: the ``d2tiny`` command."""

from d2tiny.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
