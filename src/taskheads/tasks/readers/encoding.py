"""The text of a file: UTF-8 or a clear error."""

from __future__ import annotations

from pathlib import Path

from taskheads.errors import DataError


def read_utf8(path: Path) -> str:
    """Read a whole file as UTF-8, with or without a byte order mark.

    Nothing is guessed and nothing is replaced: a file in another encoding would otherwise train on
    broken characters without a word. Line ends are left as they are.

    Raises
    ------
    DataError: the file is empty or is not UTF-8 (the message names the line and the byte).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from error
    if not data.strip():
        raise DataError("the file is empty", file=path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Counted in the original bytes: the decoder may have dropped a byte order mark before counting.
        start = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            problem = "the file is UTF-16; save it as UTF-8"
        else:
            problem = f"byte 0x{data[start]:02x} at offset {start} is not UTF-8; save the file as UTF-8"
        raise DataError(problem, file=path, row=data.count(b"\n", 0, start) + 1) from None
