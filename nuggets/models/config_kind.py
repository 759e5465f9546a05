"""What the config.json of a model says it is, if it is no causal language model. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from nuggets.models.folder_kind import Kind

_CAUSAL = re.compile(r"(ForCausalLM|LMHead|LMHeadModel|ForConditionalGeneration|Decoder)$")
# The first pattern that an architecture's name has decides.
_OTHERS = (
    (r"ForSequenceClassification|RewardModel", "a sequence classifier, such as a reward model or a cross-encoder"),
    (r"ForTokenClassification", "a token classifier"),
    (r"ForMaskedLM|ForPreTraining|^(Modern)?BertModel|^(XLM)?RobertaModel|^MPNetModel", "an encoder"),
    (r"Image|Vision|^CLIP|^ViT|^Siglip|^DINO|^Dino|ObjectDetection|Segmentation", "a model of images"),
    (r"Audio|Speech|CTC|^Whisper|^Wav2Vec|^Hubert", "a model of sound"),
    (r"Model$", "a model without a language-model head"),
)
# Of these families, transformers makes causal models too, if the configuration says is_decoder. Without it attention
# looks ahead, and every log-probability would be wrong.
_BIDIRECTIONAL = re.compile(r"bert|electra|ernie|data2vec|big_bird|roformer|xmod")
_ADVICE = "give a causal language model, whose config.json names an architecture that ends in ForCausalLM"


def kind_of_config(config: Mapping[str, Any]) -> Kind | None:
    """What a model is by its config.json; None if it may be a causal language model."""
    named = config.get("architectures") or [""]
    architecture = str(named[0])
    own_code = config.get("auto_map")
    if isinstance(own_code, dict) and "AutoModelForCausalLM" in own_code:
        return None
    if config.get("is_encoder_decoder"):
        return _named("an encoder-decoder model", architecture)
    if architecture and not _CAUSAL.search(architecture):
        what = next((what for pattern, what in _OTHERS if re.search(pattern, architecture)), "no language model")
        return _named(what, architecture)
    family = str(config.get("model_type") or "")
    if _BIDIRECTIONAL.search(family) and "decoder" not in family and not config.get("is_decoder"):
        return _named("an encoder", architecture or family)
    return None


def kind_of_quantisation(config: Mapping[str, Any]) -> Kind | None:
    """A model whose weights are stored in a quantised format; None for weights of a floating-point format."""
    settings = config.get("quantization_config") or config.get("quantization")  # the second is that of MLX
    if not isinstance(settings, dict):
        return None
    method = settings.get("quant_method") or ("MLX" if "quantization_config" not in config else "an unknown method")
    return Kind(
        f"a model quantised by {method}, and of quantised models only GGUF files are loaded",
        "give the model that it was made from, or a GGUF file of it",
    )


def _named(what: str, architecture: str) -> Kind:
    return Kind(f"{what} ({architecture})" if architecture else what, _ADVICE)
