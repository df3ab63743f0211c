"""Tokenizers, templates, detokenization, stop strings: everything that knows text."""
