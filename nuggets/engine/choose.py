"""Choose the engine for a transformers model: the fastest one that is correct for it."""

import copy
import logging
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from nuggets.engine.attention import PACKED_ATTENTION
from nuggets.engine.attention_kernels import kernels_for
from nuggets.engine.interface import LanguageModel
from nuggets.engine.kv_refinement import refine
from nuggets.engine.memory import cpu_token_budget, gpu_token_budget, is_out_of_memory, no_room_to_check
from nuggets.engine.packed import PackedEngine
from nuggets.engine.plain import PlainEngine
from nuggets.engine.self_check import longest_continuation, probe, why_not_kernel, why_not_packed
from nuggets.errors import InputError

logger = logging.getLogger(__name__)
_KEYS_VALUES_SHARE = 0.25  # of a GPU's free memory, beside the half that activations may take
_CPU_KEYS_VALUES = 4 << 30  # bytes; on a shared CPU the free memory is not known
_MEASURED_TOKENS = 2048  # of the pass that a GPU's memory is measured with


def open_engine(model: Any, *, token_budget: int | None = None, kv_iter: int = 1) -> LanguageModel:
    """The fastest correct engine for a causal transformers model, which is set to evaluation and not changed otherwise.

    A self-check tests whether packing is correct for this model (see self_check.py). A model with soft-capping, linear
    attention, attention biases or scaled logits fails it and is scored by the plain engine.

    `token_budget`: tokens per forward pass; by default what suits the device. `kv_iter`: see kv_refinement.py.
    Raises InputError if `kv_iter` is more than 1 and the model cannot be packed, OutOfMemory if the test does
    not fit into memory: scoring would not fit either, and a fallback to the plain engine would last as long as the
    process.
    """
    model.eval().requires_grad_(False)
    try:
        engine = _packed_engine(model, kv_iter=kv_iter, token_budget=token_budget)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise no_room_to_check(type(model).__name__, model.device) from error
    logger.info("scoring %s: %s", type(model).__name__, engine.path)
    return engine


def _packed_engine(model: Any, *, kv_iter: int, token_budget: int | None) -> LanguageModel:
    plain = PlainEngine(model)
    packed, reason = _correct_packed_engine(plain)
    if packed is None:
        logger.warning(
            "%s can't be scored packed (%s): using one pair per forward pass, which is correct and slower",
            type(model).__name__,
            reason,
        )
        if kv_iter > 1:
            raise InputError(
                f"kv_iter={kv_iter} needs the model's keys and values, which {type(model).__name__} does not return: "
                "use kv_iter=1 or another model"
            )
        return replace(plain, reason=reason)
    packed.token_budget = token_budget or _token_budget(packed)
    packed.prefix_budget = _prefix_budget(packed, refined=kv_iter > 1)
    packed.update = partial(refine, iterations=kv_iter) if kv_iter > 1 else None
    return packed


def _correct_packed_engine(plain: PlainEngine) -> tuple[PackedEngine | None, str]:
    """The packed engine that agrees with plain forward passes; if there is none, why."""
    model = plain.model
    try:
        twin = _twin(model)
        reason = why_not_packed(model, twin)
    except Exception as error:
        reason = _model_error(error)
    if reason is not None:
        return None, reason
    for kernel in kernels_for(model.device, model.dtype):
        packed = PackedEngine(twin, plain, kernel=kernel, token_budget=4096, context=_packable_length(model))
        try:
            reason = why_not_kernel(packed)
        except Exception as error:
            reason = _model_error(error)
        if reason is None:
            return packed, ""
        logger.info("%s failed for %s: %s", kernel.__name__, type(model).__name__, reason)
    return None, reason or "no kernel"


def _model_error(error: Exception) -> str:
    """An error as a reason against packing, if it can come from a model's code or a kernel; raised again if not.

    A model's own code may raise anything when it meets an attention function that it does not expect, and a kernel
    may not know a device or a head size. Exhausted memory and a failed device are no evidence about the model.
    """
    if is_out_of_memory(error) or isinstance(error, (torch.AcceleratorError, OSError)):
        raise error
    return f"{type(error).__name__}: {error}"


def _twin(model: Any) -> Any:
    """A second model with the same weights, so that its attention can be set without changing the first one."""
    twin = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    twin.set_attn_implementation(PACKED_ATTENTION)
    return twin


def _token_budget(packed: PackedEngine) -> int:
    """Tokens per forward pass that suit the model's device."""
    device = packed.model.device
    if device.type != "cuda":
        return cpu_token_budget(packed.model)
    length = longest_continuation(packed.model, packed.context, most=256)
    prefixes, continuations = probe(packed.model, prefixes=(20,), continuations=[length] * (_MEASURED_TOKENS // length))
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    next(packed.log_prob_sums(prefixes, continuations))
    allocated = torch.cuda.max_memory_allocated(device) - before
    return gpu_token_budget(allocated / _MEASURED_TOKENS, device)


def _prefix_budget(packed: PackedEngine, *, refined: bool) -> int:
    """Tokens of a group's demonstrations: the keys and values of all groups in memory get a share of it."""
    (prefix,), _ = probe(packed.model, prefixes=(20,), continuations=())
    tensors = [part for pair in packed.keys_values([prefix]).values() for part in pair]
    # Whole storages: a model may compute queries, keys and values as one product, of which all is kept.
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    taken = sum(storages.values()) / len(prefix)
    device = packed.model.device
    if device.type == "cuda":
        groups = 2  # one's packs, and the next one's demonstrations
        room = _KEYS_VALUES_SHARE * torch.cuda.mem_get_info(device)[0]
    else:
        groups = 3  # one more where passes run side by side
        room = _CPU_KEYS_VALUES
    if refined:  # beside input and output: those computed and those attended to, and four in float32 (see refine)
        groups += 2 + 4 * max(1, 4 // packed.model.dtype.itemsize)
    return max(1, int(room / (groups * taken)))


def _packable_length(model: Any) -> int | None:
    """Tokens up to which packing is correct, where a model sets a limit.

    Beyond a sliding window attention does not reach back to the start; beyond the length at which longrope or dynamic
    rope changes its frequencies, a demonstration's keys depend on the length of the continuation behind it.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [part for part in rope.values() if isinstance(part, dict)]
    limits = [part.get("original_max_position_embeddings") for part in (rope, *by_layer_type) if "long_factor" in part]
    if any(part.get("rope_type") == "dynamic" for part in (rope, *by_layer_type)):
        limits.append(config.max_position_embeddings)
    limits.append(getattr(config, "sliding_window", None))
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)
