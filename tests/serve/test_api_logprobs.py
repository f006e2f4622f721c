"""Log-probabilities on the wire: OpenAI's two shapes, whole and streamed."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable
from itertools import chain
from typing import Any

import openai
import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from serve.api.logprobs import spelling
from serve.detokenizer import Detokenizer
from serve.request import Event, GenerationRequest, TokenLogprob
from tests.serve.server import serving
from tests.serve.stub_engine import TOKENIZER, StubEngine, chat, complete, frames

TEXT = "né 😀x"
IDS = TOKENIZER.encode(TEXT)
EURO = list("€".encode())


def letter(text: str) -> int:
    (token,) = TOKENIZER.encode(text)
    return int(token)


def joined(lists: Iterable[list[Any]]) -> list[Any]:
    return list(chain.from_iterable(lists))


class Speller(StubEngine):
    """Answers with TEXT, a byte a token, then the end of text; the real detokenizer holds text back.

    The token number i has the log-probability -i; the likeliest beside it is always "z" at -0.5, then
    an excluded one.
    """

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Event]:
        self.requests.append(request)
        routing, wanted = self._routing(request), request.params.logprobs
        detokenizer = Detokenizer(TOKENIZER, request.params.stop)
        yield Event("", (), routing)
        for number, token in enumerate((*IDS, TOKENIZER.eos_token_id)):
            ended = token == TOKENIZER.eos_token_id
            text = detokenizer.finish() if ended else detokenizer.push(token)
            ended = ended or detokenizer.stopped
            found: tuple[TokenLogprob, ...] = ()
            if wanted is not None:
                likeliest = ((letter("z"), -0.5), (token, -float(number)), (letter("q"), -math.inf))
                found = (TokenLogprob(token, -float(number), likeliest[:wanted]),)
            yield Event(text, (token,), routing, "stop" if ended else None, found)
            if ended:
                return


NAMES = ["n", "bytes:\\xc3", "bytes:\\xa9", " "]
NAMES += ["bytes:\\xf0", "bytes:\\x9f", "bytes:\\x98", "bytes:\\x80", "x", "<eos>"]


def test_completions_have_openais_shape() -> None:
    choice = complete(Speller(), logprobs=1).json()["choices"][0]
    assert choice["text"] == TEXT
    found = choice["logprobs"]
    assert set(found) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert found["tokens"] == NAMES
    assert found["token_logprobs"] == [-float(i) for i in range(10)]
    assert found["top_logprobs"] == [{"z": -0.5, name: -float(i)} for i, name in enumerate(NAMES)]
    assert found["text_offset"] == [0, 1, 1, 2, 3, 3, 3, 3, 4, 5]


def test_zero_of_completions_is_the_chosen_token_alone() -> None:
    found = complete(Speller(), logprobs=0).json()["choices"][0]["logprobs"]
    assert found["top_logprobs"] == [{name: -float(i)} for i, name in enumerate(NAMES)]


def test_chats_have_openais_shape() -> None:
    found = chat(Speller(), logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]
    assert set(found) == {"content", "refusal"} and found["refusal"] is None
    content = found["content"]
    assert content[0] == {
        "token": "n",
        "logprob": 0.0,
        "bytes": [110],
        "top_logprobs": [
            {"token": "z", "logprob": -0.5, "bytes": [122]},
            {"token": "n", "logprob": 0.0, "bytes": [110]},
        ],
    }
    assert [one["logprob"] for one in content] == [-float(i) for i in range(10)]
    assert bytes(byte for one in content[:-1] for byte in one["bytes"]).decode() == TEXT


def test_a_switch_alone_reports_the_chosen_tokens() -> None:
    for fields in ({}, {"top_logprobs": 0}, {"top_logprobs": None}):
        content = chat(Speller(), logprobs=True, **fields).json()["choices"][0]["logprobs"]["content"]
        assert [one["top_logprobs"] for one in content] == [[]] * 10


def test_json_has_no_infinity_so_an_excluded_token_is_at_minus_9999() -> None:
    found = complete(Speller(), logprobs=3).json()["choices"][0]["logprobs"]
    assert found["top_logprobs"][0]["q"] == -9999.0
    content = chat(Speller(), logprobs=True, top_logprobs=3).json()["choices"][0]["logprobs"]["content"]
    assert content[0]["top_logprobs"][2]["logprob"] == -9999.0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ask", [complete, chat])
def test_nobody_gets_them_unasked(ask: Any, stream: bool) -> None:
    response = ask(Speller(), logprobs=False, stream=stream)
    bodies = frames(response)[:-1] if stream else [response.json()]
    assert all(body["choices"][0]["logprobs"] is None for body in bodies)


@pytest.mark.parametrize("stop", [None, "é 😀y", "😀"])
def test_streams_lose_none_of_them_while_text_is_held_back(stop: str | None) -> None:
    whole = complete(Speller(), logprobs=2, stop=stop).json()["choices"][0]["logprobs"]
    *chunks, _ = frames(complete(Speller(), logprobs=2, stop=stop, stream=True))
    parts = [choice["logprobs"] for chunk in chunks for choice in chunk["choices"] if choice["logprobs"]]
    assert {key: joined(part[key] for part in parts) for key in whole} == whole

    content = chat(Speller(), logprobs=True, stop=stop).json()["choices"][0]["logprobs"]["content"]
    *chunks, _ = frames(chat(Speller(), logprobs=True, stop=stop, stream=True))
    parts = [choice["logprobs"] for chunk in chunks for choice in chunk["choices"] if choice["logprobs"]]
    assert joined(part["content"] for part in parts) == content
    assert all(part["refusal"] is None for part in parts)


def test_offsets_of_choices_do_not_mix() -> None:
    *chunks, _ = frames(complete(Speller(), ["sort", "b"], n=2, logprobs=0, stream=True))
    for index in range(4):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        offsets = [choice["logprobs"]["text_offset"] for choice in own if choice["logprobs"]]
        assert joined(offsets) == [0, 1, 1, 2, 3, 3, 3, 3, 4, 5]


@pytest.mark.parametrize(("asked", "expected"), [(None, None), (False, None), (0, 0), (20, 20)])
def test_what_completions_ask_of_the_engine(asked: Any, expected: int | None) -> None:
    engine = StubEngine()
    complete(engine, logprobs=asked)
    assert engine.requests[0].params.logprobs == expected


@pytest.mark.parametrize(
    ("switch", "count", "expected"),
    [(None, None, None), (False, None, None), (False, 0, None), (True, None, 0), (True, 20, 20)],
)
def test_what_chats_ask_of_the_engine(switch: Any, count: Any, expected: int | None) -> None:
    engine = StubEngine()
    chat(engine, logprobs=switch, top_logprobs=count)
    assert engine.requests[0].params.logprobs == expected


def test_the_official_client_reads_both_shapes() -> None:
    with (
        serving(Speller()) as address,
        openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=20) as client,
    ):
        answer = client.completions.create(model="twin", prompt="a", logprobs=2, n=2, logit_bias={"5": 1})
        assert len(answer.choices) == 2
        found = answer.choices[1].logprobs
        assert found is not None and found.tokens == NAMES and found.text_offset
        chats = client.chat.completions.create(
            model="twin",
            messages=[{"role": "user", "content": "sort"}],
            logprobs=True,
            top_logprobs=2,
            n=2,
            presence_penalty=0.5,
            extra_body={"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2},
        )
        said = chats.choices[1].logprobs
        assert said is not None and said.content is not None
        assert said.content[1].bytes == [0xC3] and said.content[1].top_logprobs[0].token == "z"
        stream = client.chat.completions.create(
            model="twin", messages=[{"role": "user", "content": "sort"}], logprobs=True, stream=True
        )
        tokens = [
            one
            for chunk in stream
            if (part := chunk.choices[0].logprobs) is not None
            for one in part.content or []
        ]
        assert [one.logprob for one in tokens] == [one.logprob for one in said.content]


def test_tokens_keep_a_space_that_the_tokenizer_drops_at_the_start_of_a_text() -> None:
    vocabulary = {
        "<unk>": 0,
        "▁the": 1,
        "cat": 2,
        "▁": 3,
        **{f"<0x{b:02X}>": i for i, b in enumerate(EURO, 4)},
    }
    raw = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    assert tokenizer.decode([1]) == "the"
    assert [spelling(tokenizer, token) for token in (1, 2, 3)] == [
        (" the", b" the"),
        ("cat", b"cat"),
        (" ", b" "),
    ]
    assert [spelling(tokenizer, token).raw for token in (4, 5, 6)] == [bytes([byte]) for byte in EURO]


def test_bytes_are_null_where_the_tokenizer_does_not_tell() -> None:
    class Odd:
        def decode(self, ids: list[int]) -> str:
            return "\ufffd" * len(ids)

        def convert_ids_to_tokens(self, token: int) -> str:
            return "▁?"

    assert spelling(Odd(), 1) == ("\ufffd", None)
    assert spelling(Odd(), 1).name == "\ufffd"
