"""Writes a GGUF file of random weights in the shape of a known model, for benchmarks of speed.

usage: python make_shape.py SHAPE {BF16,Q8_0,Q4_0} OUT.gguf --tokenizer FILE.gguf
SHAPE: one of SHAPES below

The architecture of dense shapes is "llama" whatever their own, so that every engine loads them; those of mixtures of
experts are their own, their experts about equally likely. Matrices have the type asked for, but for the token table of
Q4_0, which is Q8_0 as in files that people use, and the head where it is not that table. Weights are drawn from a pool
of random blocks, so that a gigabyte takes seconds: what they compute means nothing. The tokenizer is copied from
FILE.gguf, its list of tokens filled up to the vocabulary. Needs gguf and numpy.
"""

import argparse
from collections.abc import Iterator

import gguf
import numpy as np

SHAPES = {
    "qwen2.5-0.5b": {"layers": 24, "width": 896, "inner": 4864, "heads": 14, "kv_heads": 2, "vocab": 151936},
    "llama-3.2-1b": {"layers": 16, "width": 2048, "inner": 8192, "heads": 32, "kv_heads": 8, "vocab": 128256},
    # Untied, with norms of queries and keys.
    "olmoe-1b-7b": {"layers": 16, "width": 2048, "inner": 1024, "heads": 16, "kv_heads": 16, "vocab": 50304}
    | {"head_dim": 128, "experts": 64, "top": 8},
    # A quarter of its 48 layers.
    "qwen3-30b-a3b-12": {"layers": 12, "width": 2048, "inner": 768, "heads": 32, "kv_heads": 4, "vocab": 151936}
    | {"head_dim": 128, "experts": 128, "top": 8},
}
MIXTURES = {"olmoe-1b-7b": "olmoe", "qwen3-30b-a3b-12": "qwen3moe"}  # general.architecture
HEAD_DIM = 64
POSITIONS = 8192
SPREAD = 0.02  # standard deviation of the weights
POOL_BLOCKS = 1 << 18  # of 32 weights
BLOCK_BYTES = {"BF16": 64, "Q8_0": 34, "Q4_0": 18}  # of 32 weights


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("type", choices=BLOCK_BYTES)
    parser.add_argument("out")
    parser.add_argument("--tokenizer", required=True, metavar="FILE.gguf", help="whose tokenizer is copied")
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    architecture, head_dim = MIXTURES.get(args.shape, "llama"), shape.get("head_dim", HEAD_DIM)
    writer = gguf.GGUFWriter(args.out, architecture)
    writer.add_name(f"{args.shape}, random weights")
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(shape["width"])
    writer.add_block_count(shape["layers"])
    writer.add_feed_forward_length(shape["inner"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    if "experts" in shape:
        writer.add_expert_count(shape["experts"])
        writer.add_expert_used_count(shape["top"])
        writer.add_expert_feed_forward_length(shape["inner"])
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape["vocab"])
    copy_tokenizer(writer, gguf.GGUFReader(args.tokenizer), shape["vocab"])
    rng = np.random.default_rng(0)
    pools = {kind: pool(rng, kind) for kind in BLOCK_BYTES}
    entries = list(tensors(shape, args.type, architecture))
    for name, dims, kind in entries:
        size = 4 * int(np.prod(dims)) if kind == "F32" else int(np.prod(dims)) // 32 * BLOCK_BYTES[kind]
        # As raw bytes, a quantized tensor's innermost size counts bytes.
        stored = dims if kind == "F32" else (*dims[:-1], dims[-1] // 32 * BLOCK_BYTES[kind])
        dtype = np.dtype(np.float32 if kind == "F32" else np.uint8)
        writer.add_tensor_info(name, stored, dtype, size, raw_dtype=getattr(gguf.GGMLQuantizationType, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, dims, kind in entries:
        if kind == "F32" and len(dims) == 2:  # a router
            writer.write_tensor_data(rng.normal(0, SPREAD, dims).astype(np.float32))
        elif kind == "F32":
            writer.write_tensor_data(np.ones(dims, np.float32))
        else:
            writer.write_tensor_data(taken(rng, pools[kind], int(np.prod(dims)) // 32))
    writer.close()


def tensors(shape: dict[str, int], kind: str, architecture: str) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, dimensions and type of every tensor."""
    width, inner, head_dim = shape["width"], shape["inner"], shape.get("head_dim", HEAD_DIM)
    queries, keys = shape["heads"] * head_dim, shape["kv_heads"] * head_dim
    experts = (shape["experts"],) if "experts" in shape else ()
    ending = "_exps.weight" if experts else ".weight"
    yield "token_embd.weight", (shape["vocab"], width), "Q8_0" if kind == "Q4_0" else kind
    for layer in range(shape["layers"]):
        at = f"blk.{layer}."
        yield at + "attn_norm.weight", (width,), "F32"
        yield at + "attn_q.weight", (queries, width), kind
        yield at + "attn_k.weight", (keys, width), kind
        yield at + "attn_v.weight", (keys, width), kind
        yield at + "attn_output.weight", (width, queries), kind
        yield at + "ffn_norm.weight", (width,), "F32"
        if experts:
            whole = architecture == "olmoe"  # all heads are normed together
            yield at + "attn_q_norm.weight", (queries if whole else head_dim,), "F32"
            yield at + "attn_k_norm.weight", (keys if whole else head_dim,), "F32"
            yield at + "ffn_gate_inp.weight", (*experts, width), "F32"
        yield at + "ffn_gate" + ending, (*experts, inner, width), kind
        yield at + "ffn_up" + ending, (*experts, inner, width), kind
        yield at + "ffn_down" + ending, (*experts, width, inner), kind
    yield "output_norm.weight", (width,), "F32"
    if experts:
        yield "output.weight", (shape["vocab"], width), "Q8_0" if kind == "Q4_0" else kind


def pool(rng: np.random.Generator, kind: str) -> np.ndarray:
    """Random blocks of 32 weights as a type stores them. uint8 [POOL_BLOCKS, bytes]"""
    if kind == "BF16":
        values = rng.normal(0, SPREAD, (POOL_BLOCKS, 32)).astype(np.float32)
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    codes = rng.integers(0, 256, (POOL_BLOCKS, BLOCK_BYTES[kind] - 2), dtype=np.uint8)
    scale = np.full((POOL_BLOCKS, 1), SPREAD / (74 if kind == "Q8_0" else 4.6), np.float16)
    return np.concatenate([scale.view(np.uint8), codes], axis=1)


def taken(rng: np.random.Generator, blocks: np.ndarray, count: int) -> np.ndarray:
    """So many blocks of a pool, from a random place on, around and around. uint8 [bytes]"""
    return np.resize(np.roll(blocks, int(rng.integers(len(blocks))), axis=0), (count, blocks.shape[1])).reshape(-1)


def copy_tokenizer(writer: gguf.GGUFWriter, reader: gguf.GGUFReader, vocab: int) -> None:
    """All keys of the tokenizer, with as many tokens as the vocabulary has."""
    for key, field in reader.fields.items():
        if not key.startswith("tokenizer."):
            continue
        value = field.contents()
        if key == "tokenizer.ggml.tokens":
            value = [*value, *(f"<|unused_{i}|>" for i in range(vocab - len(value)))]
        elif key == "tokenizer.ggml.token_type":
            value = [*value, *[int(gguf.TokenType.UNUSED)] * (vocab - len(value))]
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, field.types[0])


if __name__ == "__main__":
    main()
