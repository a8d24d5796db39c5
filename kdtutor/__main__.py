"""`kdtutor` and `python -m kdtutor`. The doctor comes even when the rest cannot be imported."""

import sys


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="replace")
    if sys.argv[1:] == ["doctor"]:
        from .doctor import main as run
    else:
        from .cli import main as run
    run()


if __name__ == "__main__":
    main()
