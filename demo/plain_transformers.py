"""Accuracy of a transformers folder on labelled JSONL, with no code of ours: FOLDER DATA MAX_LENGTH."""

import json
import sys

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()

folder, data, max_length = sys.argv[1:]
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
with open(data, encoding="utf-8") as file:
    rows = sorted(map(json.loads, file), key=lambda row: len(row["text"]))
correct = 0
for start in range(0, len(rows), 32):
    batch = rows[start : start + 32]
    texts = [row["text"] for row in batch]
    inputs = tokenizer(texts, truncation=True, max_length=int(max_length), padding=True, return_tensors="pt")
    with torch.no_grad():
        predicted = model(**inputs).logits.argmax(-1).tolist()
    correct += sum(model.config.id2label[p] == row["label"] for p, row in zip(predicted, batch, strict=True))
print(correct / len(rows))
