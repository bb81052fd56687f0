"""A server with vLLM's routes over a small real model, for what needs GPUs or a vLLM that misbehaves."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from tests.tiny_model import tiny_model


class FakeVLLM:
    """`calls` holds the control routes in order of arrival, `app` the application. Weights that a trainer sends arrive
    in `wire`, as those of NCCL would: `/update_weights` waits for them."""

    def __init__(self, *, seed: int) -> None:
        self.model = tiny_model(seed=seed)
        self.wire: queue.Queue[dict[str, torch.Tensor]] = queue.Queue()
        self.calls: list[tuple[str, Any]] = []
        self.version = "default"
        self.fails: set[str] = set()
        self.app = FastAPI()
        self._add_routes()

    @property
    def names(self) -> list[str]:
        """The control routes in order of arrival."""
        return [name for name, _ in self.calls]

    def _add_routes(self) -> None:
        app = self.app

        @app.get("/health")
        def health() -> dict[str, str]:
            return {}

        @app.get("/v1/models")
        def models() -> Any:
            return {"data": [{"max_model_len": 128}]}

        @app.get("/get_world_size")
        def world_size() -> Any:
            return {"world_size": 2}

        @app.get("/weight_info")
        def weight_info() -> Any:
            return {"weight_version": self.version}

        @app.get("/metrics")
        def metrics() -> str:
            return ""

        @app.post("/inference/v1/generate")
        def generate(body: dict[str, Any]) -> Any:
            return self._generate(body)

        for name, act in {
            "pause": lambda body: {},
            "resume": lambda body: {},
            "update_weight_version": self._stamp,
            "collective_rpc": lambda body: {"results": [{"error": "there is no such checkpoint"}]},
            "init_weight_transfer_engine": lambda body: {},
            "start_weight_update": lambda body: {},
            "update_weights": self._receive,
            "finish_weight_update": self._stamp,
        }.items():
            app.post(f"/{name}")(self._control(name, act))

    def _control(self, name: str, act: Callable[[Any], Any]) -> Any:
        async def route(request: Request) -> Any:
            from starlette.concurrency import run_in_threadpool

            body = await request.json() if await request.body() else None
            self.calls.append((name, body))
            if name in self.fails:
                return JSONResponse({"error": {"message": f"{name} failed"}}, status_code=500)
            return await run_in_threadpool(act, body)

        return route

    def _stamp(self, body: Any) -> Any:
        self.version = body.get("new_version") or body["weight_version"]
        return {}

    def _receive(self, body: Any) -> Any:
        weights = self.wire.get(timeout=20)
        assert list(weights) == body["update_info"]["names"]
        self.model.load_state_dict(weights, strict=False)
        return {}

    def _generate(self, body: dict[str, Any]) -> Any:
        ids, asked = body["token_ids"], body["sampling_params"]
        token = asked.get("allowed_token_ids", [7])[0]
        content = [{"token_id": token, "logprob": 0.0, "top_logprobs": []}]
        choice = {
            "index": 0,
            "finish_reason": "length",
            "token_ids": [token],
            "logprobs": {"content": content},
            "weight_versions": [{"version": self.version, "start": 0, "end": 1}],
        }
        return {"choices": [choice], "prompt_logprobs": self._prompt_logprobs(ids)}

    def _prompt_logprobs(self, ids: list[int]) -> list[dict[str, Any] | None]:
        with torch.no_grad():
            logprobs = torch.log_softmax(self.model(torch.tensor([ids])).logits[0].float(), -1)
        after = [{str(token): {"logprob": logprobs[place, token].item()}} for place, token in enumerate(ids[1:])]
        return [None, *after]
