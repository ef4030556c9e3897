"""What `serving.py` measures against: Hugging Face pipelines behind FastAPI, one for each task.

Texts are answered by as many threads as there are processors, each pipeline on one of torch's threads: with
more of either, it is slower. The heads have the tasks' sizes and the encoder's weights are the real ones, so
that the work is what a fine-tuned model for each task would do.

    python benchmarks/serving_peer.py '{"intent": ["classify", 150], "words": ["regress", 1]}' --port 8001
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import BaseModel

from report import model_folder, use_threads

APPLIED = {"regress": "none", "ordinal": "none", "multilabel": "sigmoid"}


class Body(BaseModel):
    """A text."""

    inputs: str


def pipeline_of(kind: str, outputs: int) -> Callable[..., Any]:
    """A pipeline with the encoder's weights and a head with as many outputs."""
    from transformers import AutoTokenizer, BertForSequenceClassification, pipeline

    model = BertForSequenceClassification.from_pretrained(model_folder(), num_labels=outputs)
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    made = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    return lambda text: made(text, function_to_apply=APPLIED.get(kind, "softmax"))


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("tasks", type=json.loads, help="{task: [kind, outputs]} as JSON")
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--threads", type=int, required=True)
    chosen = options.parse_args(arguments)
    use_threads(1)
    import uvicorn
    from fastapi import FastAPI
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    pipelines = {task: pipeline_of(*about) for task, about in chosen.tasks.items()}
    pool = ThreadPoolExecutor(chosen.threads)
    app = FastAPI()

    def answer(text: str) -> dict[str, Any]:
        return {task: pipeline(text) for task, pipeline in pipelines.items()}

    @app.post("/v1/predict")
    async def predict(body: Body) -> dict[str, Any]:
        return await asyncio.get_running_loop().run_in_executor(pool, answer, body.inputs)

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    uvicorn.run(app, port=chosen.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
