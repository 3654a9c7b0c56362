"""Training: the pack plan (pure), the loop in plain torch, and its Ray Train wrapper. Importing this package loads no
torch.
"""
