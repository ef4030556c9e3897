"""Freed memory is used again, not given back and asked for anew."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

# Blocks of 6 MB, four at a time and all freed again, as a layer's activations are: page faults of 20 rounds.
FAULTS = """
import resource, torch
from taskheads.backbone.allocating import keep_freed_blocks

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        blocks = [torch.ones(1_500_000) for _ in range(4)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
keep_freed_blocks()
faults()
print(first, faults())
"""


HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(HUGE.exists() and "[always]" in HUGE.read_text(), reason="pages are huge, and faults few")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_blocks_of_a_layer_cost_no_new_pages():
    found = subprocess.run(
        [sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True, timeout=120
    )
    before, after = map(int, found.stdout.split())
    assert before > 10_000  # else there is nothing to be gained, and the function may go
    assert after < before / 20
