"""Ends of sequences that are no answers: whoever reads outputs of the engine raises them here."""

from __future__ import annotations

from octavo.core.errors import EngineFault, Unavailable, UserError
from octavo.core.plan import Output
from octavo.text.assemble import Delta


def check_end(said: Output | Delta, field: str = "") -> None:
    """Raise what an output, or what it became, says that is not the end of an answer; `field`: of its grammar."""
    if said.finish == "error" and said.stop_reason == "grammar":
        raise UserError(f"{field}: {said.error}", field, "invalid_grammar")
    if said.finish == "error":
        raise EngineFault(said.error or "the engine failed")
    if said.finish == "abort":
        raise Unavailable("the request was ended because the server is shutting down")
