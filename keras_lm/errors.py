"""The one exception that means «the input is wrong», as against «the program is wrong».

The command line prints a `UserError` as one line and ends with status 2; a notebook shows it as the `ValueError` it is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the caller gave cannot be used; the message says what to do, in one line."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """A `UserError` for a name that is not in a table, with the nearest one that is.

    Args:
        kind: What the name should have been, e.g. `"tokenizer"`.
        name: The name as it was given.
        known: The names that exist.

    Example:

    >>> str(unknown_name("model", "lstn", ["gru", "lstm"]))
    "unknown model 'lstn': did you mean 'lstm'? (known: gru, lstm)"
    """
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f": did you mean {nearest[0]!r}?" if nearest else ""
    return UserError(f"unknown {kind} {name!r}{hint} (known: {', '.join(known)})")
