"""NUGGETS: choose instruction data by how much each example helps a frozen language model (arXiv 2312.10302)."""

__version__ = "0.1.0"
