"""From a transformers model to the fastest engine that is right for it."""

import copy
import logging
from functools import partial
from typing import Any

import torch

from nuggets.engine.attention import PACKED_ATTENTION
from nuggets.engine.attention_kernels import kernels_for
from nuggets.engine.interface import LanguageModel
from nuggets.engine.kv_refinement import refine
from nuggets.engine.memory import cpu_token_budget, gpu_token_budget
from nuggets.engine.packed import PackedEngine
from nuggets.engine.plain import PlainEngine
from nuggets.engine.self_check import longest_continuation, probe, why_not_kernel, why_not_packed
from nuggets.errors import InputError

logger = logging.getLogger(__name__)
_KEYS_VALUES_SHARE = 0.25  # of a GPU's free memory, beside the half that activations may take
_CPU_KEYS_VALUES = 4 << 30  # bytes; what is free is not known on a CPU that is shared
_TRIAL_TOKENS = 2048  # of the pass that a GPU's memory is measured with


def open_engine(model: Any, *, token_budget: int | None = None, kv_iter: int = 1) -> LanguageModel:
    """The fastest right engine for a causal transformers model, which is set to evaluation and used as it is.

    Whether packing is right for this model is not looked up but tried (see trial.py): soft-capping, linear attention,
    attention biases or scaled logits show, and such a model takes the plain path.

    `token_budget`: tokens per forward pass; by default what suits the device. `kv_iter`: see scoring/momentum.py.
    Raises InputError if `kv_iter` is more than 1 and the model can't be packed.
    """
    model.eval().requires_grad_(False)
    plain = PlainEngine(model)
    packed = _packed_engine(plain)
    if packed is None:
        if kv_iter > 1:
            raise InputError(
                f"kv_iter={kv_iter} needs the model's keys and values, which {type(model).__name__} does not show: "
                "use kv_iter=1 or another model"
            )
        return plain
    packed.token_budget = token_budget or _token_budget(packed)
    packed.prefix_budget = _prefix_budget(packed, refined=kv_iter > 1)
    packed.update = partial(refine, iterations=kv_iter) if kv_iter > 1 else None
    logger.info("scoring %s packed, %d tokens per forward pass", type(model).__name__, packed.token_budget)
    return packed


def _packed_engine(plain: PlainEngine) -> PackedEngine | None:
    """The packed engine that agrees with plain forward passes, if any does."""
    model = plain.model
    try:
        twin = _twin(model)
        reason = why_not_packed(model, twin)
        for kernel in kernels_for(model.device, model.dtype) if reason is None else ():
            packed = PackedEngine(twin, plain, kernel=kernel, token_budget=4096, context=_packable_length(model))
            reason = _why_not_this_kernel(packed)
            if reason is None:
                return packed
    except Exception as error:  # whatever a model's own code says to an attention function it does not expect
        reason = _said(error)
    logger.warning(
        "%s can't be scored packed (%s): using one pair per forward pass, which is right and slower",
        type(model).__name__,
        reason,
    )
    return None


def _why_not_this_kernel(packed: PackedEngine) -> str | None:
    try:
        return why_not_kernel(packed)
    except Exception as error:  # a kernel may not know the device or the size of a head: the next one may
        reason = _said(error)
    logger.info("%s failed for %s: %s", packed.kernel.__name__, type(packed.model).__name__, reason)
    return reason


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _twin(model: Any) -> Any:
    """The same weights in a model of its own, so that its attention can be set without touching the original."""
    twin = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    twin.set_attn_implementation(PACKED_ATTENTION)
    return twin


def _token_budget(packed: PackedEngine) -> int:
    """Tokens per forward pass that suit the model's device."""
    device = packed.model.device
    if device.type != "cuda":
        return cpu_token_budget(packed.model)
    length = longest_continuation(packed.model, packed.context, most=256)
    prefixes, continuations = probe(packed.model, prefixes=(20,), continuations=[length] * (_TRIAL_TOKENS // length))
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    next(packed.log_prob_sums(prefixes, continuations))
    taken = torch.cuda.max_memory_allocated(device) - before
    return gpu_token_budget(taken / _TRIAL_TOKENS, device)


def _prefix_budget(packed: PackedEngine, *, refined: bool) -> int:
    """Tokens of demonstrations whose keys and values, of all groups that are in memory at a time, take their share."""
    (prefix,), _ = probe(packed.model, prefixes=(20,), continuations=())
    tensors = [part for pair in packed.keys_values([prefix]).values() for part in pair]
    # Whole storages: where a model computes queries, keys and values as one product, all of it stays.
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    taken = sum(storages.values()) / len(prefix)
    device = packed.model.device
    if device.type == "cuda":
        groups = 2  # one's packs, and the next one's demonstrations
        room = _KEYS_VALUES_SHARE * torch.cuda.mem_get_info(device)[0]
    else:
        groups = 3  # one more where lanes are side by side
        room = _CPU_KEYS_VALUES
    if refined:  # beside what it is given and gives: found and attended to, and four in float32 (see refine)
        groups += 2 + 4 * max(1, 4 // packed.model.dtype.itemsize)
    return max(1, int(room / (groups * taken)))


def _packable_length(model: Any) -> int | None:
    """Tokens up to which packing is right, where a model sets a limit; shorter sequences never notice it.

    Beyond a sliding window attention does not reach back to the start; beyond the length at which longrope or dynamic
    rope changes its frequencies, a demonstration's keys depend on the length of what stands behind it.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [part for part in rope.values() if isinstance(part, dict)]
    limits = [part.get("original_max_position_embeddings") for part in (rope, *by_layer_type) if "long_factor" in part]
    if any(part.get("rope_type") == "dynamic" for part in (rope, *by_layer_type)):
        limits.append(config.max_position_embeddings)
    limits.append(getattr(config, "sliding_window", None))
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)
