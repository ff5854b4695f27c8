"""The step that users have today: PyTorch and PEFT LoRA on the same model and examples, measured as our own is.

usage: python -m benchmarks.peft_side JOB; prints one JSON object.

Dropout is off, as on our side; forward, backward, clipping and AdamW are timed.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
)
from transformers.utils import logging

from benchmarks.contenders import WITH, Figures, Job
from benchmarks.data import read_noise
from benchmarks.models import config_of, task_of
from benchmarks.works import Kind
from ravan.bundle import Task
from ravan.runtime.memory import peak_memory

CLASSES = {
    Task.TEXT_CLASSIFICATION: AutoModelForSequenceClassification,
    Task.CAUSAL_LM: AutoModelForCausalLM,
    Task.IMAGE_CLASSIFICATION: AutoModelForImageClassification,
    Task.SEQ2SEQ: AutoModelForSeq2SeqLM,
}
RATE, LARGEST_NORM = 2e-3, 1.0  # of our training plan
Inputs = Mapping[str, torch.Tensor]


def measure(job: Job) -> Figures:
    """Trains with one mini-batch to warm up and ``job.steps`` that count."""
    torch.set_num_threads(os.cpu_count() or 1)
    model, batches = load(job), mini_batches(job)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    stamps, losses = [], []
    for _ in range(job.steps + 1):
        optimizer.zero_grad()
        loss = model(**next(batches)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, LARGEST_NORM)
        optimizer.step()
        losses.append(loss.item())
        stamps.append(time.perf_counter())
    seconds = [end - begin for begin, end in pairwise(stamps)]
    return Figures(
        seconds=sum(seconds) if job.kind is Kind.ROUND else statistics.median(seconds),
        peak_bytes=peak_memory(),
        trainable=sum(p.numel() for p in trained),
        loss=losses[0],
    )


def load(job: Job) -> PeftModel:
    """The model with LoRA on the layers that our heads adapt, and the same modules trained whole."""
    torch.manual_seed(0)
    kind: Any = CLASSES[task_of(config_of(Path(job.model)))]
    attention, _, dropout = job.way.partition(WITH)
    base = kind.from_pretrained(job.model, attn_implementation=attention, dtype=torch.float32)
    base.config.use_cache = False
    lora = LoraConfig(
        r=job.lora_rank,
        target_modules=list(job.adapted),
        modules_to_save=list(job.saved) or None,
        lora_dropout=0.0,
    )
    model: PeftModel = get_peft_model(base, lora)
    model.train(bool(dropout))  # in evaluation mode gradients flow all the same
    return model


def mini_batches(job: Job) -> Iterator[Inputs]:
    """Of a round, padded on the way to the longest of each batch; else the same one again and again."""
    if job.kind is not Kind.ROUND:
        return repeat(
            {name: torch.from_numpy(values[: job.rows]) for name, values in read_noise(Path(job.data)).items()}
        )
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    collate = DataCollatorWithPadding(tokenizer)
    rows = [json.loads(line) for line in Path(job.data).read_text("utf-8").splitlines()]
    encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=job.length)
    index: Any = config_of(Path(job.model))["label2id"]
    examples = [
        {name: values[i] for name, values in encoded.items()} | {"label": int(index[row["label"]])}
        for i, row in enumerate(rows)
    ]
    return (collate(examples[start : start + job.rows]) for start in range(0, len(examples), job.rows))


def main() -> None:
    """Measures and prints."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print(json.dumps(asdict(measure(Job.from_json(sys.argv[1])))))


if __name__ == "__main__":
    main()
