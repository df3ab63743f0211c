"""What transformers answers about text: token ids, decoded texts, rendered chat templates.

usage: make_text_fixtures.py OUT [MODEL.gguf]

Writes into OUT, committed as tests/data/text:
    smollm2_vocab.json.gz  the tokenizer keys of the default model's GGUF (SmolLM2-135M-Instruct, Apache-2.0);
                           copied from beside this script where no MODEL is given
    smollm2_tokens.json    texts and their ids, and ids and their texts, for that vocabulary
    spm_vocab.json         a small SentencePiece vocabulary as GGUF keys, trained here
    spm_tokens.json        texts and their ids for it
    splits.json            texts, and by name of a pre-tokenizer how it cuts them
    templates.json         chat templates, inputs, and the text or the error they give
"""

from __future__ import annotations

import gzip
import json
import random
import sys
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import regex
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from template_cases import CASES, TEMPLATES
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS, convert_gguf_tokenizer

HERE = Path(__file__).parent
CORPUS = """\
The octavo is a format of books: a sheet is folded three times, into eight leaves, that is sixteen pages.
A page is cut, a page is read, a page is turned; the reader's thumb doesn't care how the sheet was folded.
    for i in range(100):\n        print(i, "pages", i * 16)\n        # 1600 in all, 25600 in sixteen books
In the year 1501 Aldus Manutius printed Virgil in octavo. In 1502, 1503 and 1515 others followed; 10 20 30 2000.
Die Größe des Blattes hängt von der Größe des Bogens ab. Où est la bibliothèque ? À côté de l'église, là-bas.
Ελληνικά και русский текст, немного. 一张纸折三次成八页。八页纸,十六面。日本語のテキストも少し。
http://example.org/pages?first=1&last=16 -- "quoted", (bracketed), [listed]; {"json": [1, 22, 333, 4444]} !!! ...
the then there these those this that with within without the the the and and and ing ing ion tion ation s s s
aaaaaaaaaaaaaaaabbbbbbbbaaaaaaaa        x         yy    zzz =========== ---------- ########## ~~~~~~
"""
FIXED = [
    "", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "\n  \n", "a", " a", "a ", "  a  ", "Hello", " Hello",
    "Hello world", "Hello, world!", " Hello,  world! ", "HELLO WORLD", "hello_world helloWorld hello-world",
    "I'm you're he's we'll they'd I've don't DON'T I'M 'tis ''quoted'' 's", "can\u2019t won\u2019t", "...", "!?!?!?",
    "1", "12", "123", "1234567890", " 1 12 123", "3.14159", "1,000,000.00", "2024-01-31T12:34:56Z", "0x1F 0b10 1e-9",
    "a1b2c3", "a 1", "a  1", "a   123", "x    7y", "1  2   3", "\n 1", "\t\t42", "½ ² Ⅷ ٣ 三 ①", "10%", "$5 €7 £8 ¥9",
    "def f(x):\n    return x + 1\n", "if (a && b) {\n\tc();\n}\n", "#include <stdio.h>\nint main() { return 0; }",
    "SELECT * FROM t WHERE a = 'b';", "<html><body class=\"x\">&amp;</body></html>", "{\"a\": [1, 2.5, null, true]}",
    "https://example.org/a/b?c=d&e=f#g", "user@example.org", "C:\\Windows\\System32", "/usr/local/bin:/usr/bin",
    "$x^2 + y^2 = z^2$ \\frac{a}{b}", "| a | b |\n|---|---|\n| 1 | 2 |", "- [ ] todo\n- [x] done", "**bold** _it_ `c`",
    "café", "cafe\u0301", "naïve Zoë Ångström", "A\u030angstro\u0308m", "ﬁ ﬂ ﬀ", "Straße STRASSE", "İstanbul ıI",
    "Ελληνικά γλώσσα", "Привет, мир! Как дела?", "Українська їжак", "שלום עולם", "مرحبا بالعالم ٠١٢٣", "नमस्ते दुनिया",
    "สวัสดีชาวโลก", "ကမ္ဘာ", "ខ្មែរ", "こんにちは世界", "カタカナ ｶﾀｶﾅ", "你好，世界！", "我想在apple工作1314151天～",
    "안녕하세요 세계",
    "㍿ ㎏ ℃", "𝒳 𝔘 𝟙𝟚", "😀", "😀😀😀", "👩‍👩‍👧‍👦 family", "🇫🇷🇯🇵", "👍🏽", "☕️❤️", "🦙.cpp 🚀 (normal) ✅", "a😀b 😀 c",
    "\u00a0nbsp\u00a0", "\u200bzero\u200bwidth\u200d", "\u3000ideographic\u3000", "\u2028line\u2029para", "\ufeffbom",
    "\u0000nul\u0000", "\u0001\u0002\u0007\u001b[31m", "\u007f\u0080\u009f", "\ufffd", "\ufffe\uffff", "\U0010ffff",
    "    indent", "\tindent", "\t\t\tdeep", "trailing   ", "two\n\n\nlines", "crlf\r\nline\r\n", "\r", "a\n b\n  c",
    "a" * 40, "ab" * 30, " " * 33, "\n" * 17, "." * 25, "=" * 64, "-" * 7, "#" * 12, "\t" * 9, "é" * 20, "好" * 15,
    "the quick brown fox jumps over the lazy dog", "The Quick Brown Fox", "antidisestablishmentarianism",
    "pneumonoultramicroscopicsilicovolcanoconiosis", "internationalization i18n", "xylophonezzzqqq", "asdf qwer zxcv",
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>user\nHi<|im_end|>\n", "a<|im_end|>b", "<|im_end|>" * 3,
    " <|im_start|> ", "<|im_start", "im_end|>", "<|im_start|>assistant\n", "<repo_name>x<file_sep>y", "<|unknown|>",
    "<s>", "</s>", "<s>a</s> b", "<unk>", "<0x41>", "▁", "▁▁a", " ▁ ", "Ġ", "ĠHello", "Ċ",
]  # fmt: skip
PARTS = [
    "a", "b", "the ", "  ", "   ", " ", "\n", "\t", "1", "23", " 456", "é", "e\u0301", "漢字", "😀", "👩‍👩‍👧",
    "<|im_end|>", "<s>", "'s", "'LL", "!", "...", "http://", "x=1;",
    "ก็", "नमस्ते", "\u00a0", "\u200b", "\r\n", "Ω", "ﬁ", "½", "٣", "_",
    "\u3000", "ß", "İ", "Hello", "world", "ing", "tion", " un", "(", ")", "{", "-", "русский", "ab", "aa", "page",
]  # fmt: skip


