"""Versions of the packages that a run was trained with."""

from __future__ import annotations

import importlib.metadata
import platform

from softlabels.version import __version__

PACKAGES = ("torch", "numpy", "safetensors", "blake3", "transformers", "tokenizers")
"""Packages whose code may change the result of a run."""


def versions() -> dict[str, str]:
    """Return versions by name: softlabels, Python, and the packages that are there.

    Example:
        >>> sorted(versions())[:3]
        ['blake3', 'numpy', 'python']
    """
    installed = {"softlabels": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
