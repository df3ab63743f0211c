"""What transformers answers, greedily, from the float32 weights that a Llama GGUF stands for.

usage: make_smollm2_fixture.py MODEL.gguf OUT.json

Writes one object a prompt: `name`, `ids` (the prompt), `tokens` (48 greedy ones, past the end of text too) and `gaps`:
for each token, how far its logit lay above the second best.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

STEPS = 48
PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TEXTS = {
    "story": "Once upon a time, in a small village by the sea, there lived an old fisherman who",
    "science": "Photosynthesis is the process by which plants convert light into chemical energy. It takes place in",
    "history": "The Roman Empire reached its greatest extent under the emperor Trajan. After his death,",
    "news": "LONDON, Tuesday - The central bank raised its main interest rate by a quarter of a point today, "
    "saying that",
    "letter": "Dear Dr. Meyer,\n\nThank you for your letter of 3 March. I am writing to",
    "python": 'def fibonacci(n: int) -> list[int]:\n    """The first n Fibonacci numbers."""\n',
    "c": "#include <stdio.h>\n\nint main(int argc, char **argv) {\n    for (int i = 1; i < argc; i++) {\n",
    "sql": "SELECT customers.name, COUNT(orders.id) AS total\nFROM customers\nLEFT JOIN orders ON",
    "json": '{"name": "Alice", "age": 31, "address": {"street": "12 Main Street", "city":',
    "list": "Five tips for learning a new language:\n\n1. Practice every day.\n2.",
    "maths": "Question: A train travels 60 miles in 1.5 hours. What is its average speed?\n"
    "Answer: Let's think step by step.",
    "sum": "1 + 1 = 2\n2 + 2 = 4\n3 + 3 = 6\n4 + 4 =",
    "french": "La Révolution française commence en 1789, lorsque",
    "german": "Die Hauptstadt von Deutschland ist Berlin. Die Stadt hat",
    "spanish": "El agua es un recurso natural muy importante porque",
    "chinese": "今天天气很好，我们一起去",
    "unicode": "Ελληνικά, русский, 日本語, العربية and emoji 🎉🚀 are all",
    "repeat": "the cat sat on the mat. " * 12,
}
CHATS = {
    "chat": [{"role": "user", "content": "What is the capital of France, and what is it known for?"}],
    "chat-turns": [
        {"role": "system", "content": "You are a terse assistant that answers in one sentence."},
        {"role": "user", "content": "Why is the sky blue?"},
        {"role": "assistant", "content": "Because air scatters blue light more than red."},
        {"role": "user", "content": "And why are sunsets red?"},
    ],
}


def llama(reader: GGUFReader) -> LlamaForCausalLM:
    """The model in float32, GGUF's interleaving of rotary pairs undone."""

    def value(key: str) -> Any:
        return reader.fields[f"llama.{key}"].contents()

    width, heads, kv_heads = (value(k) for k in ("embedding_length", "attention.head_count", "attention.head_count_kv"))
    state = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        match tensor.name.split("."):
            case ["token_embd", _]:
                key = "model.embed_tokens.weight"
            case ["output_norm", _]:
                key = "model.norm.weight"
            case ["output", _]:
                key = "lm_head.weight"
            case [_, layer, part, _]:
                key = f"model.layers.{layer}.{PARTS[part]}.weight"
                if part in ("attn_q", "attn_k"):
                    count = heads if part == "attn_q" else kv_heads
                    pairs = weight.reshape(count, weight.shape[0] // count // 2, 2, -1)
                    weight = pairs.swapaxes(1, 2).reshape(weight.shape)
        state[key] = torch.from_numpy(weight.copy())
    config = LlamaConfig(
        vocab_size=state["model.embed_tokens.weight"].shape[0],
        hidden_size=width,
        intermediate_size=value("feed_forward_length"),
        num_hidden_layers=value("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=value("context_length"),
        rms_norm_eps=value("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": value("rope.freq_base")},
        tie_word_embeddings="lm_head.weight" not in state,
        eos_token_id=None,  # generation goes on past it
    )
    model = LlamaForCausalLM(config).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and missing in ([], ["lm_head.weight"]), (missing, unexpected)
    model.tie_weights()
    return model


def greedy(model: LlamaForCausalLM, prompts: list[list[int]]) -> list[dict[str, list[Any]]]:
    """The likeliest continuation of each, and how clear each choice was. All at once, padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    settings = GenerationConfig(do_sample=False, max_new_tokens=STEPS, output_logits=True, return_dict_in_generate=True)
    out = model.generate(ids, attention_mask=mask, generation_config=settings)
    best = torch.stack(out.logits, dim=1).topk(2)  # [prompts, STEPS, 2]
    gaps = (best.values[..., 0] - best.values[..., 1]).double().round(decimals=4).tolist()
    return [
        {"ids": prompt, "tokens": tokens, "gaps": clear}
        for prompt, tokens, clear in zip(prompts, best.indices[..., 0].tolist(), gaps, strict=True)
    ]


def main(source: str, out: str) -> None:
    """Write the fixture."""
    path = Path(source)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = llama(GGUFReader(path))
    prompts = {name: tokenizer.encode(text) for name, text in TEXTS.items()}
    for name, messages in CHATS.items():
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompts[name] = tokenizer.encode(text, add_special_tokens=False)
    with torch.inference_mode():
        answers = greedy(model, list(prompts.values()))
    named = [{"name": name} | answer for name, answer in zip(prompts, answers, strict=True)]
    Path(out).write_text("[\n" + ",\n".join(map(json.dumps, named)) + "\n]\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
