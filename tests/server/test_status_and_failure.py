"""Status from the first moment to the last; engines that load, fail, die, are full or drain; keys; metrics."""

import resource
import subprocess
import sys
import threading

import httpx
import openai
import pytest
import tiny_llama
from prometheus_client.parser import text_string_to_metric_families
from scripted_engine import ScriptedEngine, scripted
from served import served, until

from octavo.checkpoint.source import open_source
from octavo.core.errors import InvalidValue, ModelError
from octavo.server.config import ServerConfig
from octavo.server.run import bind, serve
from octavo.text.tokenizer import load_tokenizer

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]
LONG = {"prompt": "a long answer", "max_tokens": 300, "stream": True}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    source = open_source(tiny_llama.write_folder(tmp_path_factory.mktemp("tiny"), tokenizer=True))
    yield load_tokenizer(source)
    source.close()


def test_status_is_answered_while_everything_still_loads(tokenizer):
    engine, let_load = ScriptedEngine(state="loading"), threading.Event()
    engine.progress, engine.detail = 0.25, "weights"

    def load():
        assert let_load.wait(20)
        return tokenizer

    with served(engine, load) as server:
        assert server.ask("GET", "/live").json == {"status": "live"}
        assert set(server.ask("GET", "/version").json) == {"version"}
        assert server.ask("GET", "/v1/models").json["data"][0]["max_model_len"] is None
        assert b"octavo_ready 0.0" in server.ask("GET", "/metrics").body
        for path in ("/ready", "/health"):
            answer = server.ask("GET", path)
            assert (answer.status, answer.json["status"], answer.json["progress"]) == (503, "loading", 0.25)
            assert "weights" in answer.json["detail"]
        for path, fields in (
            (COMPLETE, {"prompt": "a"}),
            (CHAT, {"messages": MESSAGES}),
            ("/tokenize", {"prompt": "a"}),
        ):
            answer = server.post(path, **fields)
            assert (answer.status, answer.error["code"]) == (503, "unavailable")
            assert int(answer.headers["retry-after"]) > 0
        engine.state = "ready"
        answer = server.ask("GET", "/ready")
        assert (answer.status, answer.json["tokenizer"]) == (503, "loading")
        let_load.set()
        until(lambda: server.ask("GET", "/ready").status == 200)
        talk = server.connect()
        talk.send("HEAD", "/health")
        assert talk.head()[0] == 200
        talk.close()
        assert server.post(COMPLETE, prompt="a").status == 200


def test_no_sign_of_life_means_not_ready(tokenizer):
    engine = ScriptedEngine()
    with served(engine, lambda: tokenizer, heartbeat_seconds=5.0) as server:
        until(server.front.ready)
        engine.heartbeat_age = 6.0
        answer = server.ask("GET", "/ready")
        assert (answer.status, answer.json["status"]) == (503, "stalled")
        assert server.post(COMPLETE, prompt="a").status == 503
        assert server.ask("GET", "/live").status == 200


def test_the_engine_dies_in_the_middle(tokenizer):
    engine = ScriptedEngine(seconds_per_token=0.002)
    with served(engine, lambda: tokenizer) as server:
        until(server.front.ready)
        streams = [server.connect() for _ in range(2)]
        streams[0].send("POST", COMPLETE, LONG)
        streams[1].send("POST", CHAT, {"messages": MESSAGES, "stream": True, "n": 2})
        whole = server.connect()
        whole.send("POST", COMPLETE, LONG | {"stream": False})
        for talk in streams:
            assert talk.head()[0] == 200
            assert talk.chunk()
        engine.crash()
        for talk in streams:
            last = b"".join(iter(talk.chunk, b"")).decode().split("\n\n")[-2]
            assert last.startswith('data: {"error":') and "signal 9" in last
            talk.close()
        answer = whole.answer()
        assert (answer.status, answer.error["type"]) == (500, "server_error")
        whole.close()
        ready = server.ask("GET", "/ready")
        assert (ready.status, ready.json["status"], ready.json["restarts"]) == (503, "restarting", 1)
        assert server.post(COMPLETE, prompt="a").status == 503
        engine.state = "ready"
        assert server.post(COMPLETE, prompt="a").status == 200
        until(lambda: server.front.inflight == 0)
        assert engine.live == {}


def test_the_client_library_raises_what_the_stream_says(tokenizer):
    engine = ScriptedEngine(lambda request: [70, 71, None])
    with (
        served(engine, lambda: tokenizer) as server,
        openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client,
    ):
        until(server.front.ready)
        with pytest.raises(openai.APIError, match="not finite"):
            list(client.completions.create(model="tiny", prompt="a", stream=True))
        with pytest.raises(openai.InternalServerError, match="not finite"):
            client.completions.create(model="tiny", prompt="a")


