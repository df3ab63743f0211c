"""A logits processor for Octavo: makes some tokens likelier, the more so the longer none of them came."""

import numpy as np


def favour(arguments, vocab):
    """arguments: `tokens`, a list of token ids, and `strength`, what is added for each token without one of them."""
    tokens = np.array(arguments.pop("tokens"), np.int32)
    strength = float(arguments.pop("strength", 0.1))
    if arguments:
        raise ValueError(f"unknown: {', '.join(arguments)}")
    if not len(tokens) or tokens.min() < 0 or tokens.max() >= vocab:
        raise ValueError(f"tokens: ids from 0 to {vocab - 1}, at least one")

    def process(prompt, generated, logits):
        met = np.flatnonzero(np.isin(generated, tokens))
        since = len(generated) if not len(met) else len(generated) - 1 - met[-1]
        logits[tokens] += strength * since
        return logits

    return process
