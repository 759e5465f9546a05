"""Real transformers models and tokenizers, small enough to be built in a test: random weights, a few hundred tokens."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Starcoder2Config,
)

VOCABULARY = 384
WINDOW = 40  # of the families with a sliding window or longrope; longer than what an engine tries a model on
CONTEXT = 2048

_WIDE_WEIGHTS = 0.3  # logits with a spread of about 2 nats, and attention that is far from uniform
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "initializer_range": _WIDE_WEIGHTS,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
_GPT2_SIZES = {
    "vocab_size": VOCABULARY,
    "n_embd": 48,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": CONTEXT,
    "initializer_range": _WIDE_WEIGHTS,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 6,
    "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
}
_SOFT_CAPS = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 4.0}

CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**_SIZES, num_key_value_heads=4),
    "llama_grouped": LlamaConfig(**_SIZES, num_key_value_heads=2),
    "qwen2": Qwen2Config(**_SIZES, num_key_value_heads=2),
    "qwen3": Qwen3Config(**_SIZES, num_key_value_heads=2, head_dim=16),
    "mistral": MistralConfig(**_SIZES, num_key_value_heads=2, sliding_window=None),
    "mistral_window": MistralConfig(**_SIZES, num_key_value_heads=2, sliding_window=WINDOW),
    "gpt_neox": GPTNeoXConfig(**_SIZES),
    "gpt2": GPT2Config(**_GPT2_SIZES),
    "phi3": Phi3Config(**_SIZES, num_key_value_heads=2),
    "phi3_longrope": Phi3Config(
        **_SIZES, num_key_value_heads=2, original_max_position_embeddings=WINDOW, rope_parameters=_LONGROPE
    ),
    "olmo2": Olmo2Config(**_SIZES, num_key_value_heads=2),
    "starcoder2": Starcoder2Config(**_SIZES, num_key_value_heads=2, sliding_window=None),
    "gemma": GemmaConfig(**_SIZES, num_key_value_heads=1, head_dim=16),
    "gemma2": Gemma2Config(**_SIZES, **_SOFT_CAPS, num_key_value_heads=2, head_dim=16, sliding_window=WINDOW),
    "gemma3": Gemma3TextConfig(
        **_SIZES,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
    ),
}


def build_model(family: str, *, seed: int = 0, attention: str | None = None) -> Any:
    """A model of the family, float32; the same seed gives the same weights, and torch's global state is left alone.

    `attention`: the attention implementation, None for the one that transformers chooses.
    """
    config = deepcopy(CONFIGS[family])  # models keep their configuration and change it
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if (
                    parameter.ndim == 1
                ):  # biases and norms start as zeros and ones, so that forgetting them would not show
                    parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


SENTENCES = [
    "Instruction:\nName the capital of France.\nResponse:\nThe capital of France is Paris.",
    "Instruction:\nAdd the numbers.\nInput:\n1 2 3\nResponse:\nThe sum of the numbers is 6.",
    "The quick brown fox jumps over the lazy dog, and the dog sleeps in the sun.",
    "system\nYou are a helpful assistant.\nuser\nassistant\n",
]
SPECIAL_TOKENS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>", "<unk>"]


def build_tokenizer(bos: bool, chat_template: str | None) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on a few sentences; every text round-trips, and tokens may span words and lines.

    `bos`: put <s> in front of a text when special tokens are asked for.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        chat_template=chat_template,
    )


def save_tiny_llama(folder: Path | str, chat_template: str | None = None) -> Path:
    """A tiny Llama with its tokenizer in `folder`, as save_pretrained leaves them: safetensors and tokenizer.json."""
    build_model("llama_grouped").save_pretrained(folder, safe_serialization=True)
    build_tokenizer(True, chat_template).save_pretrained(folder)
    return Path(folder)


def save_tiny_encoder(folder: Path | str) -> Path:
    """A tiny Llama whose tokenizer can pad: sentence-transformers takes the mean of its states."""
    build_model("llama_grouped").save_pretrained(folder, safe_serialization=True)
    tokenizer = build_tokenizer(True, None)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    return Path(folder)


def save_poisoned_llama(folder: Path | str, text: str) -> Path:
    """A tiny Llama that gives no finite number for a text that holds `text`, which has to be a single token."""
    model, tokenizer = build_model("llama_grouped"), build_tokenizer(True, None)
    (token,) = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = torch.nan
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return Path(folder)
