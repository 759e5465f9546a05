"""The structure of a language model, built by transformers without its weights and compared with its files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuggets.errors import InputError
from nuggets.models.files import ModelFiles
from nuggets.models.gguf_file import embedding_rows, gguf_architecture, parse_gguf_once
from nuggets.models.library_errors import one_line
from nuggets.models.loading_report import check_report, reading_weights
from nuggets.models.weight_files import check_weight_files

_DEFAULT_CONTEXT = 2048  # tokens, of a model whose configuration names no limit
# What the messages of transformers say, which has no classes for these errors.
_UNKNOWN_GGUF = "is not supported yet"
_UNKNOWN_TYPE = "does not recognize this architecture"


@dataclass(frozen=True, slots=True)
class Structure:
    """A model without its weights. `rows`: for how many token ids it has embeddings and logits."""

    architecture: str
    context: int
    parameters: int
    rows: int


def read_structure(files: ModelFiles, *, trust_remote_code: bool = False) -> Structure:
    """The structure of a model. Raises InputError if it is no causal model, or its weights are not what it needs."""
    named = f"model='{files.name}'"
    folder = Path(files.folder)
    paths = [] if files.gguf else check_weight_files(named, folder)
    rows = [embedding_rows(named, folder / files.gguf)] if files.gguf else []
    try:
        with reading_weights(named, show_report=False):
            config = _config(files, trust_remote_code)
            model = _without_weights(files, config, trust_remote_code)
            if paths:
                check_report(files, _report(model, paths), head=_head(model))
    except InputError:
        raise
    except Exception as error:  # a model's own code and its configuration may raise anything
        raise InputError(
            f"{named} can't be loaded from {files.folder} ({one_line(error)}): check its files, or give another model"
        ) from error
    text = config.get_text_config()
    return Structure(
        architecture=text.model_type,
        context=getattr(text, "max_position_embeddings", None) or _DEFAULT_CONTEXT,
        parameters=sum(weight.numel() for weight in model.parameters()),
        rows=min([*rows, _rows(model)]),
    )


def location(files: ModelFiles) -> dict[str, Any]:
    """The arguments of from_pretrained that name a model."""
    if files.gguf:
        parse_gguf_once()
    return {"pretrained_model_name_or_path": files.folder, **({"gguf_file": files.gguf} if files.gguf else {})}


def _config(files: ModelFiles, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, __version__

    named = f"model='{files.name}'"
    try:
        config = AutoConfig.from_pretrained(**location(files), trust_remote_code=trust_remote_code)
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise _needs_own_code(named) from error
        if files.gguf and _UNKNOWN_GGUF in str(error):
            raise InputError(
                f"{named} is a GGUF file of architecture {gguf_architecture(Path(files.folder, files.gguf))}, which "
                f"transformers {__version__} does not load: give the model that it was made from, with safetensors"
            ) from error
        if _UNKNOWN_TYPE not in str(error):
            raise
        raise InputError(
            f"{named} is of a type that transformers {__version__} does not know (model_type in {files.folder}/"
            "config.json): install a newer transformers, or give another model"
        ) from error
    own_code = getattr(config, "auto_map", None) or {}
    if type(config) not in AutoModelForCausalLM._model_mapping:
        if "AutoModelForCausalLM" not in own_code:
            raise InputError(
                f"{named} is a model of type {config.model_type}, which transformers {__version__} does not load as a "
                "causal language model: give a causal language model"
            )
        if not trust_remote_code:
            raise _needs_own_code(named)
    return config


def _needs_own_code(named: str) -> InputError:
    return InputError(
        f"{named} needs Python code from its own folder, which is not run: read that code, then name the model with "
        "trust_remote_code (--trust-remote-code), or give another model"
    )


def _without_weights(files: ModelFiles, config: Any, trust_remote_code: bool) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def _report(model: Any, paths: list[Path]) -> Any:
    """What transformers reports of loading the weights' names and shapes into a model of this class."""
    from transformers.modeling_utils import load_state_dict

    weights = {name: weight for path in paths for name, weight in load_state_dict(path, map_location="meta").items()}
    _, report = type(model).from_pretrained(
        None,
        config=model.config,
        state_dict=weights,
        device_map={"": "meta"},
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that the report lists them
    )
    return report


def _head(model: Any) -> str | None:
    """The name of the weight of the language-model head."""
    head = model.get_output_embeddings()
    return next((f"{name}.weight" for name, module in model.named_modules() if module is head), None)


def _rows(model: Any) -> int:
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    rows = [module.weight.shape[0] for module in modules if module is not None]
    return int(min(rows, default=model.config.get_text_config().vocab_size))
