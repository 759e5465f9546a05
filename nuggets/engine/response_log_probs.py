"""Log-probabilities of response tokens; the [tokens x vocabulary] matrix is never in memory as a whole."""

import torch
from torch import Tensor, nn

# Entries of the matrix in memory at a time. On a CPU a tile stays in the cache between the product that writes it and
# the sums that read it, which made this step a quarter faster; on a GPU a tile only has to keep the cores busy.
_TILE_ENTRIES = {"cpu": 1 << 20, "cuda": 1 << 26}
_TILE_ROWS = {"cpu": 1024, "cuda": 8192}


def response_log_probs(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-probability (nats, float32) of each target `(tokens,)` after its hidden state `(tokens, width)`."""
    rows = _TILE_ROWS.get(hidden.device.type, 1024)
    pairs = zip(hidden.split(rows), targets.split(rows), strict=True)
    if type(head) is nn.Linear:  # not a subclass, which may use its weights otherwise
        return torch.cat([_by_tiles(head, states, wanted) for states, wanted in pairs])
    return torch.cat([_by_rows(head, states, wanted) for states, wanted in pairs])


def log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-softmax (float32) of `logits` (tokens, vocabulary) at the targets."""
    logits = logits.float()
    return logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(dim=1)


def _by_rows(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    """By calling the head, some rows at a time."""
    rows = 256
    pairs = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([log_probs(head(states), wanted) for states, wanted in pairs])


def _by_tiles(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    """By tiles of the vocabulary: the log-sum-exp of each tile, then the log-sum-exp of these."""
    entries = _TILE_ENTRIES.get(hidden.device.type, 1 << 20)
    columns = max(512, entries // len(hidden))
    buffer = tile_buffer(hidden, min(columns, head.out_features))
    tiles = []
    for start in range(0, head.out_features, columns):
        weight = head.weight[start : start + columns]
        logits = _product(hidden, weight, buffer)
        if head.bias is not None:
            logits += head.bias[start : start + columns]
        peak = logits.amax(dim=1, keepdim=True)
        # In place: a second tile would push the first out of the cache.
        tiles.append(logits.sub_(peak).exp_().sum(dim=1).log_() + peak.squeeze(1))
    chosen = (hidden.float() * head.weight[targets].float()).sum(dim=1)
    if head.bias is not None:
        chosen += head.bias[targets]
    return chosen - torch.stack(tiles).logsumexp(dim=0)


def tile_buffer(hidden: Tensor, columns: int) -> Tensor | None:
    """Memory that all tiles are written to; None where each product allocates its tile, as upcasting products do."""
    if hidden.device.type == "cuda" and hidden.dtype in (torch.bfloat16, torch.float16):
        return None
    return hidden.new_empty(len(hidden) * columns, dtype=torch.float32)


def _product(hidden: Tensor, weight: Tensor, buffer: Tensor | None) -> Tensor:
    """hidden @ weight.T in float32, whatever the inputs: logits rounded to 16 bits are off by hundredths of a nat."""
    if buffer is None:
        return torch.mm(hidden, weight.T, out_dtype=torch.float32)
    out = buffer[: len(hidden) * len(weight)].view(len(hidden), len(weight))
    return torch.mm(hidden.float(), weight.T.float(), out=out)
