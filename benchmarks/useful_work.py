"""The arithmetic that scoring can't do without, counted exactly, and the same for every algorithm. Pure.

For a candidate with a demonstration of n tokens, and anchors of L tokens each of which R belong to the response. The
tokens with which all anchors begin ("Instruction:") are counted with the demonstration, as part of n: they need not be
computed for every anchor.

```
tokens      n + sum(L)                                           the demonstration once, every anchor once
linear      2 * inputs * outputs * tokens                        for every linear layer but the output head
attention   4 * heads * head size * layers * pairs               2 for query x key, 2 for weights x value
  pairs     n(n+1)/2 + sum(L(L+1)/2 + L*n)                       (query, key) pairs that the causal mask lets see
logits      2 * width * vocabulary * sum(R)                      where the next token is scored, nowhere else
```

Whatever an algorithm computes beyond that (the demonstration again for each anchor, padding, logits of prompts) takes
time and is no useful work, so FLOP/s of different algorithms can be compared. Norms, activations, rotary embeddings
and the softmax are left out: they are less than a hundredth.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from nuggets.engine.interface import Continuation
from nuggets.engine.packing import share_opening

Product = tuple[int, int]  # a matrix product by what one row of it becomes: (inputs, outputs)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a causal language model that determine its arithmetic."""

    linear: dict[Product, int]  # how many linear layers there are of each size, the output head left out
    layers: int
    heads: int
    head_size: int
    width: int
    vocabulary: int

    @property
    def head(self) -> Product:
        """The output head as a product."""
        return self.width, self.vocabulary


@dataclass(frozen=True, slots=True)
class UsefulWork:
    """Useful work of some cells; `products` and `attention` in FLOP (a multiplication and an addition are 2)."""

    cells: int
    tokens: int
    products: dict[Product, int]
    attention: int

    @property
    def flop(self) -> int:
        """All useful FLOP."""
        return sum(self.products.values()) + self.attention


def shape_of(model: Any) -> ModelShape:
    """The shape of a transformers model with dense layers (of experts, every one would be counted)."""
    config = model.config.get_text_config()
    linear: Counter[Product] = Counter()
    for module in model.base_model.modules():
        if isinstance(module, nn.Linear):
            linear[module.in_features, module.out_features] += 1
        elif isinstance(module, Conv1D):
            inputs, outputs = module.weight.shape
            linear[inputs, outputs] += 1
    heads = config.num_attention_heads
    vocabulary, width = model.get_output_embeddings().weight.shape
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return ModelShape(dict(linear), config.num_hidden_layers, heads, head_size, width, vocabulary)


def useful_work(shape: ModelShape, prefixes: Sequence[Sequence[int]], anchors: Sequence[Continuation]) -> UsefulWork:
    """The useful work of every anchor behind every prefix."""
    opening, anchors = share_opening(anchors)
    lengths = [len(prefix) + len(opening) for prefix in prefixes]
    anchor_tokens = sum(len(item.ids) for item in anchors)
    own_pairs = sum(_causal_pairs(len(item.ids)) for item in anchors)
    tokens = sum(length + anchor_tokens for length in lengths)
    pairs = sum(_causal_pairs(length) + own_pairs + anchor_tokens * length for length in lengths)
    responses = len(prefixes) * sum(item.response_tokens for item in anchors)
    products = {size: 2 * size[0] * size[1] * count * tokens for size, count in shape.linear.items()}
    products[shape.head] = products.get(shape.head, 0) + 2 * shape.width * shape.vocabulary * responses
    attention = 4 * shape.heads * shape.head_size * shape.layers * pairs
    return UsefulWork(len(prefixes) * len(anchors), tokens, products, attention)


def _causal_pairs(tokens: int) -> int:
    return tokens * (tokens + 1) // 2