def test_one_sequences_failure_ends_its_call_and_no_other(tokenizer):
    def answer(request):
        return [None] if request.prompt[0] == 300 else scripted(request)

    engine = ScriptedEngine(answer, seconds_per_token=0.001)
    with served(engine, lambda: tokenizer) as server:
        until(server.front.ready)
        good = server.connect()
        good.send("POST", COMPLETE, LONG)
        until(lambda: engine.generated)
        assert server.post(COMPLETE, prompt=[[70], [300], [71]], max_tokens=400).status == 500
        assert good.answer().events[-1] == "[DONE]"
        good.close()
        assert engine.live == {}


def test_a_fault_of_our_own_is_a_500_that_tells_nothing(tokenizer, caplog):
    def answer(request):
        raise RuntimeError("secret /root/path 0x7f")

    with served(ScriptedEngine(answer), lambda: tokenizer) as server:
        until(server.front.ready)
        for path, fields in ((COMPLETE, {"prompt": "a"}), (CHAT, {"messages": MESSAGES, "stream": True})):
            answer = server.ask("POST", path, fields, x_request_id="mine")
            assert (answer.status, answer.headers["x-request-id"]) == (500, "mine")
            assert "secret" not in answer.error["message"]
        assert server.front.inflight == 0
        assert "secret" in caplog.text and "mine" in caplog.text


def test_a_full_queue_is_429_and_takes_nothing(tokenizer):
    engine = ScriptedEngine(slots=1, max_queued=2)
    engine.held = True
    with served(engine, lambda: tokenizer) as server:
        until(server.front.ready)
        talks = [server.connect() for _ in range(2)]
        for talk in talks:
            talk.send("POST", COMPLETE, LONG)
        until(lambda: len(engine.live) == 2)
        for stream in (True, False):  # one of the two choices still fits
            answer = server.post(COMPLETE, prompt="a", n=2, stream=stream)
            assert (answer.status, answer.error["code"]) == (429, "queue_full")
            assert int(answer.headers["retry-after"]) > 0
        assert len(engine.live) == 2
        engine.held = False
        for talk in talks:
            assert talk.answer().events[-1] == "[DONE]"
            talk.close()


def test_more_requests_than_the_front_takes(tokenizer):
    engine = ScriptedEngine()
    engine.held = True
    with served(engine, lambda: tokenizer, max_requests=1) as server:
        until(server.front.ready)
        talk = server.connect()
        talk.send("POST", COMPLETE, LONG)
        until(lambda: engine.live)
        assert server.post("/tokenize", prompt="a").status == 429
        assert server.ask("GET", "/live").status == 200
        engine.held = False
        assert talk.answer().status == 200
        talk.close()
        until(lambda: server.front.inflight == 0)
        assert server.post("/tokenize", prompt="a").status == 200


@pytest.mark.parametrize("patient", [True, False])
def test_draining(tokenizer, patient):
    engine = ScriptedEngine(seconds_per_token=0.001)
    with served(engine, lambda: tokenizer, drain_seconds=20.0 if patient else 0.05) as server:
        until(server.front.ready)
        talk, late = server.connect(), server.connect()
        late.send("GET", "/live")
        assert late.answer().status == 200
        talk.send("POST", COMPLETE, LONG)
        assert talk.head()[0] == 200
        talk.chunk()
        engine.held = True
        server.server.end()
        until(lambda: server.front.draining)
        late.send("GET", "/ready")
        assert late.answer().json["status"] == "draining"
        late.send("POST", COMPLETE, {"prompt": "a"})
        answer = late.answer()
        assert answer.status == 503
        late.close()
        engine.held = not patient
        rest = b"".join(iter(talk.chunk, b""))
        talk.close()
        assert rest.endswith(b"[DONE]\n\n") if patient else b'"error"' in rest and b"[DONE]" not in rest
    assert engine.stopped and engine.live == {}


def test_serve_ends_with_what_kept_it_from_starting(tokenizer):
    config = ServerConfig(names=("tiny",), port=0)

    def broken():
        raise ModelError("tokenizer.json: not a tokenizer")

    with pytest.raises(ModelError, match="not a tokenizer"):
        serve(ScriptedEngine(state="loading"), broken, config)
    engine = ScriptedEngine(state="dead")
    engine.status = lambda status=engine.status: status_without_info(status())
    engine.detail = "model.gguf: truncated"
    with pytest.raises(ModelError, match="truncated"):
        serve(engine, lambda: tokenizer, config)
    assert engine.stopped


def status_without_info(status):
    return type(status)(state=status.state, detail=status.detail)


