"""An HTTP server that returns prompt log-probabilities of a small model of transformers, as vLLM and SGLang do.

It speaks the protocol over real forward passes, and can be faulty: ``faults`` holds what the next requests get instead.
"""

import json
import socket
import struct
import threading
from collections import deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

MODEL = "small"
MAX_TOKENS = 48


class PromptServer:
    """Server state: the model, what it was asked, and what goes wrong next."""

    def __init__(self, network, tokenizer, *, style="vllm", key=None):
        self.network = network
        self.tokenizer = tokenizer
        self.style = style
        self.key = key
        self.requests = []
        self.faults = deque()
        self.shift = 0
        self.change = lambda answer: answer
        self.temperature = lambda _: 1.0
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.url = ""

    def log_probs(self, ids, temperature):
        """Log-probabilities of each token of a prompt, (n - 1, C); row i is of token i + 1."""
        with torch.no_grad():
            logits = self.network(torch.tensor([ids])).logits[0].double()
        rows = (logits / self.temperature(temperature)).log_softmax(dim=-1)
        rows = rows[self.shift :] if self.shift > 0 else rows
        return rows[: len(ids) - 1] if len(rows) >= len(ids) - 1 else torch.cat([rows, rows[-1:]])[: len(ids) - 1]

    def entries(self, ids, count, temperature):
        """The K likeliest tokens, and the prompt's own, of every token but the first."""
        for token, row in zip(ids[1:], self.log_probs(ids, temperature), strict=True):
            top = row.topk(count).indices.tolist()
            yield token, [(one, float(row[one])) for one in ([token, *(t for t in top if t != token)])], top

    def answer(self, path, body):
        if self.style == "vllm" and path == "/v1/completions":
            assert body["model"] == MODEL
            assert body["temperature"] > 0
            entries = self.entries(body["prompt"], body["prompt_logprobs"], body["temperature"])
            prompt = [None] + [
                {str(one): {"logprob": value, "rank": 1, "decoded_token": self.tokenizer.decode([one])}
                 for one, value in listed}
                for _, listed, _ in entries
            ]  # fmt: skip
            return {"choices": [{"text": "", "prompt_logprobs": prompt}]}
        if self.style == "sglang" and path == "/generate":
            ids, temperature = body["input_ids"], body["sampling_params"]["temperature"]
            own, top = [[None, ids[0], None]], [None]
            for token, listed, likeliest in self.entries(ids, body["top_logprobs_num"], temperature):
                values = dict(listed)
                own.append([values[token], token, self.tokenizer.decode([token])])
                top.append([[values[one], one, None] for one in likeliest])
            return {"text": "", "meta_info": {"input_token_logprobs": own, "input_top_logprobs": top}}
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def send(self, status, data, kind="application/json", headers=()):
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(data))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        models = [{"id": MODEL, "max_model_len": MAX_TOKENS}]
        known = self.path == "/v1/models"
        self.send(200 if known else 404, json.dumps({"data": models}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.state.lock:
            self.server.state.requests.append((self.path, dict(self.headers), body))
            fault = self.server.state.faults.popleft() if self.server.state.faults else None
            self.server.state.at_once += 1
            self.server.state.most_at_once = max(self.server.state.most_at_once, self.server.state.at_once)
        try:
            self.respond(body, fault)
        finally:
            with self.server.state.lock:
                self.server.state.at_once -= 1

    def respond(self, body, fault):
        if self.server.state.key is not None and self.headers.get("Authorization") != f"Bearer {self.server.state.key}":
            self.send(401, f"wrong key: {self.headers.get('Authorization')}".encode())
        elif fault is not None:
            self.fail(fault)
        else:
            answer = self.server.state.answer(self.path, body)
            data = b"{}" if answer is None else json.dumps(self.server.state.change(answer)).encode()
            self.send(404 if answer is None else 200, data)

    def fail(self, fault):
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif fault == "html":
            self.send(200, b"<html><body>Welcome</body></html>", "text/html")
        else:
            self.send(fault, b'{"error": "busy"}', headers=[("Retry-After", "0")] if fault == 429 else [])


@contextmanager
def serve(network, tokenizer, **options):
    """A server on a free port of this machine."""
    state = PromptServer(network, tokenizer, **options)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.state = state
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
