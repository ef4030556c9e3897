"""The arithmetic of merging: rounded once, and the same bytes with compiled kernels and without."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from taskheads.errors import ModelError
from taskheads.merging import arithmetic, engine
from taskheads.merging.arithmetic import inner_products, narrowed, widened
from taskheads.merging.files.as_torch import as_stored
from tests.heads.planted import normal
from tests.merging.models import near, tensors
from tests.merging.test_engine import plan_of

needs_kernels = pytest.mark.skipif(arithmetic.kernels is None, reason="numba is not installed")


@pytest.fixture(params=["kernels", "numpy"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        monkeypatch.setattr(arithmetic, "kernels", None)
    elif arithmetic.kernels is None:
        pytest.skip("numba is not installed")


@pytest.mark.usefixtures("_either_way")
def test_every_bfloat16_is_what_torch_says() -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    stored = as_stored(every)
    with np.errstate(invalid="ignore"):  # signalling NaNs are among them
        found = widened(stored.raw, stored.dtype)
    assert np.array_equal(found, every.double().numpy(), equal_nan=True)
    finite = np.isfinite(found)
    assert np.array_equal(narrowed(found[finite], "BF16"), stored.raw[finite])


@pytest.mark.usefixtures("_either_way")
def test_float64_is_rounded_once() -> None:
    half = 1 + 2.0**-8  # half-way between two neighbours, of which 1 is even
    values = np.array([half, half + 2.0**-40, half - 2.0**-40, -half - 2.0**-40, 1 + 3 * 2.0**-8, 0.0, 1e39])
    found = torch.from_numpy(narrowed(values, "BF16").view(np.int16)).view(torch.bfloat16).tolist()
    up = 1 + 2.0**-7
    assert found == [1, up, 1, -up, 1 + 2.0**-6, 0, float("inf")]
    # Through float32, where the first three are one number, the second would be lost.
    assert torch.from_numpy(values).bfloat16()[1] == 1
    assert found[5] == 0
    tiny = 2.0**-133 * torch.tensor(
        [0.25, 0.5, 0.75, 1.5, -2.5, 2**7 - 0.3, 2**7 - 0.75], dtype=torch.float64
    )
    drawn = torch.cat([normal(4000).double() * 10 ** normal(4000, seed=1).double(), tiny])
    expected = drawn.bfloat16()
    again = narrowed(drawn.numpy(), "BF16").view(np.int16)
    assert torch.equal(torch.from_numpy(again).view(torch.bfloat16), expected)


@pytest.mark.usefixtures("_either_way")
def test_what_is_no_number_stays_none() -> None:
    """Whatever its bits: a carry must not make a number of it."""
    bits = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC00000], np.uint32)
    with np.errstate(invalid="ignore"):
        found = narrowed(bits.view(np.float32).astype(np.float64), "BF16")
    assert torch.from_numpy(found.view(np.int16)).view(torch.bfloat16).isnan().all()


@pytest.mark.usefixtures("_either_way")
def test_inner_products_are_those_of_fsum() -> None:
    vectors = [normal(5000, seed=seed).double().numpy() for seed in range(3)]
    found = inner_products([(each, "F64") for each in vectors])
    for a, first in enumerate(vectors):
        for b, second in enumerate(vectors):
            exact = math.fsum(first * second) if b <= a else 0.0
            assert found[a, b] == pytest.approx(exact, abs=1e-10)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    "method",
    ["linear", "task_arithmetic", "slerp", "model_stock", "ties", "dare", "dare_ties", "breadcrumbs"],
)
def test_kernels_change_no_byte(
    method: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tensors(0, dtype, {"layers.0.w": (290, 301), "norm": (5,)})
    plan = plan_of(tmp_path, base, [near(base, 1), near(base, 2)], method=method)
    plan = plan.model_copy(
        update={
            "models": tuple(
                e.model_copy(update={"weight": w}) for e, w in zip(plan.models, (0.3, 0.7), strict=True)
            )
        }
    )
    engine.run(plan, tmp_path / "compiled")
    monkeypatch.setattr(arithmetic, "kernels", None)
    engine.run(plan, tmp_path / "plain")
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("compiled", "plain"))
    assert one == other


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("method", ["linear", "ties", "dare", "dare_ties", "breadcrumbs"])
def test_what_is_no_finite_number_is_named(method: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base = tensors(0, dtype)
    bad = near(base, 1)
    bad["norm"][3] = float("nan")
    with pytest.raises(ModelError, match="m1: the tensor 'norm' holds an element that is no finite number"):
        engine.run(plan_of(tmp_path, base, [near(base, 2), bad], method=method), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_merge_too_large_for_its_type_is_named(tmp_path: Path) -> None:
    base = {"w": torch.zeros(3)}
    plan = plan_of(tmp_path, base, [{"w": torch.full((3,), 60_000.0)}], dtype="float16")
    plan = plan.model_copy(update={"method": "task_arithmetic", "options": {"scale": 2.0}})
    with pytest.raises(ModelError, match="merged tensor 'w' has elements too large for float16"):
        engine.run(plan, tmp_path / "out")