def texts() -> list[str]:
    """Texts by hand, then texts put together at random."""
    rng = random.Random(7)
    return FIXED + ["".join(rng.choices(PARTS, k=rng.randint(2, 12))) for _ in range(80)]


def read_vocab(path: Path) -> dict[str, Any]:
    """The keys of a GGUF file that describe its tokenizer."""
    fields = GGUFReader(path).fields
    return {key: field.contents() for key, field in fields.items() if key.startswith("tokenizer.")}


def load(keys: dict[str, Any]) -> Any:
    """The tokenizer transformers makes of a GGUF file with these keys and no tensors."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.gguf"
        writer = GGUFWriter(path, "llama")
        for name in ("block_count", "context_length", "embedding_length", "feed_forward_length"):
            writer.add_uint32(f"llama.{name}", 64)
        writer.add_uint32("llama.attention.head_count", 4)
        for key, value in keys.items():
            kind = GGUFValueType.ARRAY if isinstance(value, list) else GGUFValueType.get_type(value)
            writer.add_key_value(key, value, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return AutoTokenizer.from_pretrained(folder, gguf_file=path.name)


def smollm2(keys: dict[str, Any]) -> dict[str, Any]:
    """Transformers reads this vocabulary without the split of its model (digits, then GPT-2's pattern). With the split
    put in it gives `ids`; what it gives without, where that differs, is kept as `unsplit`."""
    tokenizer = load(keys)
    backend = tokenizer.backend_tokenizer
    plain = {text: backend.encode(text).ids for text in texts()}
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    encoded = []
    for text, unsplit in plain.items():
        ids = backend.encode(text).ids
        encoded.append({"text": text, "ids": ids} | ({} if ids == unsplit else {"unsplit": unsplit}))
    rng = random.Random(8)
    decoded = []
    for i in range(60):
        ids = [rng.randrange(len(tokenizer)) if i % 2 else rng.randrange(17, 273) for _ in range(rng.randint(1, 24))]
        ids += rng.choices(range(3), k=i % 3)
        kept, skipped = (tokenizer.decode(ids, skip_special_tokens=skip) for skip in (False, True))
        decoded.append({"ids": ids, "text": kept} | ({} if skipped == kept else {"skipped": skipped}))
    return {"encoded": encoded, "decoded": decoded}


def train(lines: list[list[str]], count: int) -> list[tuple[str, str]]:
    """Byte-pair merges: `count` times the pair that occurs most often, the first in the alphabet among equals."""
    merges: list[tuple[str, str]] = []
    for _ in range(count):
        pairs = Counter(pair for line in lines for pair in pairwise(line))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        lines = [merged(line, best) for line in lines]
    return merges


def merged(line: list[str], pair: tuple[str, str]) -> list[str]:
    """A line with one pair made one, from left to right."""
    out: list[str] = []
    for symbol in line:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def spm_vocab() -> dict[str, Any]:
    """Three control tokens, 256 bytes, merged pieces, best first, then single characters; a token of the user's own."""
    lines = [list("▁" + line.replace(" ", "▁")) for line in CORPUS.splitlines()]
    pieces = list(dict.fromkeys(left + right for left, right in train(lines, 420)))
    letters = sorted(set("".join(map("".join, lines))))
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + pieces + letters + ["<|im_end|>"]
    ranked = len(pieces) + len(letters)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(i) for i in range(ranked)] + [0.0],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * ranked + [4],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }


