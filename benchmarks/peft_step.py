"""The step that users have today: PyTorch and PEFT LoRA on the same model, measured as our own is.

usage: peft_step.py MODEL LABELS RANK ATTENTION BATCH LENGTH STEPS; prints one JSON object.
"""

import json
import statistics
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from edge.memory import peak_memory

logging.set_verbosity_error()
logging.disable_progress_bar()


def main() -> None:
    """Query and value adapted, pooler and classifier trained whole, AdamW; a step is forward, backward and update."""
    model_name, labels, rank, attention, *numbers = sys.argv[1:]
    batch, length, steps = map(int, numbers)
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_pretrained(
        model_name, num_labels=int(labels), attn_implementation=attention
    )
    config = LoraConfig(
        r=int(rank), target_modules=["query", "value"], modules_to_save=["pooler", "classifier"], lora_dropout=0.0
    )
    model = get_peft_model(base, config).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    inputs = {
        "input_ids": torch.randint(0, 100, (batch, length)),
        "attention_mask": torch.ones(batch, length, dtype=torch.long),
        "labels": torch.randint(0, int(labels), (batch,)),
    }
    seconds = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    trainable = sum(p.numel() for p in trained)
    figures = {
        "step_seconds": statistics.median(seconds[1:]),
        "peak_memory_bytes": peak_memory(),
        "trainable": trainable,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
