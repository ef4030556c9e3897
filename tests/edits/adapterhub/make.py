"""How the files in this folder were made: saved by `adapters` itself, with the outputs that it computed.

In an environment of its own, since `adapters` needs an older transformers (made with adapters 1.3.0,
transformers 4.57.6 and torch 2.13.0):

    python tests/edits/adapterhub/make.py tests/edits/adapterhub

backbone.safetensors: a BERT with random weights, rounded to half precision so that the file is small.
sst-2, upper, double_bn: folders as `save_adapter` writes them, one as a pickle. expected.safetensors: the
last hidden states of ROWS, without an adapter and with each; and blocks of `adapters` alone, for others:
the attention of AdapterFusion, and the layer of Compacter.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import adapters
import torch
from adapters import DoubleSeqBnConfig, SeqBnConfig
from adapters.configuration import CompacterConfig, DynamicAdapterFusionConfig
from adapters.methods.modeling import BertFusion, PHMLayer
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

CONFIG = {
    "vocab_size": 24,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 8,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
ROWS = [[5, 9, 17, 3, 21, 8], [4, 11, 6]]
ADAPTERS = {
    "sst-2": SeqBnConfig(reduction_factor=4),
    "upper": SeqBnConfig(reduction_factor=8, non_linearity="gelu", leave_out=[0]),
    "double_bn": DoubleSeqBnConfig(reduction_factor=4),
}


def stirred(parameters: Iterable[torch.nn.Parameter], by: float) -> None:
    """Noise on all of them, so that each matters; numbers which half precision can hold."""
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(by * torch.randn_like(parameter))
            parameter.copy_(parameter.half().float())


def outputs(model: BertModel) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([model(input_ids=torch.tensor([row])).last_hidden_state[0] for row in ROWS])


def main(folder: Path) -> None:
    torch.manual_seed(0)
    model = BertModel(BertConfig(**CONFIG), add_pooling_layer=False).eval()
    stirred(model.parameters(), 0.08)
    weights = {name: weight.half().contiguous() for name, weight in model.named_parameters()}
    save_file(weights, folder / "backbone.safetensors")
    adapters.init(model)
    found = {"plain": outputs(model)}
    for name, config in ADAPTERS.items():
        model.add_adapter(name, config=config)
        stirred([p for path, p in model.named_parameters() if f"adapters.{name}." in path], 0.2)
        model.set_active_adapters(name)
        found[name] = outputs(model)
        model.save_adapter(str(folder / name), name, use_safetensors=name != "sst-2")
        model.set_active_adapters(None)

    fusion = BertFusion(DynamicAdapterFusionConfig(), 8, 0.0).eval()
    layer = PHMLayer("", 16, 8, "down", CompacterConfig(shared_phm_rule=False, phm_rank=2)).eval()
    stirred([*fusion.parameters(), *layer.parameters()], 0.5)
    found |= {f"fusion.{name}": weight for name, weight in fusion.state_dict().items()}
    found |= {f"kronecker.{name}": weight for name, weight in layer.state_dict().items()}
    query, added, residual, x = (torch.randn(shape) for shape in [(5, 8), (5, 3, 8), (5, 8), (5, 16)])
    found |= {"fusion.h": query, "fusion.z": added, "fusion.residual": residual, "kronecker.x": x}
    with torch.inference_mode():
        copies = (each[None].clone() for each in (query, added, added, residual))
        found["fusion.output"] = fusion(*copies)[0].clone()
        found["kronecker.output"] = layer(x).clone()
    save_file(
        {name: each.detach().contiguous() for name, each in found.items()}, folder / "expected.safetensors"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
