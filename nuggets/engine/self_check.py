"""The self-check of packed scoring: is it correct for a model? Tested against plain forward passes.

Three questions, so that rounding neither hides a fault nor looks like one:

- do logits leave the model as its head computes them, and does every layer call the attention function that is set?
- are packed sums equal to plain ones where both compute in float32, whatever format the weights have?
- do the kernels for the model's own format come near? Within a loose tolerance: it only has to expose a wrong kernel.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nuggets.engine.attention_kernels import kernels_for
from nuggets.engine.interface import Continuation
from nuggets.engine.packed import PackedEngine
from nuggets.engine.plain import PlainEngine

_EXACT = 1e-3  # nats per token in float32
_NEAR = 0.1  # nats per token in 16 bits, signed mean of about a hundred; rounding is a tenth of that
_PROMPT = 4  # tokens of a probe's continuation that are not scored
_PREFIX = 20
_LONGEST = 100  # tokens of a continuation
_STEEP = 64.0  # logits that any soft-cap would change
_NARROW = (torch.bfloat16, torch.float16)


def why_not_packed(model: Any, twin: Any) -> str | None:
    """Why this model, of which `twin` has packed attention, cannot be packed; None if it can."""
    if not _returns_logits_of_its_head(model):
        return "it changes the logits of its head"
    prefixes, continuations = probe(model, prefixes=(_PREFIX, 7), continuations=(12, 9, 12))
    exact = PackedEngine(
        twin, PlainEngine(model), kernel=kernels_for(model.device, torch.float32)[0], token_budget=4096
    )
    with upcast(model, twin):
        layers = len(exact.keys_values(prefixes))
        of_layers = model.config.get_text_config().num_hidden_layers
        if layers != of_layers:
            return f"{of_layers - layers} of its {of_layers} layers do not use the attention function that is set"
        # One group, so one pass at a time.
        difference = np.abs(_differences(exact, prefixes, continuations)).max()
    if difference <= _EXACT:
        return None
    return f"its sums would differ by {difference:.3g} nats per token"


def why_not_kernel(packed: PackedEngine) -> str | None:
    """Why the engine's kernel is wrong for a model that can be packed; None if it is right."""
    model = packed.model
    if model.dtype not in _NARROW:
        return None  # the sums that were compared in float32, or better ones
    longest = longest_continuation(model, packed.context, most=_LONGEST)
    prefixes, continuations = probe(model, prefixes=(_PREFIX,), continuations=(longest, 12))
    difference = _differences(packed, prefixes, continuations)
    weights = [item.response_tokens for item in continuations]
    mean = abs(np.average(difference, axis=1, weights=weights)).max()
    return None if mean <= _NEAR else f"its sums in {model.dtype} would differ by {mean:.3g} nats per token"


def probe(
    model: Any, *, prefixes: Sequence[int], continuations: Sequence[int]
) -> tuple[list[list[int]], list[Continuation]]:
    """Prefixes and continuations of these lengths, of arbitrary token ids within the model's vocabulary."""
    vocabulary = model.config.get_text_config().vocab_size
    ids = ((7919 * index + 13) % vocabulary for index in count())
    texts = [list(islice(ids, length)) for length in prefixes]
    return texts, [Continuation(tuple(islice(ids, length)), _PROMPT) for length in continuations]


def longest_continuation(model: Any, context: int | None, *, most: int) -> int:
    """Tokens of a continuation: `most`, or as many as can be packed and have positions behind a probe's prefix."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return max(_PROMPT + 1, min(most, *(limit - _PREFIX for limit in (context, positions) if limit)))


def _differences(
    packed: PackedEngine, prefixes: Sequence[Sequence[int]], continuations: Sequence[Continuation]
) -> NDArray[np.float64]:
    """Packed minus plain, nats per token `(prefixes, continuations)`."""
    packed_sums, plain_sums = (
        np.array(list(engine.log_prob_sums(prefixes, continuations))) for engine in (packed, packed.plain)
    )
    tokens = np.array([item.response_tokens for item in continuations], dtype=np.float64)
    difference: NDArray[np.float64] = (packed_sums - plain_sums) / tokens
    return difference


@torch.inference_mode()
def _returns_logits_of_its_head(model: Any) -> bool:
    """Whether the logits of the head are the model's output, without soft-cap or scaling.

    The head's logits are replaced by steep ones: the model's own logits for a few tokens may be too small to show a
    soft-cap.
    """
    steep: list[Tensor] = []

    def give_steep(_: Any, __: Any, out: Tensor) -> Tensor:
        steep.append(torch.linspace(-_STEEP, _STEEP, out.shape[-1], device=out.device).to(out.dtype).expand_as(out))
        return steep[-1]

    (ids,), _ = probe(model, prefixes=(5,), continuations=())
    hook = model.get_output_embeddings().register_forward_hook(give_steep)
    try:
        logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits
    finally:
        hook.remove()
    return len(steep) == 1 and torch.equal(logits.float(), steep[0].float())


@contextmanager
def upcast(*models: Any) -> Iterator[None]:
    """Inside, a module's weights are in float32 while it is called, so that rounding hides nothing.

    The weights of heads are in float32 all the time, because they are read without calling the head; heads with the
    same weights share the copy. One thread at a time may use a model.
    """
    originals: dict[nn.Module, dict[str, Tensor]] = {}

    def float_copy(weight: Tensor) -> nn.Parameter:
        return nn.Parameter(weight.float(), requires_grad=False)

    def widen(module: nn.Module, *_: Any, float_copy: Callable[[Tensor], nn.Parameter] = float_copy) -> None:
        own: dict[str, Tensor] = {
            name: weight for name, weight in module.named_parameters(recurse=False) if weight.dtype in _NARROW
        }
        for name, weight in own.items():
            # Not Module.register_parameter, and not Parameter.data: what other modules share stays as it is.
            module._parameters[name] = float_copy(weight)
        originals.setdefault(module, own)

    def restore(module: nn.Module, *_: Any) -> None:
        module._parameters.update(originals.pop(module, {}))  # type: ignore[arg-type]

    shared_copy = cache(float_copy)  # a Tensor's hash is its identity
    heads = [model.get_output_embeddings() for model in models]
    modules = {module for model in models for module in model.modules()} - {None, *heads}
    handles = [
        handle
        for module in modules
        if any(weight.dtype in _NARROW for weight in module.parameters(recurse=False))
        for handle in (
            module.register_forward_pre_hook(widen),
            module.register_forward_hook(restore, always_call=True),
        )
    ]
    try:
        for head in heads:
            if head is not None:
                widen(head, float_copy=shared_copy)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in list(originals):
            restore(module)
