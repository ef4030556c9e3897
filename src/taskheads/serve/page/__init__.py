"""The playground: a page of a few files, which loads nothing from elsewhere."""

from __future__ import annotations

# By path, the file and its type.
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/drawing.js": ("drawing.js", "text/javascript; charset=utf-8"),
    "/element.js": ("element.js", "text/javascript; charset=utf-8"),
    "/leaning.js": ("leaning.js", "text/javascript; charset=utf-8"),
    "/page.svg": ("page.svg", "image/svg+xml"),
}
