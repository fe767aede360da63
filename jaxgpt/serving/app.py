"""All routes over the models of one engine."""

import asyncio
import importlib.metadata
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import Response

from jaxgpt.serving.chat import chat_router
from jaxgpt.serving.completions import completions_router
from jaxgpt.serving.errors import DOCUMENTED, ApiError, add_handlers
from jaxgpt.serving.metrics import Metrics
from jaxgpt.serving.page_files import page_router
from jaxgpt.serving.responses import responses_router
from jaxgpt.serving.schemas import DetokenizeRequest, TokenizeRequest
from jaxgpt.serving.served_model import ServedModel, ServedModels
from jaxgpt.serving.tool_use import ToolUse


def make_app(models: ServedModels) -> FastAPI:
    """Return the app."""
    app = FastAPI(
        title="jaxgpt", version=importlib.metadata.version("jaxgpt"), docs_url=None, redoc_url=None
    )
    metrics = Metrics(models.base.engine, models.base.name)
    add_handlers(app)
    app.include_router(_models_router(models))
    app.include_router(completions_router(models, metrics))
    app.include_router(chat_router(models, metrics))
    app.include_router(responses_router(models, metrics))
    app.include_router(_tokens_router(models))
    # They share the base's engine.
    app.include_router(_operators_router(models.base, metrics))
    app.include_router(page_router())
    return app


def _models_router(models: ServedModels) -> APIRouter:
    router = APIRouter()

    def describe(model: ServedModel) -> dict[str, Any]:
        return {
            "id": model.name,
            "object": "model",
            "created": model.created,
            "owned_by": "jaxgpt",
            "parent": model.parent,
            "max_model_len": model.engine.max_length,
            "meta": model.meta,
        }

    @router.get("/v1/models", responses={401: DOCUMENTED[401]})
    async def listed() -> Any:
        return {"object": "list", "data": [describe(each) for each in models.all]}

    @router.get("/v1/models/{name:path}", responses={401: DOCUMENTED[401], 404: DOCUMENTED[404]})
    async def one(name: str) -> Any:
        return describe(models.choose(name))

    return router


def _tokens_router(models: ServedModels) -> APIRouter:
    router = APIRouter()

    @router.post("/tokenize", responses=DOCUMENTED)
    async def tokenize(body: TokenizeRequest) -> Any:
        model = models.choose(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "give either prompt or messages")
        # In a thread: long texts would hold up other clients.
        return await asyncio.to_thread(_tokens, model, body)

    @router.post("/detokenize", responses=DOCUMENTED)
    async def detokenize(body: DetokenizeRequest) -> Any:
        model = models.choose(body.model)
        wrong = [token for token in body.tokens if token >= model.tokenizer.vocab_size]
        if wrong:
            largest = model.tokenizer.vocab_size - 1
            raise ApiError(400, f"tokens must be ids from 0 to {largest}", param="tokens")
        return {"prompt": model.tokenizer.decode(body.tokens)}

    return router


def _tokens(model: ServedModel, body: TokenizeRequest) -> dict[str, Any]:
    if body.messages is not None:
        tools = ToolUse(body.tools, None, is_single=False)
        tokens = model.render(body.messages, tools=tools.listed)
    else:
        tokens = model.encode(body.prompt or "")[0 if body.add_special_tokens else 1 :]
    return {
        "tokens": tokens,
        "count": len(tokens),
        "max_model_len": model.engine.max_length,
        "token_strs": [model.token_text(token) for token in tokens],
    }


def _operators_router(model: ServedModel, metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> Any:
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz() -> Any:
        # The port answers when the model is in memory and has answered once.
        if not model.engine.is_open:
            raise ApiError(503, "the engine has stopped")
        return {"status": "ready"}

    @router.get("/metrics", responses={401: DOCUMENTED[401]})
    async def numbers() -> Any:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
