"""What transformers reports about the weights that it loads: held back, shown or turned into an error."""

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nuggets.errors import InputError
from nuggets.models.files import ModelFiles
from nuggets.models.weight_files import unreadable_weights

_SHOWN = 3  # names in a message


@contextmanager
def reading_weights(model: str, *, show_report: bool = True) -> Iterator[None]:
    """Turn unreadable weights into an InputError that names the model; hold back transformers' bars and load report.

    The report lists missing and unexpected weights. It is shown after loading, and not at all if loading fails with an
    error that names the cause.
    """
    from safetensors import SafetensorError
    from transformers.utils import logging as library_logging

    library_logging.disable_progress_bar()  # bars fill the logs of a scheduler
    held_back: list[logging.LogRecord] = []

    def hold_back(record: logging.LogRecord) -> bool:
        held_back.append(record)
        return False

    handlers = [
        *logging.getLogger("transformers").handlers[:1]
    ]  # the library's own handler; others were added on purpose
    for handler in handlers:
        handler.addFilter(hold_back)
    try:
        yield
    except (SafetensorError, struct.error) as error:
        raise unreadable_weights(model, error) from error
    finally:
        for handler in handlers:
            handler.removeFilter(hold_back)
    for handler in handlers if show_report else ():
        for record in held_back:
            handler.handle(record)


def check_report(files: ModelFiles, report: Any, *, head: str | None = None) -> None:
    """Raise InputError if weights would be initialized at random, because the files hold none of their name and shape.

    `head`: the name of the weight of the language-model head.
    """
    absent = sorted(report["missing_keys"]) + sorted(str(entry[0]) for entry in report["mismatched_keys"])
    if absent == [head]:
        raise InputError(
            f"model='{files.name}' is a model without a language-model head ({head} is not among its weights in "
            f"{files.folder}): give a causal language model"
        )
    if absent:
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        raise InputError(
            f"model='{files.name}': its weights in {files.folder} are not those that its config.json describes "
            f"(without any that fit: {', '.join(absent[:_SHOWN])}{more}): copy all of its files again"
        )
