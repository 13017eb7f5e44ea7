"""Writers: a backbone's answers do not depend on the batch; an endpoint is asked like OpenAI's."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from qa.writing.chatter import without_thinking
from qa.writing.endpoint import EndpointError, EndpointWriter
from qa.writing.writer import (
    BackboneWriter,
    RefusedError,
    WritingRequest,
    add_noise,
    decode_with_tags,
)
from tests.helpers.tiny import make_backbone, make_tokenizer

SHARED = "The quick brown fox jumps over the lazy dog. "
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def request(text, attempt=0, max_new_tokens=8, opening=""):
    messages = (("user", "a b c"), ("assistant", "Lisbon"), ("user", SHARED + text))
    return WritingRequest(messages, max_new_tokens, attempt, opening)


TEXTS = ["town", "Where was Tova Blick born?", "violins play by the sea", "0 1 2"]


@pytest.fixture(params=["llama", "gemma2"])
def chat_backbone(request):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT
    return make_backbone(request.param, tokenizer=tokenizer)


@torch.inference_mode()
def obvious(backbone, wanted):
    """Decode the obvious way: greedily, one row, without cache or padding."""
    tokenizer = backbone.tokenizer
    text = "".join(f"<|im_start|>{r}\n{c}<|im_end|>\n" for r, c in wanted.messages)
    text += f"<|im_start|>assistant\n{wanted.opening}"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    new: list[int] = []
    while len(new) < wanted.max_new_tokens and tokenizer.eos_token_id not in new:
        logits = backbone.model(torch.tensor([ids + new]), use_cache=False).logits[0, -1]
        new.append(int(logits.argmax()))
    return wanted.opening + tokenizer.decode(new, skip_special_tokens=True)


@pytest.mark.parametrize("openings", [[""] * 4, ["In 1 2,", "", "Who", "When did"]])
def test_a_batch_with_its_shared_beginning_gives_what_each_row_gives_alone(chat_backbone, openings):
    wanted = [request(text, opening=opening) for text, opening in zip(TEXTS, openings, strict=True)]
    expected = [obvious(chat_backbone, each) for each in wanted]
    writer = BackboneWriter(chat_backbone)
    assert writer.write(wanted) == expected
    assert writer.write(wanted[:2]) == expected[:2]  # uses the kept cache of the beginning
    assert writer.write(wanted[:1]) == expected[:1]
    assert BackboneWriter(chat_backbone).write(wanted[:1]) == expected[:1]
    other = WritingRequest((("user", "dog"),), 8, 0)  # has another beginning
    assert writer.write([other, wanted[1]]) == [obvious(chat_backbone, other), expected[1]]
    assert writer.write([wanted[1], wanted[1]]) == [expected[1]] * 2  # everything is shared


def test_each_row_has_its_own_length(chat_backbone):
    wanted = [request(TEXTS[0], max_new_tokens=3), request(TEXTS[1], max_new_tokens=9)]
    texts = BackboneWriter(chat_backbone).write(wanted)
    assert texts == [obvious(chat_backbone, each) for each in wanted]


def test_draws_depend_on_request_and_seed_alone(chat_backbone):
    wanted = [request(text, attempt=1) for text in TEXTS]
    writer = BackboneWriter(chat_backbone)
    drawn = writer.write(wanted)
    assert drawn == [writer.write([each])[0] for each in wanted]
    assert drawn != writer.write([request(text, attempt=0) for text in TEXTS])
    assert drawn != writer.write([request(text, attempt=2) for text in TEXTS])
    assert drawn != BackboneWriter(chat_backbone, seed=1).write(wanted)
    mixed = writer.write([request(TEXTS[0]), wanted[1]])
    assert mixed == [obvious(chat_backbone, request(TEXTS[0])), drawn[1]]


def test_draws_follow_the_distribution():
    logits, rows = torch.tensor([2.0, 1.0, 0.0, -1.0]), 4000
    generators = [torch.Generator().manual_seed(seed) for seed in range(rows)]
    noisy = logits.repeat(rows, 1)
    add_noise(noisy, generators, 0.5)
    drawn = noisy.argmax(-1)
    expected = (logits / 0.5).softmax(-1)
    torch.testing.assert_close(drawn.bincount(minlength=4) / rows, expected, atol=0.025, rtol=0)


def test_a_model_without_a_chat_template_reads_plain_text(tiny_backbone):
    wanted = WritingRequest((("user", "a b"), ("assistant", "c"), ("user", "d")), 6, 0)
    ids = torch.tensor([tiny_backbone.tokenizer("a b\n\nc\n\nd\n\n")["input_ids"]])
    output = tiny_backbone.model.generate(ids, max_new_tokens=6, do_sample=False)
    expected = tiny_backbone.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    assert BackboneWriter(tiny_backbone).write([wanted]) == [expected]


@pytest.mark.parametrize("opens", [True, False])
def test_thinking_that_the_template_opens_is_marked_as_such(opens):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT.replace("assistant\n{%", "assistant\n<think>\n{%")
    if not opens:  # as templates with a switch do
        tokenizer.chat_template = CHAT.replace(
            "assistant\n{%", "assistant\n{% if not enable_thinking %}<think></think>{% endif %}{%"
        )
    writer = BackboneWriter(make_backbone(tokenizer=tokenizer))
    (text,) = writer.write([request("town")])
    assert isinstance(text, str)
    assert text.startswith("<think>") == opens
    assert (without_thinking(text) == "") == opens  # cut off before the end of the thinking


def test_tags_of_thinking_that_are_special_tokens_are_kept():
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["[THINK]", "[/THINK]"]})
    ids = tokenizer("[THINK]the town[/THINK]the sea<|im_end|>")["input_ids"]
    assert without_thinking(decode_with_tags(tokenizer, ids)).strip() == "the sea"
    plain = make_tokenizer()
    ids = plain("the sea<|im_end|>")["input_ids"]
    assert decode_with_tags(plain, ids) == plain.decode(ids, skip_special_tokens=True)


def test_what_decides_the_answers_is_in_the_fingerprint(tiny_backbone, tiny_tokenizer):
    first = BackboneWriter(tiny_backbone).fingerprint
    assert BackboneWriter(tiny_backbone, batch_size=3).fingerprint == first
    assert BackboneWriter(tiny_backbone, temperature=0.5).fingerprint != first
    assert BackboneWriter(tiny_backbone, seed=1).fingerprint != first
    other = make_backbone(seed=1, tokenizer=tiny_tokenizer)
    assert BackboneWriter(other).fingerprint != first


def test_a_passage_that_does_not_fit_is_refused_alone(tiny_backbone):
    writer, fits, too_long = BackboneWriter(tiny_backbone), request("town"), request("a " * 600)
    (text,) = writer.write([fits])
    first, refusal, last = writer.write([fits, too_long, fits])
    assert first == last == text
    assert isinstance(refusal, RefusedError)
    assert "exceeds the 512 positions of tiny-llama-0; split the passage" in str(refusal)
    assert [type(each) for each in writer.write([too_long])] == [RefusedError]


def test_each_rows_own_length_decides_whether_it_fits(tiny_backbone):
    writer, long = BackboneWriter(tiny_backbone), request("a " * 400, max_new_tokens=4)
    (text,) = writer.write([long])
    assert writer.write([long, request("town", max_new_tokens=400)])[0] == text


@pytest.mark.parametrize("setting", [{"batch_size": 0}, {"temperature": 0.0}])
def test_bad_settings_of_a_backbone_are_errors(tiny_backbone, setting):
    (name,) = setting
    with pytest.raises(ValueError, match=f"{name} must be positive, got .*; set {name}"):
        BackboneWriter(tiny_backbone, **setting)


class Server:
    """An endpoint on this machine that gives planned answers (status, body), and then echoes."""

    def __init__(self):
        self.cut_off = False
        self.planned: list[tuple[int, str]] = []
        self.seen: list[tuple[str, str | None, dict]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append((self.path, self.headers.get("Authorization"), body))
                text = f"answer to {body['messages'][-1]['content']}"
                echo = json.dumps({"choices": [{"message": {"content": text}}]})
                status, answer = outer.planned.pop(0) if outer.planned else (200, echo)
                self.send_response(status)
                if outer.cut_off:
                    self.send_header("Content-Length", str(len(answer) + 1))
                self.end_headers()
                self.wfile.write(answer.encode())

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


def endpoint(server, **settings):
    return EndpointWriter(server.url, "big", pause=0.0, **settings)


def test_answers_come_in_the_order_of_the_requests(server):
    texts = endpoint(server).write([request(text) for text in TEXTS])
    assert texts == [f"answer to {SHARED}{text}" for text in TEXTS]
    path, key, body = server.seen[0]
    assert path == "/v1/chat/completions"
    assert key == "Bearer secret"
    assert body["model"] == "big"
    assert [m["role"] for m in body["messages"]] == ["user", "assistant", "user"]
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0.0, 8, 0)


def test_further_attempts_are_drawn(server):
    endpoint(server, temperature=0.9).write([request("x", attempt=2)])
    body = server.seen[0][2]
    assert (body["temperature"], body["seed"]) == (0.9, 2)


def test_another_seed_asks_an_endpoint_for_other_samples(server):
    for seed, attempt in ((0, 1), (1, 0), (1, 1), (2, 1)):
        endpoint(server, seed=seed).write([request("x", attempt=attempt)])
    assert len({body["seed"] for _, _, body in server.seen}) == 4
    plain = EndpointWriter(server.url, "big").fingerprint
    assert endpoint(server, seed=0).fingerprint == plain  # what is in the cache stays
    assert endpoint(server, seed=1).fingerprint != plain


def test_further_keys_are_sent_and_null_leaves_one_out(server):
    body = {"max_tokens": None, "max_completion_tokens": 90, "seed": 5}
    writer = endpoint(server, body=body)
    writer.write([request("x")])
    sent = server.seen[0][2]
    assert "max_tokens" not in sent
    assert (sent["max_completion_tokens"], sent["seed"]) == (90, 5)
    assert writer.fingerprint != endpoint(server).fingerprint


def test_without_a_key_none_is_sent(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    endpoint(server).write([request("x")])
    assert server.seen[0][1] is None


def test_a_busy_endpoint_is_asked_again_a_bounded_number_of_times(server):
    server.planned = [(503, "busy"), (429, "slow down"), (200, "no JSON")]
    assert endpoint(server, tries=4).write([request("x")]) == [f"answer to {SHARED}x"]
    assert len(server.seen) == 4
    server.planned = [(503, "busy")] * 9
    (error,) = endpoint(server, tries=3).write([request("x")])
    assert isinstance(error, EndpointError)
    assert re.search(r"got HTTP 503 .*busy.*check augmenter\.writer\.url", str(error))
    assert len(server.seen) == 7


def test_being_turned_away_is_final_and_shows_no_key(server):
    server.planned = [(401, "who are you?")]
    (error,) = endpoint(server).write([request("x")])
    assert isinstance(error, EndpointError)
    assert re.search(r"HTTP 401 .*who are you.*\$OPENAI_API_KEY", str(error))
    assert len(server.seen) == 1
    assert "secret" not in str(error)


def test_a_key_from_a_file_may_end_with_a_line_break(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret\n")
    assert endpoint(server).write([request("x")]) == [f"answer to {SHARED}x"]
    assert server.seen[0][1] == "Bearer secret"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_refused_is_not_sent_again_and_costs_no_other(server, status):
    server.planned = [(status, "maximum context length\nis 8")]
    replies = endpoint(server).write([request(text) for text in TEXTS])
    assert len(server.seen) == 4
    (refusal,) = [reply for reply in replies if not isinstance(reply, str)]
    assert isinstance(refusal, RefusedError)
    assert re.search(rf"refused it, HTTP {status} .*: maximum context length is 8$", str(refusal))


@pytest.mark.parametrize(
    "message", ['{"content": null}', '{"content": ""}', '{"role": "assistant"}']
)
def test_a_model_that_says_nothing_answers_nothing(server, message):
    server.planned = [(200, f'{{"choices": [{{"message": {message}}}]}}')]
    assert endpoint(server).write([request("x")]) == [""]


@pytest.mark.parametrize(
    "message",
    [
        {"content": "the sea", "reasoning_content": "a draft"},
        {"content": "the sea", "reasoning": "a draft"},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a draft"}]},
                     {"type": "text", "text": "the "}, {"type": "text", "text": "sea"}]},
    ],
)  # fmt: skip
def test_thinking_in_a_field_of_its_own_is_not_read(server, message):
    server.planned = [(200, json.dumps({"choices": [{"message": message}]}))]
    assert endpoint(server).write([request("x")]) == ["the sea"]
    message["content"] = [part for part in message["content"] if "thinking" in part] or None
    server.planned = [(200, json.dumps({"choices": [{"message": message | {"role": "x"}}]}))]
    assert endpoint(server).write([request("x")]) == [""]


@pytest.mark.parametrize(
    "body",
    [
        *("{}", "[]", '{"choices": []}', '{"choices": [{"message": {}}]}'),
        *('{"choices": [{"message": "x"}]}', '{"choices": [{"message": {"content": 3}}]}'),
    ],
)
def test_something_else_than_a_completion_is_an_error(server, body):
    server.planned = [(200, body)]
    (error,) = endpoint(server).write([request("x")])
    assert isinstance(error, EndpointError)
    assert "expected choices[0].message.content, got " in str(error)


def test_an_endpoint_that_is_not_there_is_an_error():
    writer = EndpointWriter("http://127.0.0.1:9/v1/", "big", tries=2, pause=0.0, timeout=2.0)
    (error,) = writer.write([request("x")])
    assert isinstance(error, EndpointError)
    assert str(error).startswith("http://127.0.0.1:9/v1/chat/completions: expected")


def test_a_connection_that_is_cut_off_is_an_error(server):
    server.cut_off = True
    (error,) = endpoint(server, tries=2).write([request("x")])
    assert isinstance(error, EndpointError)
    assert len(server.seen) == 2


def test_bad_settings_of_an_endpoint_are_errors():
    with pytest.raises(ValueError, match=r"expected an http\(s\) URL, got 'file:///etc'; set"):
        EndpointWriter("file:///etc", "big")
    with pytest.raises(ValueError, match="batch_size must be positive, got 0; set batch_size"):
        EndpointWriter("http://localhost", "big", batch_size=0)


def test_the_key_does_not_decide_the_answers(monkeypatch):
    first = EndpointWriter("http://localhost/v1", "big").fingerprint
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    assert EndpointWriter("http://localhost/v1", "big").fingerprint == first
    assert EndpointWriter("http://localhost/v1", "small").fingerprint != first
