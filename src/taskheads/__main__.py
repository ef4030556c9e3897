"""`python -m taskheads` is the command `taskheads`."""

from taskheads.cli import main

if __name__ == "__main__":
    main()
