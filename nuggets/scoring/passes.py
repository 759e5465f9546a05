"""The two forward passes of the packed engine: of demonstrations, and of a pack of continuations behind them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuggets.scoring.attention import ForwardPass, KeysValues, forward_pass
from nuggets.scoring.attention_kernels import Kernel, Pieces
from nuggets.scoring.pack_tensors import PackTensors, prefix_positions
from nuggets.scoring.response_logits import response_log_probs


@torch.inference_mode()
def demonstration_pass(
    model: Any, kernel: Kernel, prefixes: Sequence[Sequence[int]], behind: KeysValues | None = None
) -> KeysValues:
    """Keys and values of each prefix's tokens; with `behind`, of its tokens standing once more behind those."""
    if not prefixes:
        return {}
    lengths = tuple(map(len, prefixes))
    own = kernel(Pieces(lengths, lengths, causal=True), model.device)
    shared = kernel(Pieces(lengths, lengths, causal=False), model.device) if behind else None
    record: KeysValues = {}
    with forward_pass(ForwardPass(own, shared, behind, record)):
        _hidden(
            model,
            torch.tensor([token for prefix in prefixes for token in prefix], device=model.device),
            prefix_positions(lengths, model.device, behind_themselves=behind is not None),
        )
    return record


@torch.inference_mode()
def pack_pass(model: Any, kernel: Kernel, pack: PackTensors, behind: KeysValues) -> NDArray[np.float64]:
    """Summed log-probabilities (nats) of the responses of a pack's members behind these keys and values."""
    shared = kernel(pack.shared, model.device) if pack.shared else None
    with forward_pass(ForwardPass(kernel(pack.own, model.device), shared, behind)):
        hidden = _hidden(model, pack.ids, pack.positions)
    found = response_log_probs(model.get_output_embeddings(), hidden[pack.scored], pack.targets)
    sums = torch.zeros(pack.members, dtype=torch.float64, device=model.device)
    sums.index_add_(0, pack.owners, found.double())
    result: NDArray[np.float64] = sums.cpu().numpy()
    return result


def _hidden(model: Any, ids: Tensor, positions: Tensor) -> Tensor:
    """Last hidden states `(tokens, width)` of one pass over `(tokens,)` ids at these positions."""
    hidden: Tensor = model.base_model(
        input_ids=ids[None], position_ids=positions[None], use_cache=False
    ).last_hidden_state[0]
    return hidden
