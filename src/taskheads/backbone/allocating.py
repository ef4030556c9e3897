"""Memory of freed tensors stays with the process for the next ones."""

from __future__ import annotations

import torch

# What glibc keeps at most: DEFAULT_MMAP_THRESHOLD_MAX, less room for the block's own head and alignment.
_LARGEST_KEPT = (32 << 20) - (8 << 10)


def keep_freed_blocks() -> None:
    """Let the C library hand out freed blocks of up to 32 MB again, in place of new pages.

    A new page costs a fault when it is first written to: some per cent of a pass, where every layer allocates
    and frees activations of a few MB. glibc returns a freed block to the system when it is larger than any
    that was freed before, and the end of a heap when that is twice as large; both bounds grow with the
    largest block freed (mallopt(3), M_MMAP_THRESHOLD), so that one block of the largest size, never written
    to, raises them for good, to 32 and 64 MB a heap. Nothing happens with another C library.
    """
    torch.empty(_LARGEST_KEPT, dtype=torch.uint8)
