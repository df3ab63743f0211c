"""`octavo quantize`: a folder of plain weights to one of codes, with the record of what that cost."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from octavo.bench import picture, record
from octavo.checkpoint.source import open_source
from octavo.cli import flags, resolve
from octavo.cli.progress import Progress
from octavo.compress.quantize import quantize
from octavo.compress.texts import read_texts
from octavo.core.config import QuantizeConfig
from octavo.core.errors import ModelError
from octavo.core.table import binary
from octavo.models.registry import read_spec
from octavo.text.tokenizer import load_tokenizer

REPORT, PICTURE = "quantization.json", "quantization.png"


def run(args: argparse.Namespace) -> int:
    """Quantize, write, print."""
    asked, texts = flags.section(args, "recipe"), flags.section(args, "texts")
    recipe, drawn, out = QuantizeConfig(**asked), flags.section(args, "report")["picture"], Path(args.out)
    if drawn:
        picture.require()
    begun = record.begin("quantize", {"model": args.model, "out": args.out, **asked, **texts})
    progress = Progress(sys.stderr)
    with open_source(resolve.path(args)) as source:
        given = read_texts(
            load_tokenizer(source),
            read_spec(source).max_len,
            calibration=texts["calibration"],
            tokens=texts["calibration_tokens"],
            perplexity=texts["perplexity"],
        )
        try:
            report = quantize(source, out, recipe, given, lambda share: progress.share("quantizing", share))
        finally:
            progress.close()
    found = record.end(begun, report.plain())
    try:
        (out / REPORT).write_text(json.dumps(found, indent=2) + "\n")
        if drawn:
            picture.quantized(found, out / PICTURE)
    except OSError as error:
        raise ModelError(f"{out}: the model is written, its report is not: {error.strerror or error}") from None
    print(json.dumps(found, indent=2) if args.json else show(found))
    return 0


def show(found: dict[str, Any]) -> str:
    """The report in a few lines."""
    results, out = found["results"], found["settings"]["out"]
    size, perplexity, errors = results["bytes"], results["perplexity"], results["matrices"]
    lines = [f"{out}: {binary(size['after'])}, {size['after'] / size['before']:.1%} of {binary(size['before'])}"]
    if perplexity["after"] is not None:
        share = perplexity["after"] / perplexity["before"] - 1
        lines.append(f"perplexity {perplexity['before']:.3f} before, {perplexity['after']:.3f} after ({share:+.1%})")
    if errors:
        worst = max(errors, key=lambda one: float(one["error"]))
        mean = sum(one["error"] for one in errors) / len(errors)
        lines.append(f"{len(errors)} matrices lose {mean:.1%} on average, {worst['name']} most: {worst['error']:.1%}")
    return "\n".join([*lines, f"the whole report: {Path(out) / REPORT}"])
