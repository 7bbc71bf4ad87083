"""The networks of the paper and of PyTorch's example, from one description of layers."""
