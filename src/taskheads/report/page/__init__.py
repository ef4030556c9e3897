"""One page about a fitted model, which opens anywhere and asks nothing of the network."""

from __future__ import annotations

from taskheads.report.page.rendering import page

__all__ = ["page"]
