"""/tokenize and /detokenize. They need the language, not the engine."""

from __future__ import annotations

import msgspec

from octavo.core.request import check_ids
from octavo.protocol.tokens import Detokenized, DetokenizeRequest, Tokenized, TokenizeRequest
from octavo.server.chat import chat_tokens, check_template
from octavo.server.front import Front
from octavo.server.logprobs import TokenNames


async def tokenized(front: Front, asked: TokenizeRequest) -> bytes:
    """The JSON of the tokens of a prompt or a conversation. Raises UserError."""
    asked.check()
    front.model(asked.model)
    language = front.language
    if asked.prompt is not None:
        tokenizer, prompt = language.required("prompt"), asked.prompt
        special = asked.add_special_tokens is not False
        tokens = await language.work(len(prompt), lambda: tokenizer.encode(prompt, special=special))
    else:
        check_template(front, asked.chat_template)
        tokens = await chat_tokens(
            language,
            asked.messages or [],
            add_generation_prompt=asked.add_generation_prompt,
            add_special_tokens=asked.add_special_tokens is True,
            variables=asked.chat_template_kwargs,
            continue_final_message=asked.continue_final_message,
            chat_template=asked.chat_template,
            tools=asked.tools,
        )
    answer = Tokenized(len(tokens), _longest(front), tokens)
    if asked.return_token_strs:
        names = TokenNames(language.tokenizer)
        answer.token_strs = await language.work(len(tokens), lambda: [names.name(token) for token in tokens])
    return msgspec.json.encode(answer)


async def detokenized(front: Front, asked: DetokenizeRequest) -> bytes:
    """The JSON of the text of tokens. Raises UserError."""
    front.model(asked.model)
    tokenizer = front.language.required("tokens")
    tokens: list[int] = asked.tokens
    check_ids("tokens", tokens, tokenizer.vocab_size)
    text = await front.language.work(len(tokens), lambda: tokenizer.decode(tokens, skip_special=False))
    return msgspec.json.encode(Detokenized(text))


def _longest(front: Front) -> int | None:
    info = front.status().info
    return None if info is None else info.max_len
