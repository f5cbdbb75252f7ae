"""What sends the load of one run: `run.execute.execute`, or a stand-in with the same form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.errors import BadInput

if TYPE_CHECKING:
    from loadgen.run.stage import Runner


def real_runner() -> Runner:
    """The one that sends.

    Raises:
        BadInput: it is not part of this program.
    """
    try:
        from loadgen.run.execute import execute
    except ImportError as error:
        why = f"this program was built without the part that sends load ({error.name or error})"
        raise BadInput("experiment", "", "", why) from error
    return execute
