"""Workstation side: a PyTorch model with Ravan adapters becomes a training bundle of ONNX files, and comes back."""
