"""Names of the inputs and outputs of a bundle's graphs.

train.onnx: the batch, ``labels`` and ``trainables`` in; ``loss``, ``weight`` and ``gradients`` out.
eval.onnx: the same in; ``loss``, ``weight`` and ``correct`` out, and ``logits`` where they are few, else ``exact`` and
``following``.
prefix.onnx, if the bundle has one: the batch in, ``hidden`` out. train.onnx then takes ``hidden`` as part of its batch.
"""

INPUT_IDS = "input_ids"  # int64 [batch, length]
ATTENTION_MASK = "attention_mask"  # int64 [batch, length], 1 where there is a token
DECODER_INPUT_IDS = "decoder_input_ids"  # int64 [batch, target], the labels one place later
PIXEL_VALUES = "pixel_values"  # float32 [batch, channels, height, width], normalized
HIDDEN = "hidden"  # float32 [batch, length, width]
LABELS = "labels"  # int64 [batch], or for tasks per token [batch, length or target] with -100 where none counts
TRAINABLES = "trainables"  # float32, flat in the order of ravan.layout
GRADIENTS = "gradients"  # float32, flat like the trainables
LOGITS = "logits"  # float32, the labels' shape and [classes]
FOLLOWING = "following"  # float32 [batch, classes], the logits at each row's last label
LOSS = "loss"  # float32 scalar, mean over the batch
WEIGHT = "weight"  # float32 scalar, number of examples (or labelled tokens) behind the loss
CORRECT = "correct"  # float32 scalar, number of correct predictions
EXACT = "exact"  # float32 scalar, number of rows of which every labelled token is predicted

IGNORED = -100  # a label that counts for nothing, as in torch