def test_a_taken_port_is_known_before_anything_is_loaded():
    sock = bind(ServerConfig(names=("a",), port=0))
    sock.listen()
    with pytest.raises(InvalidValue, match="port"):
        bind(ServerConfig(names=("a",), port=sock.getsockname()[1]))
    sock.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"names": ()},
        {"names": ("",)},
        {"port": -1},
        {"port": 65536},
        {"max_body_bytes": 0},
        {"drain_seconds": float("nan")},
        {"stall_seconds": -1.0},
        {"metrics_compat": "other"},
        {"api_keys": ("",)},
    ],
)
def test_settings_that_cannot_be(fields):
    with pytest.raises(InvalidValue) as caught:
        ServerConfig(**{"names": ("tiny",)} | fields)
    assert caught.value.field == next(iter(fields))


OPEN = ["/live", "/ready", "/health", "/version", "/metrics", "/openapi.json", "/docs"]
POOLED = ["/v1/embeddings", "/pooling", "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank"]
LOCKED = [
    *(("POST", path) for path in POOLED),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/tiny"),
    ("POST", COMPLETE),
    ("POST", CHAT),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/"),
    ("GET", "/v1/nothing"),
    ("GET", "/live/"),
    ("GET", "//v1/models"),
    ("GET", "/v1%2fmodels"),
    ("GET", "/metrics/../v1/models"),
]


def test_every_path_is_open_or_needs_the_key(tokenizer):
    with served(ScriptedEngine(), lambda: tokenizer, api_keys=("first key", "second")) as server:
        until(server.front.ready)
        paths = {route.path for route in server.app.routes}
        assert paths == {
            *(*OPEN, *POOLED, "/v1/models", "/v1/models/{name:path}"),
            *(COMPLETE, CHAT, "/tokenize", "/detokenize"),
        }
        for path in OPEN:
            assert server.ask("GET", path).status == 200
        for method, path in LOCKED:
            for headers in (
                {},
                {"authorization": "Bearer wrong"},
                {"authorization": "Bearer "},
                {"authorization": "Basic second"},
                {"authorization": "second"},
                {"host": "a/live"},
                {"host": "a?x=/live#"},
            ):
                answer = server.ask(method, path, {}, **headers)
                assert (answer.status, answer.error["code"]) == (401, "invalid_api_key"), (path, headers)
        for key in ("first key", "second"):
            for scheme in ("Bearer", "bearer"):
                answer = server.ask("GET", "/v1/models", authorization=f"{scheme} {key}")
                assert answer.status == 200


def test_a_model_without_a_tokenizer_runs_on_token_ids():
    engine = ScriptedEngine()
    with served(engine, lambda: None) as server:
        until(server.front.ready)
        fields = {"max_tokens": 5, "logprobs": 1, "return_token_ids": True, "echo": True}
        answer = server.post(COMPLETE, prompt=[5, 6], **fields)
        choice = answer.json["choices"][0]
        assert choice["token_ids"] == scripted(engine.requests[-1])[:5]
        assert (choice["text"], choice["prompt_token_ids"]) == ("", [5, 6])
        assert choice["logprobs"]["tokens"][:3] == ["token_id:5", "token_id:6", f"token_id:{choice['token_ids'][0]}"]
        for path, wrong in (
            (COMPLETE, {"prompt": "text"}),
            (COMPLETE, {"prompt": [5], "stop": "a"}),
            (CHAT, {"messages": MESSAGES}),
            ("/tokenize", {"prompt": "a"}),
            ("/detokenize", {"tokens": [5]}),
        ):
            answer = server.post(path, **wrong)
            assert answer.status == 400
            assert "tokenizer" in answer.error["message"]


def test_tokenize_and_detokenize(tokenizer):
    with served(ScriptedEngine(), lambda: tokenizer) as server:
        until(server.front.ready)
        text = "Hello wörld <|im_end|> \U0001f600"
        answer = server.post("/tokenize", prompt=text, return_token_strs=True).json
        assert answer["tokens"] == tokenizer.encode(text)
        assert (answer["count"], answer["max_model_len"]) == (len(answer["tokens"]), 512)
        assert len(answer["token_strs"]) == answer["count"] and "<|im_end|>" in answer["token_strs"]
        assert server.post("/detokenize", tokens=answer["tokens"]).json == {"prompt": text}
        assert server.post("/detokenize", tokens=[]).json == {"prompt": ""}
        assert server.post("/tokenize", prompt="").json["tokens"] == []
        chat = server.post("/tokenize", messages=MESSAGES).json["tokens"]
        assert tokenizer.decode(chat, skip_special=False).endswith("<|im_start|>assistant\n")
        bare = server.post("/tokenize", messages=MESSAGES, add_generation_prompt=False).json["tokens"]
        assert chat[: len(bare)] == bare


