"""What counts as an answer that only repeats itself."""

from __future__ import annotations

import msgspec

from octavo.core.errors import InvalidValue
from octavo.core.ranges import check_integer

MAX_PATTERN = 1024  # tokens of the longest pattern that is looked for
MAX_COUNT = 2**16


class RepetitionDetectionParams(msgspec.Struct, frozen=True, kw_only=True):
    """Ends an answer whose last tokens are one pattern, min_count times in a row, with vLLM's names and defaults.

    The pattern has min_pattern_size (0: 1) to max_pattern_size tokens, at most MAX_PATTERN; 0: nothing is looked for.
    min_count is 2 or more. Raises InvalidValue, naming the field.
    """

    max_pattern_size: int = 0
    min_pattern_size: int = 0
    min_count: int = 0

    def __post_init__(self) -> None:
        most = "repetition_detection.max_pattern_size"
        check_integer(most, self.max_pattern_size, 0, MAX_PATTERN, " (0: nothing is looked for)")
        least = "repetition_detection.min_pattern_size"
        check_integer(least, self.min_pattern_size, 0, MAX_PATTERN, " (0: 1)")
        if self.min_pattern_size > self.max_pattern_size:
            accepted = f"at most max_pattern_size, which is {self.max_pattern_size}"
            raise InvalidValue(least, self.min_pattern_size, accepted)
        if self.max_pattern_size:
            check_integer("repetition_detection.min_count", self.min_count, 2, MAX_COUNT)
