"""`python -m capamesh`: the command, where its script is not on the path. IO: prints, exits."""

from __future__ import annotations

from capamesh.cli.__main__ import main

if __name__ == "__main__":
    main()
