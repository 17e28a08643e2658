"""Engines run a trained policy by PyTorch, a CUDA graph, ONNX Runtime or OpenVINO, behind one interface."""
