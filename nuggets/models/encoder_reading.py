"""How an encoder reads a text: the prompt in front of it, and the tokens that it reads at a time. Pure."""

from dataclasses import dataclass
from typing import Any

# Where the configuration names no default, the first of these prompts is used. Clustering compares texts of one kind,
# so a prompt for queries does not fit.
_PROMPTS = ("clustering", "document", "passage", "corpus")


@dataclass(frozen=True, slots=True)
class EncoderReading:
    """An encoder's window in tokens, None if it has no limit, the prompt that is used, and the names of the others."""

    window: int | None
    prompt_name: str | None
    prompt: str
    other_prompts: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Text for log and report."""
        window = "texts of any length" if self.window is None else f"{self.window} tokens at a time"
        prompt = "without a prompt" if self.prompt_name is None else f"with prompt {self.prompt_name} ({self.prompt!r})"
        others = f", not with {', '.join(self.other_prompts)}" if self.other_prompts else ""
        return f"reads {window} {prompt}{others}"


def encoder_reading(encoder: Any) -> EncoderReading:
    """How a sentence-transformers encoder reads a text."""
    prompts = {name: text for name, text in encoder.prompts.items() if text}
    named = encoder.default_prompt_name
    if named is None:
        by_lower_case = {name.lower(): name for name in prompts}
        named = next((by_lower_case[name] for name in _PROMPTS if name in by_lower_case), None)
    others = tuple(sorted(name for name in prompts if name != named))
    return EncoderReading(encoder.max_seq_length, named if named in prompts else None, prompts.get(named, ""), others)
