"""PEFT's files give the outputs that PEFT gives with them, and ours give PEFT the outputs that we give."""

from __future__ import annotations

import copy
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.edit import Edit, made
from taskheads.edits.edited import Edited
from taskheads.edits.files.peft_reading import CONFIG, WEIGHTS, read_adapter
from taskheads.edits.files.peft_writing import write_adapter
from taskheads.errors import ConfigError
from tests.backbone.models import CONFIGS, tiny
from tests.backbone.test_sites import rows
from tests.edits.planted import stirred

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")

LORA: dict[str, dict[str, Any]] = {
    "default": {},
    "suffixes": {"target_modules": ["query", "output.dense", "q_proj", "down_proj", "c_proj"]},
    "all": {"target_modules": "all-linear", "lora_alpha": 5},
    "stabilised": {"use_rslora": True, "r": 4},
    "decomposed": {"use_dora": True, "target_modules": "all-linear"},
    "decomposed, stabilised": {"use_dora": True, "use_rslora": True, "r": 4},
    "layers": {"layers_to_transform": [0, 2], "r": 2},
    "patterns": {
        "target_modules": "all-linear",
        "r": 3,
        "lora_alpha": 6,
        "rank_pattern": {"query": 5, "self_attn.q_proj": 5, ".*2.*c_attn": 1},
        "alpha_pattern": {"query": 7, "(k|q)_proj": 7, "c_fc": 1},
    },
}
KINDS = {
    **{f"lora, {name}": ("LoraConfig", options) for name, options in LORA.items()},
    "ia3": ("IA3Config", {}),
    "prompt": ("PromptTuningConfig", {"num_virtual_tokens": 3}),
    "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 3}),
    "prefix, projected": ("PrefixTuningConfig", {"num_virtual_tokens": 2, "prefix_projection": True}),
}
ARCHITECTURES = ["bert", "llama", "gpt2"]


def theirs(kind: str, model: torch.nn.Module, task_type: str = "FEATURE_EXTRACTION") -> Any:
    """PEFT's model of this kind on `model`, its weights stirred."""
    name, options = KINDS[kind]
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(model, getattr(peft, name)(task_type=task_type, **options)).eval()
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return wrapped


