"""`LLM` of models that pool: what is given of texts and pairs, alone or among others, long ones, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_llama
import tiny_pooling

from octavo import LLM, PoolingParams, SamplingParams
from octavo.core.errors import InvalidValue, UserError

TEXTS = ["the cat sleeps", "a dog", "the dog runs fast, the cat sleeps.", "payment city amount night " * 12, "red!"]
LONG = "the cat runs. the dog sleeps, day and night! " * 20
SETTINGS = {"memory": "1GiB", "threads": 1, "packed_cache": False}


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    with LLM(tiny_pooling.embedder(tmp_path_factory.mktemp("m") / "embedder"), **SETTINGS) as made:
        yield made


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    with LLM(tiny_pooling.classifier(tmp_path_factory.mktemp("m") / "classifier"), **SETTINGS) as made:
        yield made


@pytest.fixture(scope="module")
def crosser(tmp_path_factory):
    with LLM(tiny_pooling.cross_encoder(tmp_path_factory.mktemp("m") / "crosser"), **SETTINGS) as made:
        yield made


def embeddings(llm: LLM, texts, params=None, **more) -> np.ndarray:
    """float32 [texts, numbers]"""
    return np.array([each.outputs.embedding for each in llm.embed(texts, params, use_tqdm=False, **more)], np.float32)


def test_an_embedding_is_the_same_alone_and_among_others(embedder):
    together = embeddings(embedder, TEXTS)
    assert together.shape == (len(TEXTS), 48)
    np.testing.assert_allclose((together**2).sum(axis=1), 1, atol=1e-6)
    for text, given in zip(TEXTS, together, strict=True):
        assert np.array_equal(embeddings(embedder, text)[0], given)
    ids = embedder.tokenizer.encode(TEXTS[0])
    assert np.array_equal(embeddings(embedder, [ids])[0], together[0])
    assert embedder.embed(TEXTS[0], use_tqdm=False)[0].prompt_token_ids == ids


def test_an_embedding_is_the_mean_of_its_tokens(embedder):
    rows = embedder.encode(TEXTS[0], use_tqdm=False, pooling_task="token_embed")[0]
    assert rows.outputs.data.shape == (len(rows.prompt_token_ids), 48)
    whole = embeddings(embedder, TEXTS[0], PoolingParams(normalize=False))[0]
    tokens = embedder.encode(TEXTS[0], PoolingParams(normalize=False), use_tqdm=False, pooling_task="token_embed")
    np.testing.assert_allclose(tokens[0].outputs.data.mean(axis=0), whole, atol=1e-6)


def test_shorter_embeddings_are_the_first_numbers_of_length_one(embedder):
    whole, short = embeddings(embedder, TEXTS), embeddings(embedder, TEXTS, PoolingParams(dimensions=7))
    cut = whole[:, :7]
    np.testing.assert_allclose(short, cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-6)


def test_a_long_text_is_refused_cut_or_taken_in_pieces(embedder):
    with pytest.raises(UserError, match=r"prompts\[1\]: 2\d\d tokens do not fit; the model takes 64.*truncate_prompt"):
        embedder.embed(["a", LONG], use_tqdm=False)
    longest = tiny_pooling.LONGEST
    cut = embedder.embed(LONG, PoolingParams(truncate_prompt_tokens=-1), use_tqdm=False)[0]
    ids = embedder.tokenizer.encode(LONG)
    assert cut.prompt_token_ids == [*ids[: longest - 1], ids[-1]]
    pieces = embedder.tokenizer.encode_pieces(LONG, longest)
    assert [token for piece in pieces for token in piece[1:-1]] == ids[1:-1]
    assert {len(piece) for piece in pieces[:-1]} == {longest}
    vectors = embeddings(embedder, pieces, PoolingParams(normalize=False)).astype(np.float64)
    counts = np.array([len(piece) for piece in pieces])
    mean = (vectors * counts[:, None]).sum(axis=0) / counts.sum()
    given = embeddings(embedder, ["a", LONG], enable_chunked_processing=True)
    np.testing.assert_allclose(given[1], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(given[0], embeddings(embedder, "a")[0], atol=1e-6)
    short = embeddings(embedder, LONG, PoolingParams(dimensions=5), enable_chunked_processing=True)[0]
    np.testing.assert_allclose(short, mean[:5] / np.linalg.norm(mean[:5]), atol=1e-6)


def test_classes_are_chances_of_labels(classifier):
    given = [each.outputs.probs for each in classifier.classify(TEXTS, use_tqdm=False)]
    assert classifier.info.pooling.labels == ["calm", "odd", "wild"]
    np.testing.assert_allclose(np.sum(given, axis=1), 1, atol=1e-6)
    raw = [
        each.outputs.probs for each in classifier.classify(TEXTS, PoolingParams(use_activation=False), use_tqdm=False)
    ]
    powers = np.exp(raw)
    np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), given, atol=1e-6)
    each = classifier.reward(TEXTS[0], use_tqdm=False)[0]
    assert each.outputs.data.shape == (len(each.prompt_token_ids), 3)


def test_a_pair_is_read_with_its_marks_and_types(crosser):
    given = crosser.score(TEXTS[0], TEXTS, use_tqdm=False)
    for text, each in zip(TEXTS, given, strict=True):
        first, second = crosser.tokenizer.encode(TEXTS[0]), crosser.tokenizer.encode(text)
        assert each.prompt_token_ids == [*first, *second[1:]]
        assert 0 < each.outputs.score < 1
    one_text = crosser.encode([given[1].prompt_token_ids], use_tqdm=False)[0].outputs.data[0]
    assert one_text != given[1].outputs.score, "the second text is of the second type"
    cut = crosser.score(TEXTS, TEXTS, PoolingParams(truncate_prompt_tokens=-1), use_tqdm=False)
    assert cut[0].outputs == given[0].outputs
    assert len(cut[3].prompt_token_ids) == crosser.info.max_len


def test_pairs_of_embeddings_are_compared_by_their_angle(embedder):
    vectors = embeddings(embedder, TEXTS).astype(np.float64)
    given = [each.outputs.score for each in embedder.score(TEXTS[1], TEXTS, use_tqdm=False)]
    np.testing.assert_allclose(given, vectors @ vectors[1], atol=1e-6)
    assert given[1] == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("limit", [4, 5, 9, 20, 41, 64])
def test_pairs_are_cut_as_the_library_cuts_them(crosser, limit):
    backend = crosser.tokenizer._backend.from_str(crosser.tokenizer._backend.to_str())
    backend.enable_truncation(limit)
    for pair in ((TEXTS[0], TEXTS[3]), (TEXTS[3], TEXTS[1]), (TEXTS[3], TEXTS[3])):
        theirs = backend.encode(*pair)
        assert crosser.tokenizer.encode_pair(*pair, limit=limit) == (theirs.ids, theirs.type_ids.index(1))
    assert crosser.tokenizer.encode_pair(TEXTS[3], limit=limit)[0] == backend.encode(TEXTS[3]).ids


def test_no_texts_give_nothing(embedder, crosser):
    assert embedder.embed([], use_tqdm=False) == []
    for llm in (embedder, crosser):
        assert llm.score([], [], use_tqdm=False) == llm.score("a", [], use_tqdm=False) == []
        with pytest.raises(InvalidValue, match="data_1: '0 texts' is not accepted; one, or as many as data_2"):
            llm.score([], ["a"], use_tqdm=False)


def test_pieces_take_what_whole_texts_take(embedder, classifier):
    for llm, params, told in (
        (embedder, PoolingParams(truncate_prompt_tokens=9), "truncate_prompt_tokens: 9 is not accepted; only without"),
        (embedder, PoolingParams(dimensions=49), "dimensions: 49 is not accepted; at most 48"),
        (classifier, PoolingParams(), "task: 'embed' is not accepted; classify"),
    ):
        with pytest.raises(InvalidValue, match=rf"prompts\[[01]\]: {told}"):
            llm.embed(["a", LONG], [PoolingParams(), params], use_tqdm=False, enable_chunked_processing=True)


def test_what_a_model_does_not_do_is_refused(embedder, classifier, crosser, tmp_path):
    with pytest.raises(UserError, match="this model generates no text: it gives embeddings"):
        embedder.generate("the cat", use_tqdm=False)
    with pytest.raises(InvalidValue, match=r"prompts\[0\]: task: 'classify' is not accepted; embed, token_embed"):
        embedder.classify("the cat", use_tqdm=False)
    with pytest.raises(InvalidValue, match=r"task: 'score' is not accepted; classify"):
        classifier.score("the", "cat", use_tqdm=False)
    with pytest.raises(InvalidValue, match="data_1: '2 texts' is not accepted; one, or as many as data_2, which are 3"):
        crosser.score(["a", "b"], ["a", "b", "c"], use_tqdm=False)
    with pytest.raises(InvalidValue, match=r"data_2\[0\]: .* a text: a pair is written with the model's marks"):
        crosser.score("a", [[5, 6]], use_tqdm=False)
    with pytest.raises(UserError, match=r"data_2\[1\]: 282 tokens do not fit"):
        embedder.score("a", ["b", LONG], use_tqdm=False)
    with pytest.raises(InvalidValue, match="normalize: False is not accepted; none"):
        classifier.classify("a", PoolingParams(normalize=False), use_tqdm=False)
    for wrong in ({"dimensions": 3}, SamplingParams(), [SamplingParams()], ["a"]):
        for ask in (embedder.embed, lambda text, params, **more: crosser.score(text, text, params, **more)):
            with pytest.raises(InvalidValue, match=r"pooling_params: .* is not accepted; PoolingParams, or a list"):
                ask("a", wrong, use_tqdm=False)
    with pytest.raises(InvalidValue, match="truncate_prompt_tokens: 65 is not accepted; at most 64"):
        embedder.embed("a", PoolingParams(truncate_prompt_tokens=65), use_tqdm=False)
    with pytest.raises(InvalidValue, match=r"prompts\[0\]\[1\]: 96 is not accepted; token ids from 0 to 95"):
        embedder.embed([[5, 96]], use_tqdm=False)
    folder = tiny_llama.write_folder(tmp_path, tokenizer=True)
    with LLM(folder, **SETTINGS) as llm:
        with pytest.raises(UserError, match="this model generates text; serve it with runner=pooling"):
            llm.embed("a", use_tqdm=False)
        assert llm.generate("a", SamplingParams(max_tokens=2), use_tqdm=False)
    with LLM(folder, runner="pooling", **SETTINGS) as llm:
        assert len(llm.embed("a", use_tqdm=False)[0].outputs.embedding) == llm.info.pooling.width
