"""Docstrings as they are when the package is loaded: `task` and `flow` get the texts of their options then."""

from __future__ import annotations

import importlib
from typing import Any

import griffe


class Options(griffe.Extension):
    """Takes the docstrings of functions that fill in their options."""

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        """Replace a docstring with a place for options by the one that has them."""
        if func.docstring is not None and "{options}" in func.docstring.value:
            module = importlib.import_module(func.module.path)
            func.docstring.value = getattr(module, func.name).__doc__