@torch.inference_mode()
def hidden(wrapped: Any) -> torch.Tensor:
    """PEFT's last hidden state of the rows' own tokens, end to end."""
    found = []
    for row in rows():
        ids = torch.from_numpy(row.ids)[None]
        output = wrapped(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        found.append(output[0, -len(row) :])
    return torch.cat(found)


@torch.inference_mode()
def ours(backbone: Backbone, edit: Edit) -> torch.Tensor:
    return Edited(backbone, {"task": edit}, "task").run(RaggedBatch(rows()))["output"]


def close(mine: torch.Tensor, peers: torch.Tensor) -> None:
    torch.testing.assert_close(mine, peers, rtol=1e-5, atol=1e-5)


def evidence(kind: str, *more: str) -> Any:
    slug = {"ia3": "ia3_maps", "prompt": "prompt_tuning"}.get(kind, kind.partition(",")[0])
    slug = "dora" if "decomposed" in kind else "rslora" if "stabilised" in kind else slug
    return pytest.param(kind, *more, marks=pytest.mark.method(slug))


@pytest.mark.method("ia3_maps")  # under some of the kinds; the others say which they are
@pytest.mark.parametrize(
    ("kind", "architecture"),
    [
        evidence(kind, architecture)
        for kind in KINDS
        for architecture in ARCHITECTURES
        # PEFT tells layers by a name that stands before them: in a task model, see below.
        if kind != "lora, layers" or architecture == "bert"
    ],
)
def test_what_peft_wrote_does_here_what_it_does_there(kind: str, architecture: str, tmp_path: Path) -> None:
    plain = tiny(copy.deepcopy(CONFIGS[architecture]))
    backbone = Backbone(copy.deepcopy(plain))
    wrapped = theirs(kind, plain)
    wrapped.save_pretrained(tmp_path)
    edit = read_adapter(tmp_path, backbone, "task").edit
    found = ours(backbone, edit)
    close(found, hidden(wrapped))
    assert (found - backbone.run(RaggedBatch(rows()))["output"]).abs().max() > 1e-3
    # As a saved model makes it again: from its options and weights.
    again = made(edit.method, backbone, ["task"], json.loads(json.dumps(edit.options)))
    again.load_state_dict(edit.state_dict())
    assert torch.equal(ours(backbone, again), found)


OURS: dict[str, dict[str, Any]] = {
    "lora": {"targets": "all", "rank": 3, "alpha": 5.0},
    "rslora": {"layers": [1]},
    "lora_plus": {"targets": "mlp"},
    "dora": {"targets": "all", "rank": 3},
    "ia3": {"layers": [0, 2]},
    "ia3_maps": {"inputs": "output"},
    "prompt_tuning": {"length": 3},
    "prefix": {"length": 3},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", [pytest.param(each, marks=pytest.mark.method(each)) for each in OURS])
def test_what_is_written_here_does_there_what_it_does_here(
    method: str, architecture: str, tmp_path: Path
) -> None:
    plain = tiny(copy.deepcopy(CONFIGS[architecture]))
    backbone = Backbone(copy.deepcopy(plain))
    options = OURS[method]
    edit = stirred(made(method, backbone, ["task"], options), by=0.1)
    write_adapter(edit, backbone, tmp_path)
    expected = ours(backbone, edit)
    close(hidden(peft.PeftModel.from_pretrained(plain, tmp_path).eval()), expected)
    close(ours(backbone, read_adapter(tmp_path, backbone, "task").edit), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, WEIGHTS]


@pytest.mark.parametrize("kind", ["lora, all", "ia3", "prompt", "prefix"])
def test_a_task_models_adapter_and_its_head(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = hf.BertForSequenceClassification(copy.deepcopy(CONFIGS["bert"])).eval()
    plain = copy.deepcopy(model)
    backbone = Backbone(copy.deepcopy(model.bert))
    theirs(kind, model, "SEQ_CLS").save_pretrained(tmp_path / "theirs")
    found = read_adapter(tmp_path / "theirs", backbone, "task")
    pooler = {name for name in found.beside if name.startswith("bert.pooler.dense.lora")}
    assert found.beside.keys() - pooler == {"classifier.weight", "classifier.bias"}
    assert len(pooler) == (2 if kind == "lora, all" else 0)
    # Written again it is the same to PEFT: pooler, head and all.
    write_adapter(found.edit, backbone, tmp_path / "ours", task_type="SEQ_CLS", beside=found.beside)
    ids = torch.from_numpy(rows()[0].ids)[None]
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.inference_mode():
        before, after = (
            peft.PeftModel.from_pretrained(copy.deepcopy(plain), tmp_path / whose).eval()(**given).logits
            for whose in ("theirs", "ours")
        )
        close(after, before)
        assert (before - plain(**given).logits).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["lora, all", "lora, layers", "ia3"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_a_language_models_adapter(kind: str, architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[architecture])).eval()
    backbone, head = Backbone(copy.deepcopy(model.base_model)), model.get_output_embeddings()
    wrapped = theirs(kind, model, "CAUSAL_LM")
    wrapped.save_pretrained(tmp_path)
    found = read_adapter(tmp_path, backbone, "task")
    assert not found.beside
    ids = torch.from_numpy(rows()[0].ids)[None]
    with torch.inference_mode():
        logits = wrapped(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
        close(head(ours(backbone, found.edit)[: len(ids[0])]), logits)


@pytest.mark.parametrize(
    ("kind", "changed", "said"),
    [
        ("lora, default", {"peft_type": "VERA"}, "peft_type 'VERA' is not supported"),
        ("lora, default", {"use_qalora": True}, "use_qalora True is not supported"),
        ("lora, default", {"bias": "all"}, "bias 'all' is not supported"),
        ("lora, default", {"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' is not supported"),
        ("lora, default", {"layer_replication": [[0, 2]]}, "layer_replication [[0, 2]] is not supported"),
        ("lora, default", {"of_next_year": 3}, "of_next_year 3 is not supported"),
        ("prompt", {"num_transformer_submodules": 2}, "num_transformer_submodules 2 is not supported"),
    ],
)
def test_what_is_not_supported_is_named(kind: str, changed: dict, said: str, tmp_path: Path) -> None:
    plain = tiny(copy.deepcopy(CONFIGS["bert"]))
    theirs(kind, plain).save_pretrained(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | changed))
    with pytest.raises(ConfigError, match=re.escape(said)):
        read_adapter(tmp_path, Backbone(tiny(copy.deepcopy(CONFIGS["bert"]))), "task")


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    backbone = Backbone(tiny(copy.deepcopy(CONFIGS["bert"])))
    with pytest.raises(ConfigError, match="no adapter folder"):
        read_adapter(tmp_path, backbone, "task")
    plain = tiny(copy.deepcopy(CONFIGS["bert"]))
    theirs("lora, default", plain).save_pretrained(tmp_path)
    whole = load_file(tmp_path / WEIGHTS)
    one = "base_model.model.encoder.layer.1.attention.self.query.lora_B.weight"
    for altered, said in (
        ({name: each for name, each in whole.items() if name != one}, "lacks 'encoder.layer.1"),
        (whole | {one: torch.zeros(31, 8)}, r"query.lora_B.weight' has shape \(31, 8\).* needs \(32, 8\)"),
        (whole | {"base_model.model.embeddings.lora_embedding_A": torch.zeros(2, 2)}, "lora_embedding_A"),
        (whole | {"base_model.model.embeddings.LayerNorm.weight": torch.zeros(32)}, "modules_to_save"),
        (whole | {"base_model.model.lm.lora_A.weight": torch.zeros(2, 2)}, "'lm' is no linear map"),
        ({"base_model.model.classifier.weight": torch.zeros(2, 2)}, "adapts no linear map"),
    ):
        save_file(altered, tmp_path / WEIGHTS)
        with pytest.raises(ConfigError, match=said):
            read_adapter(tmp_path, backbone, "task")
    (tmp_path / WEIGHTS).write_bytes(b"cut off")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_adapter(tmp_path, backbone, "task")
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(ConfigError, match=f"no {WEIGHTS}"):
        read_adapter(tmp_path, backbone, "task")


def test_two_towers_are_not_one(tmp_path: Path) -> None:
    plain = tiny(copy.deepcopy(CONFIGS["bert"]))
    backbone = Backbone(copy.deepcopy(plain))
    theirs("lora, default", plain).save_pretrained(tmp_path)
    whole = load_file(tmp_path / WEIGHTS)
    towers = {
        name.replace("model.encoder", f"model.{tower}.encoder"): each.clone()
        for tower in ("text", "vision")
        for name, each in whole.items()
    }
    save_file(towers, tmp_path / WEIGHTS)
    with pytest.raises(ConfigError, match="more than one model: text, vision"):
        read_adapter(tmp_path, backbone, "task")


def test_what_peft_has_no_format_for_is_not_written(tmp_path: Path) -> None:
    backbone = Backbone(tiny(copy.deepcopy(CONFIGS["bert"])))
    with pytest.raises(ConfigError, match="no format for houlsby"):
        write_adapter(made("houlsby", backbone, ["task"]), backbone, tmp_path)
    with pytest.raises(ConfigError, match="key' is no site"):
        made("ia3_maps", backbone, ["task"], {"inputs": "key"})
    assert not any(tmp_path.iterdir())


def test_warnings_are_not_needed(tmp_path: Path) -> None:
    """Reading says nothing: PEFT itself is not imported for it."""
    plain = tiny(copy.deepcopy(CONFIGS["bert"]))
    theirs("lora, default", plain).save_pretrained(tmp_path)
    backbone = Backbone(tiny(copy.deepcopy(CONFIGS["bert"])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_adapter(tmp_path, backbone, "task")
