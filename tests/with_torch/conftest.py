"""Tests that need the extra ``torch``: without it this folder is left out."""

from __future__ import annotations

from importlib.util import find_spec

if any(find_spec(name) is None for name in ("torch", "diffusers", "accelerate")):
    collect_ignore_glob = ["*"]
