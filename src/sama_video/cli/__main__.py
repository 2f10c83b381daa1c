"""`python -m sama_video.cli` is `sama`."""

from .app import main

if __name__ == "__main__":
    main()
