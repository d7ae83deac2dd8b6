"""``python -m gpubench`` is the same as ``gpubench``."""

from gpubench.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
