"""What is asked with a schema follows it, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import Future
from functools import lru_cache

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.grammar import MOST_CHARACTERS, GrammarError, Grammars
from serve.request import GenerationRequest, SamplingParams, Target
from serve.sampler import Row, generator, sample
from tests import tiny
from tests.serve.structured import VOCABULARY, engine_of_json, tokenizer

TOKENS = tokenizer()
GRAMMARS = Grammars(TOKENS, {TOKENS.eos_token_id})
CLOSED = {"type": "object", "additionalProperties": False}
POINT = CLOSED | {
    "properties": {"x": {"type": "integer"}, "ok": {"type": "boolean"}},
    "required": ["x", "ok"],
}
# Towards what ends strings, lists and numbers, so that random models come to an end.
ENDING = {TOKENS.convert_tokens_to_ids(piece): 40.0 for piece in ('"', '"}', '",', "]", "]}", "}", ",")}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    made = engine_of_json(tmp_path_factory.mktemp("json"), slots=8)
    yield made
    made.stop()


def request(schema, tokens=200, target=Target("static"), **params):  # noqa: B008
    text = schema if schema is None or isinstance(schema, str) else json.dumps(schema)
    asked = SamplingParams(tokens, json_schema=text, **params)
    return GenerationRequest(TOKENS.encode("Answer as JSON: "), asked, target)


def objects(inner):
    properties = st.dictionaries(st.sampled_from(["a", 'b"c', "é", "x/y", "\n"]), inner, max_size=3)
    return properties.flatmap(
        lambda found: st.builds(
            lambda required: CLOSED | {"properties": found, "required": sorted(required)},
            st.sets(st.sampled_from(sorted(found))) if found else st.just(set()),
        )
    )


LEAVES = st.one_of(
    st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"type": "number"}, {"type": "integer"}]),
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 6)),
    st.builds(lambda low: {"type": "integer", "minimum": low, "maximum": low + 30}, st.integers(-50, 50)),
    st.builds(lambda few: {"enum": few}, st.lists(st.sampled_from(["é", 'q"', 1, None, 2.5]), min_size=1)),
    st.sampled_from([{"type": "string", "pattern": "^[ab]{1,3}$"}, {"type": "string", "format": "date"}]),
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        objects(inner),
        st.builds(lambda one: {"type": "array", "items": one, "minItems": 1, "maxItems": 3}, inner),
        st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner),
    ),
    max_leaves=5,
)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(schema=SCHEMAS, seed=st.integers(0, 2**31), weight=st.floats(0.0, 1.0))
def test_what_ends_follows_its_schema(engine, schema, seed, weight):
    mixed = Target("mixture", mixture={"t0": weight, "t1": 1 - weight})
    asked = request(schema, target=mixed, temperature=1.0, seed=seed, logit_bias=ENDING)
    answers = engine.generate(asked.choices(3))
    for answer in answers:
        if answer.finish_reason == "stop":
            jsonschema.Draft202012Validator(schema).validate(json.loads(answer.text))
    assert any(answer.finish_reason == "stop" for answer in answers)


def test_any_object_and_its_keys_have_one_spelling_only(engine):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    constraint = GRAMMARS.start(json.dumps(schema)).result()
    with pytest.raises(GrammarError, match="cannot go on"):
        for token in TOKENS.encode('{"\\u0061":"not an integer"}'):
            constraint.accept(token)
    at_once = {TOKENS.convert_tokens_to_ids("}"): 1000.0}
    (answer,) = engine.generate([request({"type": "object"}, logit_bias=at_once)])
    assert (json.loads(answer.text), answer.finish_reason) == ({}, "stop")


def test_the_end_of_the_schema_ends_the_answer_even_where_end_of_text_is_ignored(engine):
    (answer,) = engine.generate([request({"const": [True, 12]}, ignore_eos=True)])
    assert json.loads(answer.text) == [True, 12]
    assert (answer.finish_reason, answer.token_ids[-1]) == ("stop", TOKENS.eos_token_id)


def test_too_few_tokens_leave_it_unfinished(engine):
    (answer,) = engine.generate([request({"const": "long enough"}, tokens=4)])
    assert (answer.finish_reason, len(answer.token_ids)) == ("length", 4)
    assert '"long enough"'.startswith(answer.text)


def test_bias_and_stop_strings_choose_within_the_schema(engine):
    letters = {letter: TOKENS.convert_tokens_to_ids(letter) for letter in "rgb!"}
    for letter, word in zip("rgb", ("red", "green", "blue"), strict=True):
        bias = {letters[letter]: 100.0, letters["!"]: 100.0}
        asked = request({"enum": ["red", "green", "blue"]}, logit_bias=bias)
        assert json.loads(engine.generate([asked])[0].text) == word
    (answer,) = engine.generate([request({"const": {"x": "one two"}}, stop=("two",))])
    assert "".join(answer.text.split()) == '{"x":"one' and answer.finish_reason == "stop"


def test_log_probabilities_are_the_models_own(engine):
    (answer,) = engine.generate([request({"const": "a"}, logprobs=1)])
    first, prompt = answer.logprobs[0], request(None).prompt
    free = engine.generate([GenerationRequest(prompt, SamplingParams(1, logprobs=1), Target("static"))])[0]
    assert first.top == free.logprobs[0].top
    assert first.token_id != first.top[0][0] and first.logprob < first.top[0][1]


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    temperatures=st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=5),
    penalty=st.sampled_from([0.0, 1.5]),
)
def test_rows_without_a_schema_are_the_same_to_the_bit(seed, temperatures, penalty):
    logits = torch.randn(len(temperatures), VOCABULARY, generator=torch.Generator().manual_seed(seed))
    before = logits.clone()

    def run(constrained):
        rows = []
        for i, temperature in enumerate(temperatures):
            params = SamplingParams(
                1, temperature=temperature, seed=seed + i, presence_penalty=penalty, logprobs=3
            )
            held = GRAMMARS.start(json.dumps(POINT)).result() if constrained and i % 2 else None
            rows.append(Row(params, generator(params), [1, 2], [3], held))
        return sample(logits, rows)

    assert run(True)[::2] == run(False)[::2]
    opening = {TOKENS.convert_tokens_to_ids(piece) for piece in ("{", '{"')}
    assert {one.token for one in run(True)[1::2]} <= opening
    assert torch.equal(logits, before)


def test_neighbours_in_the_engine_answer_as_alone(engine):
    free = request(None, tokens=30, temperature=1.0, seed=5, logprobs=2)
    (alone,) = engine.generate([free])
    beside = engine.generate([request(POINT, temperature=1.0, seed=1), free, request(POINT)])
    assert (beside[1].token_ids, beside[1].text) == (alone.token_ids, alone.text)
    assert [one.logprob for one in beside[1].logprobs] == pytest.approx(
        [one.logprob for one in alone.logprobs]
    )
    assert all(set(json.loads(one.text)) == {"x", "ok"} for one in beside[::2] if one.finish_reason == "stop")


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "nosuch"}, "Invalid type: nosuch"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "'a' is unsatisfiable"),
        ({"$ref": "#/$defs/loop", "$defs": {"loop": {"$ref": "#/$defs/loop"}}}, "no token of this model"),
        ({"$ref": "http://example.org/schema"}, "does not fetch"),
        ({"title": "x" * MOST_CHARACTERS}, f"at most {MOST_CHARACTERS}"),
        ('{"minimum": NaN}', "expected value"),
        ('{"title": "\\ud800"}', "hex escape"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused_with_the_reason(engine, schema, reason):
    with pytest.raises(GrammarError, match="schema of response_format") as refused:
        engine.generate([request(schema)])
    assert reason in str(refused.value) and "\n" not in str(refused.value)


def test_a_tokenizer_without_bytes_is_refused():
    with pytest.raises(GrammarError, match=r"tokenizer cannot be used .* decoder"):
        Grammars(tiny.tokenizer(), {2}).start("{}").result()


def test_a_model_without_end_of_text_is_refused():
    with pytest.raises(GrammarError, match="no end-of-text token"):
        Grammars(TOKENS, {len(TOKENS)}).start("{}").result()


def test_an_answer_at_a_dead_end_fails_alone(tmp_path):
    lame = engine_of_json(tmp_path, tokenizer(without="}"))
    try:
        neighbour: Future[str] = Future()
        free = request(None, tokens=20)
        threading.Thread(target=lambda: neighbour.set_result(lame.generate([free])[0].text)).start()
        with pytest.raises(GrammarError, match="no token of this model can continue"):
            lame.generate([request(CLOSED | {"properties": {}})])
        assert neighbour.result(20) == lame.generate([free])[0].text
    finally:
        lame.stop()


def test_a_schema_is_compiled_once_and_nobody_waits_for_it(engine, monkeypatch):
    held, begun, compiled = threading.Event(), threading.Event(), []

    def slow(schema):
        begun.set()
        held.wait(20)
        compiled.append(schema)
        return engine.grammars._compile(schema)

    monkeypatch.setattr(engine.grammars, "_compiled", lru_cache(4)(slow))

    async def text(asked):
        return "".join([event.text async for event in engine.stream(asked)])

    async def both():
        waiting = [asyncio.create_task(text(request({"const": 12}))) for _ in range(3)]
        await asyncio.to_thread(begun.wait, 20)
        free = await text(request(None, tokens=5))
        assert not any(one.done() for one in waiting)
        held.set()
        return free, await asyncio.gather(*waiting)

    free, constrained = asyncio.run(both())
    assert free and constrained == ["12"] * 3 and len(compiled) == 1