def families(server):
    text = server.ask("GET", "/metrics").body.decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(page, name, **labels):
    return next(
        sample.value
        for family in page.values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@pytest.mark.parametrize("compat", ["none", "vllm"])
def test_metrics(tokenizer, compat):
    engine = ScriptedEngine()
    with served(engine, lambda: tokenizer, metrics_compat=compat) as server:
        until(server.front.ready)
        for _ in range(3):
            server.post(COMPLETE, prompt="a", max_tokens=5, n=2)
        server.post(COMPLETE, prompt="")
        engine.held = True
        talk = server.connect()
        talk.send("POST", COMPLETE, LONG)
        until(lambda: "running" in engine.live.values())
        page = families(server)
        assert value(page, "octavo_ready") == 1
        assert value(page, "octavo_requests_running") == 1
        assert value(page, "octavo_requests_total", endpoint=COMPLETE, status="200") == 3
        assert value(page, "octavo_requests_total", endpoint=COMPLETE, status="400") == 1
        assert value(page, "octavo_time_to_first_token_seconds_count") == 6
        assert value(page, "octavo_inter_token_seconds_count") == 24
        assert value(page, "octavo_request_seconds_count") == 3
        assert value(page, "octavo_choices_finished_total", reason="length") == 6
        assert server.front.meter.text().count(b"octavo_choices_finished_total{") == 1
        assert value(page, "octavo_generated_tokens_total") == 30
        assert value(page, "octavo_kv_pages", state="held") == 1
        assert value(page, "octavo_kv_waste_ratio") == 1 / 32
        assert value(page, "octavo_prefix_cache_hits_tokens_total") == 2
        assert value(page, "octavo_memory_planned_bytes", category="weights") == 7
        assert value(page, "octavo_memory_resident_bytes") == 11
        assert value(page, "octavo_step_predicted_seconds") == 0.25
        assert value(page, "octavo_step_tokens") == 40
        assert not any(sample.name.endswith("_created") for family in page.values() for sample in family.samples)
        theirs = {name for name in page if name.startswith("vllm:")}
        assert bool(theirs) == (compat == "vllm")
        if compat == "vllm":
            own = {"model_name": "tiny"}
            assert value(page, "vllm:num_requests_running", **own) == 1
            assert value(page, "vllm:num_requests_waiting", **own) == 0
            assert value(page, "vllm:kv_cache_usage_perc", **own) == 1 / 64
            assert value(page, "vllm:gpu_cache_usage_perc", **own) == 1 / 64
            assert value(page, "vllm:prefix_cache_queries_total", **own) == 8
            assert value(page, "vllm:gpu_prefix_cache_hit_rate", **own) == 0.25
            assert value(page, "vllm:generation_tokens_total", **own) == 30
            assert value(page, "vllm:request_success_total", finished_reason="length", **own) == 6
            assert value(page, "vllm:time_to_first_token_seconds_count", **own) == 6
            assert value(page, "vllm:cache_config_info", block_size="32", num_gpu_blocks="64", **own) == 1
        engine.held = False
        talk.answer()
        talk.close()


def test_what_clients_send_makes_no_new_series(tokenizer):
    with served(ScriptedEngine(), lambda: tokenizer) as server:
        until(server.front.ready)

        def storm():
            for word in ("a", "b", "c"):
                server.ask("GET", f"/{word}")
                server.ask("PATCH", "/live")
                server.ask("GET", f"/v1/models/{word}")
                server.post(COMPLETE, prompt="x", model=word)
                server.post(COMPLETE, **{word: 1})

        storm()
        before = sum(len(family.samples) for family in families(server).values())
        storm()
        assert sum(len(family.samples) for family in families(server).values()) <= before + 1


def test_in_process_over_asgi(tokenizer):
    """The application needs no uvicorn: any ASGI server may mount it."""
    import asyncio

    from octavo.server.app import create_app

    app = create_app(ScriptedEngine(), lambda: tokenizer, ServerConfig(names=("tiny",), drain_seconds=0.1))

    async def talk():
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
        ):
            await asyncio.to_thread(until, app.state.front.ready)
            whole = await client.post(COMPLETE, json={"prompt": "a", "seed": 1})
            streamed = await client.post(COMPLETE, json={"prompt": "a", "seed": 1, "stream": True})
            return whole.json()["choices"][0]["text"], streamed.text

    text, events = asyncio.run(talk())
    assert events.endswith("data: [DONE]\n\n")
    assert text


@pytest.mark.parametrize(("soft", "hard", "clients"), [(256, 4096, 4096 - 64), (64, 64, 8), (512, 20000, 8192)])
def test_the_limit_on_open_files_is_raised_as_far_as_it_may_be(soft, hard, clients):
    """In a process of its own: a hard limit that was lowered cannot be raised again."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip(f"this machine allows fewer than {hard} files")
    code = (
        "import resource; from octavo.server.run import connections; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); "
        "print(connections(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [str(clients), str(max(soft, clients + 64) if hard > 64 else soft)]
