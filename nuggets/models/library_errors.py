"""What libraries raise for a model's files, as one line of a message."""

from textwrap import shorten

# What transformers, tokenizers and sentence-transformers raise for files that they can't use. Not RuntimeError: that is
# what a failed device raises, too, and a retry can help there.
LIBRARY_ERRORS = (
    *(AssertionError, AttributeError, ImportError, LookupError, NotImplementedError),
    *(OSError, SyntaxError, TypeError, ValueError),
)
_SPEAKS_FOR_ITSELF = (OSError, ValueError, ImportError)
_WIDTH = 300


def one_line(error: BaseException) -> str:
    """The message of an error without its line breaks, cut at some hundred characters."""
    text = shorten(str(error), _WIDTH, placeholder=" ...")
    if isinstance(error, _SPEAKS_FOR_ITSELF) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
