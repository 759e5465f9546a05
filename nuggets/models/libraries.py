"""The modules that take seconds to import, for a process that has time to import them ahead of their first use."""


def model_libraries(*, encoder: bool) -> tuple[str, ...]:
    """Modules that opening a language model imports, and last those that opening an encoder imports."""
    language_model = (
        "torch",
        "transformers.models.auto.tokenization_auto",
        "transformers.models.auto.modeling_auto",
        "transformers.modeling_utils",
        "nuggets.engine.choose",
    )
    return (*language_model, "sentence_transformers") if encoder else language_model
