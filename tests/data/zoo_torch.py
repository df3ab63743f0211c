"""Architectures whose code their makers ship beside the weights, in plain float32 torch, after what that code computes.

Each is made of settings, called with ids [1, tokens] and gives an object with `logits` [1, tokens, vocab], like a model
of transformers; `save_pretrained` writes what its makers' files hold. Nothing is shared with octavo.
"""

from __future__ import annotations

MODELS: dict = {}
