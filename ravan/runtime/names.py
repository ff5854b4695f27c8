"""Names of the inputs and outputs of a bundle's graphs.

train.onnx: the batch, ``labels`` and ``trainables`` in; ``loss``, ``weight`` and ``gradients`` out.
eval.onnx: the same in; ``logits``, ``loss``, ``weight`` and ``correct`` out.
"""

INPUT_IDS = "input_ids"  # int64 [batch, length]
ATTENTION_MASK = "attention_mask"  # int64 [batch, length], 1 where there is a token
LABELS = "labels"  # int64 [batch]
TRAINABLES = "trainables"  # float32, flat in the order of ravan.layout
GRADIENTS = "gradients"  # float32, flat like the trainables
LOGITS = "logits"  # float32 [batch, classes]
LOSS = "loss"  # float32 scalar, mean over the batch
WEIGHT = "weight"  # float32 scalar, number of examples behind the loss
CORRECT = "correct"  # float32 scalar, number of correct predictions
