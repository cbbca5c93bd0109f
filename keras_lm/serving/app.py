"""The server as an ASGI application: routes, and what is done while it runs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import re
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from keras_lm.errors import UserError
from keras_lm.serving import gate, openai_api, rest
from keras_lm.serving.engine import EngineClosed
from keras_lm.serving.metrics import Metrics
from keras_lm.serving.refusing import Refused, queue_full, read_body, shutting_down, too_slow
from keras_lm.serving.settings import Limits
from keras_lm.serving.streams import Drawing, EventStream, while_connected
from keras_lm.serving.versions import Model, Version, settle
from keras_lm.tasks.conversation import FORMATS, ChatFormat

POLL_SECONDS = 2.0
"""How often folders are looked at for new versions."""

_MODEL = "/v1/models/{name}"
_PLACES = (_MODEL, _MODEL + "/versions/{version}", _MODEL + "/labels/{label}")

_log = logging.getLogger(__name__)


def create_app(
    models: Sequence[Model],
    limits: Limits,
    token: str | None = None,
    *,
    any_host: bool = False,
    form: ChatFormat = FORMATS["zh"],
    poll_seconds: float = POLL_SECONDS,
) -> FastAPI:
    """Makes the application.

    Args:
        models: Loaded; they are closed when the application ends.
        limits: What is allowed.
        token, any_host: As in `keras_lm.serving.gate.Gate`.
        form: How the messages of a chat are written down.
        poll_seconds: How often folders are looked at for new versions.

    Returns:
        The application. Once `app.state.gate.closing` is set, it refuses what comes.

    Example: `uvicorn.run(create_app([model], Limits()))`
    """
    metrics = Metrics(models)
    server = _Server(models, limits, metrics, form)
    state = types.SimpleNamespace(closing=False)

    async def watch() -> None:
        while True:
            await asyncio.sleep(poll_seconds)
            for model in models:
                try:
                    if await asyncio.to_thread(model.poll):
                        await asyncio.to_thread(settle)
                except Exception:
                    _log.exception("looking for versions of %s failed", model.name)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(watch())
        yield
        watching.cancel()
        server.threads.shutdown(wait=False, cancel_futures=True)
        for model in models:
            await asyncio.to_thread(model.close, False, 10.0)

    app = FastAPI(title="keras_lm-serve", docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    app.state.gate = state
    app.add_middleware(gate.Gate, metrics=metrics, state=state, token=token, any_host=any_host)
    _add_errors(app)

    page = gate.page()
    app.get("/", include_in_schema=False)(_asynchronous(lambda: page))
    app.get("/healthz")(_asynchronous(server.health))
    app.get("/metrics", include_in_schema=False)(
        _asynchronous(lambda: Response(metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8"))
    )
    app.get("/v1/models")(server.list_models)
    for path, route, kind in (
        ("/v1/completions", server.completions, openai_api.CompletionRequest),
        ("/v1/chat/completions", server.chat, openai_api.ChatRequest),
    ):
        app.post(path, openapi_extra={"requestBody": openai_api.described(kind)})(route)
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": _PREDICT}}}}
    for place in _PLACES:
        for method in ("predict", "classify", "regress"):
            app.post(f"{place}:{method}", openapi_extra={**body, **_parameters(place)}, name=method)(server.ask(method))
        app.get(f"{place}/metadata", openapi_extra=_parameters(place), name="metadata")(server.metadata)
        app.get(place, openapi_extra=_parameters(place), name="status")(server.status)
    return app


_PREDICT = {
    "type": "object",
    "properties": {"signature_name": {"type": "string"}, "instances": {"type": "array"}, "inputs": {}},
}


def _parameters(place: str) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", place)
    return {"parameters": [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]}


def _asynchronous(function: Callable[[], Response]) -> Callable[[], Awaitable[Response]]:
    async def route() -> Response:
        return function()

    return route


class _Server:
    """The routes."""

    def __init__(self, models: Sequence[Model], limits: Limits, metrics: Metrics, form: ChatFormat):
        self._models = {model.name: model for model in models}
        self._limits, self._metrics, self._form = limits, metrics, form
        self._asked = 0  # calls of :predict that run or wait
        self.threads = concurrent.futures.ThreadPoolExecutor(limits.predict_threads, "predict")

    def health(self) -> Response:
        """Whether every model can answer."""
        missing = [name for name, model in self._models.items() if not model.versions]
        return JSONResponse({"status": f"no version of {missing[0]}" if missing else "ok"}, 503 if missing else 200)

    async def list_models(self) -> Response:
        """OpenAI's list of models, with what ours say of themselves besides."""
        listed = []
        for name, model in self._models.items():
            version = model.choose()
            known = {key: version.described.get(key) for key in ("context_length", "vocabulary_size", "parameters", "tokenizer")}
            entry = {"id": name, "object": "model", "created": version.created, "owned_by": "keras_lm"}
            listed.append({**entry, **known, "version": version.number, "writes": version.engine is not None})
        return JSONResponse({"object": "list", "data": listed})

    async def status(self, request: Request) -> Response:
        """What TF Serving says of the state of a model's versions."""
        model, number, label = self._place(request)
        states = model.states()
        if label is not None:
            number = model.choose(None, label).number
        if number is not None:
            if number not in states:
                raise Refused(404, f"Could not find version {number} of model {model.name}")
            states = {number: states[number]}
        return JSONResponse(rest.status(states))

    async def metadata(self, request: Request) -> Response:
        """What TF Serving says of a version's signatures."""
        model, number, label = self._place(request)
        version = model.choose(number, label)
        definitions = version.signatures.definitions if version.signatures else {}
        return JSONResponse(rest.metadata(model.name, version.number, definitions))

    def ask(self, method: str) -> Callable[[Request], Awaitable[Response]]:
        """The route of `:predict`, `:classify` or `:regress`."""

        async def route(request: Request) -> Response:
            model, number, label = self._place(request)
            version = model.choose(number, label)
            body = await read_body(request, self._limits)
            if version.signatures is None:
                raise Refused(400, f"{model.name} is a LiteRT file, which has no signatures: ask /v1/completions")
            if method != "predict":
                raise version.signatures.classify_or_regress(method, body)
            return await while_connected(request, self._predict(version, body))

        return route

    async def _predict(self, version: Version, body: bytes) -> Response:
        if self._asked >= self._limits.predict_threads + self._limits.max_queue:
            self._metrics.refused.inc()
            raise queue_full(self._limits)
        self._asked += 1
        try:
            call = self.threads.submit(version.signatures.predict, body, self._limits)
        except RuntimeError:
            self._asked -= 1
            raise shutting_down() from None
        loop = asyncio.get_running_loop()
        call.add_done_callback(lambda _: loop.call_soon_threadsafe(self._answered) if not loop.is_closed() else None)
        try:
            answer = await asyncio.wait_for(asyncio.wrap_future(call), self._limits.max_seconds)
        except asyncio.TimeoutError:
            raise too_slow(self._limits) from None
        return Response(answer, media_type="application/json")

    def _answered(self) -> None:
        self._asked -= 1

    async def completions(self, request: Request) -> Response:
        """Goes on with prompts."""
        asked = openai_api.read(await read_body(request, self._limits), openai_api.CompletionRequest)
        return await self._write(request, asked, openai_api.Completing)

    async def chat(self, request: Request) -> Response:
        """Answers in a conversation."""
        asked = openai_api.read(await read_body(request, self._limits), openai_api.ChatRequest)
        return await self._write(request, asked, lambda *given: openai_api.Chatting(*given, self._form))

    async def _write(self, request: Request, asked: Any, answering: Callable[..., openai_api.Answering]) -> Response:
        if asked.model not in self._models:
            message = f"The model {asked.model[:100]!r} does not exist: there is {', '.join(self._models)}"
            raise Refused(404, message, param="model", code="model_not_found")
        drawing = Drawing(self._limits, self._metrics, bounded=bool(asked.stream))
        begun = functools.partial(self._begun, asked, answering, drawing)
        try:
            if asked.stream:
                answer, first = await while_connected(request, self._first(begun, drawing))
                return EventStream(answer.events(first), drawing)
            return JSONResponse(await while_connected(request, self._whole(begun)))
        except BaseException:
            drawing.cancel()
            raise

    async def _begun(self, asked: Any, answering: Callable[..., openai_api.Answering], drawing: Drawing) -> openai_api.Answering:
        """The answer, by a version that takes it: the next one where the first has been replaced just now."""
        model, tried = self._models[asked.model], None
        while (version := model.choose()) is not tried:
            if version.engine is None:
                message = f"{asked.model} does not go on with prompts: ask its signatures, at /v1/models/{asked.model}:predict"
                raise Refused(400, message, param="model", code="model_not_supported")
            answer, tried = answering(asked, version, self._limits, drawing), version
            try:
                await answer.begin()
                return answer
            except EngineClosed:
                pass
        raise shutting_down()

    @staticmethod
    async def _first(begun: Callable[[], Awaitable[openai_api.Answering]], drawing: Drawing) -> tuple[openai_api.Answering, Any]:
        answer = await begun()
        return answer, await drawing.next()

    @staticmethod
    async def _whole(begun: Callable[[], Awaitable[openai_api.Answering]]) -> dict[str, Any]:
        return await (await begun()).whole()

    def _place(self, request: Request) -> tuple[Model, int | None, str | None]:
        """The model, version and label of a path, in TF Serving's words where they are none."""
        name, version, label = (request.path_params.get(key) for key in ("name", "version", "label"))
        if ":" in name or (version is not None and not re.fullmatch("[0-9]+", version)):
            raise malformed(request)
        if version is not None and (len(version) > 19 or int(version) >= 2**63):
            raise Refused(400, f"Failed to convert version: {version[:100]} to numeric.")
        if name not in self._models:
            asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            of_state = request.method == "GET" and not request.url.path.endswith("/metadata")
            missing = f"Could not find any versions of model {name}" if of_state else f"Servable not found for request: {asked}"
            raise Refused(404, missing[:300])
        return self._models[name], None if version is None else int(version), label


def malformed(request: Request) -> Refused:
    """What TF Serving says of a path that it does not know."""
    return Refused(400, f"Malformed request: {request.method} {request.url.path[:200]}")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return gate.error_response(request.url.path, error)

    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> Response:
        return gate.error_response(request.url.path, Refused(400, str(error)))

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        if path.startswith("/v1/") and not path.startswith(("/v1/completions", "/v1/chat")) and path != "/v1/models":
            return gate.error_response(path, malformed(request))
        return gate.error_response(
            path, Refused(error.status_code, f"{error.detail}: {request.method} {path[:200]}", headers=error.headers)
        )

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return gate.error_response(request.url.path, Refused(500, "something went wrong: the server's log says what"))
