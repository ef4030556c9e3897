"""LoRA adapters merged by their factors: exact, whatever the variant, and loaded by PEFT."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from taskheads.errors import ConfigError, ModelError
from taskheads.merging.adapters import combined
from taskheads.merging.lora import Adapter, Factors
from taskheads.merging.merging import merge
from taskheads.merging.plan import Entry, Plan
from tests.heads.planted import generator, normal
from tests.merging.models import read, stored


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(12, 10), nn.Linear(10, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def adapter(folder: Path, seed: int, **options: object) -> Path:
    """An adapter that PEFT wrote, none of whose factors is zero."""
    settings = {"r": 3, "lora_alpha": 7, "target_modules": ["first", "second"]} | options
    model = get_peft_model(Net(), LoraConfig(**settings))  # type: ignore[arg-type]
    draw = generator(seed)
    for name, each in model.named_parameters():
        if "lora_" in name:
            each.data.copy_(torch.randn(each.shape, generator=draw) + ("magnitude" in name) * 3)
    model.save_pretrained(folder)
    return folder


def delta(folder: Path) -> dict[str, torch.Tensor]:
    """What PEFT adds to each map."""
    model = PeftModel.from_pretrained(Net(), folder)
    layers = {name: getattr(model.base_model.model, name) for name in ("first", "second")}
    return {
        name: layer.get_delta_weight("default").detach().double()
        for name, layer in layers.items()
        if hasattr(layer, "lora_A")
    }


def plan_of(paths: list[Path], **options: object) -> Plan:
    return Plan(models=tuple(Entry(path=path) for path in paths), **options)  # type: ignore[arg-type]


VARIANTS: list[dict] = [
    {},
    {"use_rslora": True},
    {"rank_pattern": {"second": 5}, "alpha_pattern": {"first": 2}},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=["plain", "rslora", "patterns"])
def test_one_adapter_of_weight_one_is_that_adapter(variant: dict, tmp_path: Path) -> None:
    one = adapter(tmp_path / "one", 1, **variant)
    merge(plan_of([one], method="task_arithmetic"), tmp_path / "out")
    for name, value in delta(tmp_path / "out").items():
        torch.testing.assert_close(value, delta(one)[name], rtol=1e-5, atol=1e-5)


def test_the_sum_is_exact_whatever_is_summed(tmp_path: Path) -> None:
    paths = [adapter(tmp_path / str(n), n, **variant) for n, variant in enumerate(VARIANTS)]
    paths.append(adapter(tmp_path / "partly", 9, target_modules=["second"]))
    weights = (0.5, -1.0, 2.0, 0.3)
    models = tuple(Entry(path=path, weight=w) for path, w in zip(paths, weights, strict=True))
    merge(Plan(method="task_arithmetic", options={"scale": 0.5}, models=models), tmp_path / "out")
    parts = [delta(path) for path in paths]
    for name, value in delta(tmp_path / "out").items():
        expected = sum(0.5 * w * part[name] for w, part in zip(weights, parts, strict=True) if name in part)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


def test_a_lower_rank_is_the_nearest_matrix_of_that_rank() -> None:
    draw = [
        (0.7, Factors(normal(40, 4, seed=s).double().numpy(), normal(4, 30, seed=s + 9).double().numpy()))
        for s in range(3)
    ]
    full = torch.tensor(sum(w * f.left @ f.right for w, f in draw))
    values = torch.linalg.svdvals(full)
    for rank in (1, 5, 11):
        found = combined(draw, rank)
        error = (full - torch.tensor(found.left @ found.right)).norm()
        assert found.left.shape == (40, rank)
        torch.testing.assert_close(error, values[rank:].norm(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "variant", [*VARIANTS, {"use_dora": True}], ids=["plain", "rslora", "patterns", "dora"]
)
def test_on_a_base_an_adapter_is_the_model_that_peft_makes_of_it(variant: dict, tmp_path: Path) -> None:
    base = stored(tmp_path / "base", {name: each.detach() for name, each in Net().named_parameters()})
    one = adapter(tmp_path / "one", 1, **variant)
    merge(plan_of([one], method="ties", options={"density": 1.0}, base=base), tmp_path / "out")
    whole = PeftModel.from_pretrained(Net(), one).merge_and_unload()
    for name, value in read(tmp_path / "out").items():
        torch.testing.assert_close(value, whole.get_parameter(name).detach(), rtol=1e-5, atol=1e-5)


def altered(folder: Path, **options: object) -> Path:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | options))
    return folder


def test_what_cannot_be_merged_is_refused_by_name(tmp_path: Path) -> None:
    one, dora = adapter(tmp_path / "one", 1), adapter(tmp_path / "dora", 2, use_dora=True)
    with pytest.raises(ConfigError, match=r"ties looks at single weights, .* name the base"):
        merge(plan_of([one], method="ties"), tmp_path / "out")
    with pytest.raises(
        ModelError, match="dora is DoRA, whose norms are those of whole weights: name the base"
    ):
        merge(plan_of([one, dora], method="linear"), tmp_path / "out")
    for options, says in (
        ({"bias": "all"}, "bias 'all' cannot be merged"),
        ({"lora_bias": True}, "lora_bias True cannot be merged"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' cannot"),
        ({"modules_to_save": ["second"]}, "modules_to_save .* cannot be merged"),
        ({"peft_type": "IA3"}, "is an adapter of IA3"),
    ):
        with pytest.raises(ModelError, match=says):
            Adapter(altered(adapter(tmp_path / "bad", 3), **options))
    other = altered(adapter(tmp_path / "other", 3), task_type="CAUSAL_LM")
    with pytest.raises(ModelError, match="differ in task_type: 'CAUSAL_LM' and None"):
        merge(plan_of([one, other], method="linear"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
