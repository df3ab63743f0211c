"""LangChain's and LlamaIndex's OpenAI classes: a conversation with a tool each, whole and streamed."""

from __future__ import annotations

import pytest
import tiny_llama
from scripted_engine import ScriptedEngine
from served import served, until
from tool_chat import CALL, TEMPLATE

from octavo.checkpoint.source import open_source
from octavo.text.tokenizer import load_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
FORECAST = "rain until noon"


def weather(city: str) -> str:
    """The weather of a city."""
    assert city == "Osloé"
    return FORECAST


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A model that calls `weather`, and with its result at hand answers."""
    with open_source(tiny_llama.write_folder(tmp_path_factory.mktemp("tiny"), tokenizer=True)) as source:
        tokenizer = load_tokenizer(source)
    tokenizer.chat_template = TEMPLATE

    def says(request):
        told = FORECAST in tokenizer.decode(request.prompt, skip_special=False)
        return [*tokenizer.encode("<think>Hm.</think>It rains." if told else CALL), 2]

    with served(ScriptedEngine(says), lambda: tokenizer) as made:
        until(made.front.ready)
        yield made


def test_langchain(server):
    import langchain_openai
    from langchain_core.messages import HumanMessage
    from langchain_core.tools import tool

    weather_tool = tool(weather)
    model = langchain_openai.ChatOpenAI(model="tiny", base_url=server.url + "/v1", api_key="none", max_retries=0)
    model = model.bind_tools([weather_tool])
    messages = [HumanMessage("Oslo?")]
    whole = model.invoke(messages)
    streamed = None
    for chunk in model.stream(messages):
        streamed = chunk if streamed is None else streamed + chunk
    for answer in (whole, streamed):
        [call] = answer.tool_calls
        assert (call["name"], call["args"]) == ("weather", {"city": "Osloé"})
        assert answer.response_metadata["finish_reason"] == "tool_calls"
        result = weather_tool.invoke(call)
        assert model.invoke([*messages, answer, result]).content == "It rains."


def test_langchain_forces_a_form_with_a_tool(server):
    import langchain_openai

    model = langchain_openai.ChatOpenAI(model="tiny", base_url=server.url + "/v1", api_key="none", max_retries=0)
    schema = {"title": "weather", "description": "d", "type": "object", "properties": {"city": {"type": "string"}}}
    forced = model.with_structured_output(schema, method="function_calling")
    forced.invoke("Oslo?")  # the engine is scripted: only what is asked counts
    asked = server.front.client.requests[-1]
    assert '"weather' in asked.grammar and asked.grammar_field == "tools"


def test_llamaindex(server):
    from llama_index.core.llms import ChatMessage
    from llama_index.core.tools import FunctionTool
    from llama_index.llms import openai_like

    tool = FunctionTool.from_defaults(weather)
    model = openai_like.OpenAILike(
        model="tiny",
        api_base=server.url + "/v1",
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=0,
    )
    history = [ChatMessage(role="user", content="Oslo?")]
    whole = model.chat_with_tools([tool], chat_history=history)
    *_, streamed = model.stream_chat_with_tools([tool], chat_history=history)
    for answer in (whole, streamed):
        [call] = model.get_tool_calls_from_response(answer)
        assert (call.tool_name, call.tool_kwargs) == ("weather", {"city": "Osloé"})
        told = {"tool_call_id": call.tool_id, "name": "weather"}
        result = ChatMessage(role="tool", content=weather(**call.tool_kwargs), additional_kwargs=told)
        assert model.chat([*history, answer.message, result]).message.content == "It rains."