def spm(keys: dict[str, Any]) -> list[dict[str, Any]]:
    """As transformers reads files whose prefix space comes from a normalizer: what llama.cpp does with all of them."""
    renamed = {"tokenizer_type": "llama", "tokens": keys["tokenizer.ggml.tokens"]}
    renamed |= {name: keys[f"tokenizer.ggml.{name}"] for name in ("scores", "token_type")}
    backend, _ = convert_gguf_tokenizer("phi3", renamed)
    answers = []
    for text in texts():
        ids = backend.encode(text, add_special_tokens=False).ids
        answers.append({"text": text, "ids": ids, "decoded": backend.decode(ids, skip_special_tokens=False)})
    return answers


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CODER = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}"]
V3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
CASED = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481"
    "\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b"
    "\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b"
    "\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
LLM = [
    r"[\r\n]",
    rf"\s?[{CASED}]+",
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+$",
    CODER[3],
    r"\p{N}",
]
# Splits that transformers knows only from a model's own tokenizer.json, spelled out there as here.
SPELLED = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "deepseek-coder": CODER,
    "deepseek-llm": LLM,
    "deepseek-v3": [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", V3],
}


def cut_slowly(text: str, patterns: list[str]) -> list[str]:
    """Cut by each pattern in turn: its matches, and what lies between them."""
    pieces = [text]
    for pattern in patterns:
        cut = []
        for piece in pieces:
            end = 0
            for match in regex.finditer(pattern, piece):
                cut += [piece[end : match.start()], match[0]]
                end = match.end()
            cut.append(piece[end:])
        pieces = [piece for piece in cut if piece]
    return pieces


def splits() -> dict[str, Any]:
    """By name of a pre-tokenizer, for each text the lengths of its pieces in bytes."""
    answers: dict[str, Any] = {"texts": texts()}
    for name in ("llama-bpe", "qwen2", "qwen35", "tekken", "gpt-4o"):
        assert name in GGUF_PRE_TOKENIZER_SPLITS
        tokens = {"tokenizer_type": "gpt2", "pre_tokenizer_type": name, "tokens": ["a", "b", "ab"], "merges": ["a b"]}
        cut = convert_gguf_tokenizer("llama", tokens)[0].pre_tokenizer.pre_tokenize_str
        answers[name] = [[len(piece) for piece, _ in cut(text)] for text in texts()]  # a letter for each byte
    for name, patterns in SPELLED.items():
        answers[name] = [[len(piece.encode()) for piece in cut_slowly(text, patterns)] for text in texts()]
    return answers


def templates(tokenizer: PreTrainedTokenizerFast) -> list[dict[str, Any]]:
    """Every template with every input."""
    answers = []
    for name, template in ({"smollm2": tokenizer.chat_template} | TEMPLATES).items():
        for case in CASES:
            arguments = {"add_generation_prompt": True} | case
            try:
                text = tokenizer.apply_chat_template(
                    arguments.pop("messages"), chat_template=template, tokenize=False, **arguments
                )
                answer = {"text": text}
            except Exception as error:
                answer = {"error": str(error)}
            answers.append({"name": name, "template": template, "case": case} | answer)
    return answers


def write(path: Path, value: Any) -> None:
    """One entry a line, so that changes can be read."""
    rows = value if isinstance(value, list) else None
    text = json.dumps(value) if rows is None else "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]"
    path.write_text(text + "\n")


def main(out: Path, model: Path | None) -> None:
    """Write the fixtures."""
    out.mkdir(parents=True, exist_ok=True)
    packed = out / "smollm2_vocab.json.gz"
    if model is None:
        packed.write_bytes((HERE / "text" / packed.name).read_bytes())
    else:
        packed.write_bytes(gzip.compress(json.dumps(read_vocab(model)).encode(), 9, mtime=0))
    keys = json.loads(gzip.decompress(packed.read_bytes()))
    write(out / "smollm2_tokens.json", smollm2(keys))
    write(out / "spm_vocab.json", spm_vocab())
    write(out / "spm_tokens.json", spm(spm_vocab()))
    write(out / "splits.json", splits())
    write(out / "templates.json", templates(load(keys)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
