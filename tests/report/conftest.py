"""What the tests of pages may ask for."""

from __future__ import annotations

from tests.serve.conftest import window

__all__ = ["window"]
