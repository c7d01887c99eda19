"""`capamesh version`: say what is installed and what runs. Arguments and printing only."""

from __future__ import annotations

import platform
from importlib.metadata import version as package_version

from capamesh.cli import options
from capamesh.cli.help_texts import examples
from capamesh.cli.printing import print_json
from capamesh.protocol import implementation

EPILOG = examples(
    "capamesh version",
    "capamesh version --json",
    "CAPAMESH_PURE=1 capamesh version   what runs where the compiled modules are left out",
)
_SHOWN = {"compiled": "compiled", "pure": "pure Python"}


def version(as_json: options.Json = False) -> None:
    """Print the version, and whether the hot modules run compiled or as pure Python.

    Both do the same; compiled, a router takes half of the CPU time for a request.
    """
    fields = {
        "version": package_version("capamesh"),
        "implementation": implementation.RUNNING,
        "reason": implementation.REASON,
        "python": platform.python_version(),
    }
    if as_json:
        print_json(fields)
    else:
        running = f"{_SHOWN[implementation.RUNNING]}: {implementation.REASON}"
        print(f"capamesh {fields['version']} ({running}; Python {fields['python']})")
