"""Tiny models of real architectures, with random weights large enough to tell a mistake from rounding."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers as hf

from taskheads.backbone.backbone import Backbone

COMMON = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
BERTISH = COMMON | {"intermediate_size": 48, "max_position_embeddings": 40}
LLAMAISH = BERTISH | {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

CONFIGS = {
    "bert": hf.BertConfig(**BERTISH),
    "roberta": hf.RobertaConfig(**BERTISH),
    "distilbert": hf.DistilBertConfig(
        vocab_size=97, dim=32, n_layers=3, n_heads=4, hidden_dim=48, max_position_embeddings=40
    ),
    "albert": hf.AlbertConfig(**BERTISH, embedding_size=16),
    "electra": hf.ElectraConfig(**BERTISH, embedding_size=16),
    # Three-token windows, every third layer global: local and global attention both take part.
    "modernbert": hf.ModernBertConfig(
        **BERTISH,
        local_attention=6,
        global_attn_every_n_layers=3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
    ),
    "gpt2": hf.GPT2Config(vocab_size=97, n_embd=32, n_layer=3, n_head=4, n_positions=40, n_inner=48),
    "gpt_neox": hf.GPTNeoXConfig(**BERTISH),
    "llama": hf.LlamaConfig(**LLAMAISH),
    "qwen3": hf.Qwen3Config(
        **LLAMAISH, head_dim=8, use_sliding_window=True, sliding_window=4, max_window_layers=1
    ),
    "mixtral": hf.MixtralConfig(**LLAMAISH, num_local_experts=3, num_experts_per_tok=2),
    "t5": hf.T5Config(
        vocab_size=97,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=3,
        num_heads=4,
        relative_attention_num_buckets=8,
    ),
}
VIT = hf.ViTConfig(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    image_size=8,
    patch_size=4,
)
DEBERTA = hf.DebertaV2Config(
    **BERTISH, relative_attention=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0, position_buckets=8
)


def tiny(config: hf.PretrainedConfig, seed: int = 0) -> torch.nn.Module:
    """A model of this configuration, without dropout, its weights spread so that every part matters."""
    torch.manual_seed(seed)
    for name in list(vars(config)):
        if "dropout" in name or "pdrop" in name:
            setattr(config, name, 0.0)
    model = hf.AutoModel.from_config(config)
    if config.is_encoder_decoder:
        model = model.get_encoder()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


LOW = pytest.mark.parametrize("precision", ["bfloat16", "int8"])


def lowered(precision: str, architecture: str = "bert") -> Backbone:
    """A tiny backbone of this architecture with its weights in so few bits."""
    return Backbone(tiny(copy.deepcopy(CONFIGS[architecture])), precision=precision)
