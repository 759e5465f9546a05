"""Token ids of a demonstration or an anchor, and what was done to its texts to get them. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from nuggets.engine.interface import Continuation

MIN_RESPONSE_SHARE = 0.5  # of a response's tokens; with less than this, a score says little about the response


class PromptFault(StrEnum):
    """Why an example must not be scored. Reports and scores use no other values."""

    RESPONSE_CUT = "response_cut"
    NO_ROOM = "no_room"
    NOT_REPRODUCED = "not_reproduced"


FAULT_MEANINGS = {
    PromptFault.RESPONSE_CUT: f"less than {MIN_RESPONSE_SHARE:.0%} of the response fits the token limit: raise it",
    PromptFault.NO_ROOM: "no token of the response fits the token limit: raise it",
    PromptFault.NOT_REPRODUCED: (
        "the tokenizer has no tokens for a part of the texts: use a model whose tokenizer covers them, or remove the "
        "row from the pool"
    ),
}


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """A demonstration's token ids, with the facts that log, report and scores count.

    `cut_prompt`: tokens cut out of the middle of the prompt. `cut_response`: tokens cut from the end of the response.
    `special_tokens`: literal special tokens in the texts, which are tokenised as text. `is_altered`: the tokenizer
    reproduces the texts except for case, accents, compatibility characters and white space. An example with a `fault`
    must not be scored.
    """

    ids: tuple[int, ...]
    cut_prompt: int = 0
    cut_response: int = 0
    special_tokens: int = 0
    is_altered: bool = False
    fault: PromptFault | None = None


@dataclass(frozen=True, slots=True)
class AnchorPrompt(PromptTokens):
    """An anchor's token ids, the index at which its response starts, and the same facts."""

    response_start: int = 1

    @property
    def continuation(self) -> Continuation:
        """The anchor as the engine takes it; without response tokens if no token of the response fits."""
        return Continuation(self.ids, self.response_start)

    @property
    def response_tokens(self) -> int:
        """How many tokens are scored."""
        return self.continuation.response_tokens
