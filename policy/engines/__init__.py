"""Engines: a trained policy, run by PyTorch, a CUDA graph, ONNX Runtime or OpenVINO behind one interface."""
