"""`keras_lm-serve`: an export, a run or a LiteRT file as a local server."""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import importlib.util
import ipaddress
import logging
import os
import pathlib
import socket
import sys
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_lm.cli import options
from keras_lm.errors import UserError, unknown_name
from keras_lm.export import layout
from keras_lm.serving.settings import Limits
from keras_lm.tasks.conversation import FORMATS
from keras_lm.training.run import Run

if TYPE_CHECKING:
    from keras_lm.serving.versions import Model

_PROGRAM = "keras_lm-serve"

_EPILOG = """examples:
  keras_lm-serve saved_models/quickstart                     http://127.0.0.1:8501/ is a page to try it
  keras_lm-serve runs/quickstart --port 9000                 a run is exported first, into a folder that goes away again
  keras_lm-serve saved_models/quickstart/model-int8.tflite   one text after the other
  keras_lm-serve saved_models/quickstart --labels stable=1 canary=2
  KERAS_LM_TOKEN=... keras_lm-serve saved_models/quickstart --host 0.0.0.0

routes:
  /                                        the page
  /v1/completions  /v1/chat/completions    OpenAI's, with streaming; /v1/models lists what there is
  /v1/models/NAME[/versions/V|/labels/L]   TF Serving's: state, /metadata, :predict
  /healthz  /metrics  /openapi.json        for balancers, Prometheus, and tools

New versions in the folder are served once they are loaded, and an old one ends what it has begun. SIGTERM and Ctrl-C let what runs finish,
a second one does not."""


def parser() -> options.Parser:
    result = options.Parser(
        prog=_PROGRAM,
        usage="%(prog)s MODEL [flags]",
        description="Serve a model: TF Serving's REST interface, OpenAI's completions, and a page to try it.",
        epilog=_EPILOG,
    )
    result.add_argument("model", metavar="MODEL", help="an exported folder (saved_models/NAME), a run folder, or a .tflite file")
    result.add_argument("--host", default="127.0.0.1", metavar="HOST", help="where to listen (default: 127.0.0.1, this machine alone)")
    result.add_argument("--port", type=int, default=8501, metavar="N", help="0 takes any that is free (default: 8501)")
    result.add_argument("--name", metavar="NAME", help="what clients call the model (default: the name of its folder)")
    result.add_argument("--labels", nargs="+", default=[], metavar="LABEL=N", help="versions that are served by label, besides the newest")
    result.add_argument("--format", metavar="|".join(FORMATS), default="zh", help="how the turns of a chat are written down (default: zh)")
    result.add_argument(
        "--token-file", metavar="FILE", help="a file with the token that clients must send; default the variable KERAS_LM_TOKEN, else none"
    )
    result.add_argument("--allow-open", action="store_true", help="listen to other machines without a token")
    result.add_argument(
        "--xla", action=argparse.BooleanOptionalAction, default=True, help="compile the model: it draws faster, and takes longer to load"
    )
    options.add_fields(result, Limits, {"max_body_bytes": "limits"})
    return result


def serve(arguments: Sequence[str] | None) -> int:
    given = vars(parser().parse_args(arguments))
    path, host, port, name, labels, form, xla = (given.pop(flag) for flag in ("model", "host", "port", "name", "labels", "format", "xla"))
    token_file, allow_open = given.pop("token_file"), given.pop("allow_open")
    limits = Limits(**given)
    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)
    token = _token(token_file)
    if token is None and not allow_open and not _is_loopback(host):
        raise UserError(f"{host} is open to other machines: give a token (--token-file, KERAS_LM_TOKEN), or --allow-open")
    path, run = pathlib.Path(path), None
    if path.suffix == ".tflite":
        from keras_lm.export.tflite_generator import read_metadata

        read_metadata(path)
    elif layout.is_export(path):
        layout.find(path)
    else:
        run = _open_run(path)
    name = name or _name(path)
    if not name or set("/:") & set(name):
        raise UserError(f"--name must be a word without / and :, got {name!r}")
    labels = dict(map(_label, labels))
    if missing := [module for module in ("fastapi", "uvicorn", "prometheus_client") if importlib.util.find_spec(module) is None]:
        raise UserError(f"the server needs {', '.join(missing)}: pip install 'keras_lm[serve]'")

    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(_listen(host, port))
        logging.basicConfig(format=f"{_PROGRAM}: %(message)s")
        logging.getLogger("keras_lm.serving").setLevel(logging.INFO)
        options.keep_compilations()
        print("starting TensorFlow ...", file=sys.stderr, flush=True)
        options.start_tensorflow()
        if run is not None:
            path = _export(run, pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keras_lm-serve-"))) / name)
        model = _load(name, path, limits, labels, xla)
        return _run(model, limits, token, allow_open, form, listening)


def _open_run(path: pathlib.Path) -> Run:
    if not path.exists():
        raise UserError(f"no such folder: {path}")
    if not (path / "settings.yaml").is_file():
        raise UserError(f"{path} holds neither an export (saved_model.pb) nor a run (settings.yaml)")
    run = Run.open(path)
    layout.check_run(run)
    if run.settings.task == "masked":
        raise UserError(f"{path} is a run of masked, which says nothing by itself: start a run of another task from it (--start-from)")
    return run


def _name(path: pathlib.Path) -> str:
    path = path.resolve()
    return path.parent.name if path.suffix == ".tflite" or (path / "saved_model.pb").is_file() else path.name


def _label(text: str) -> tuple[str, int]:
    label, _, number = text.partition("=")
    if not label or set("/:") & set(label) or not number.isdecimal():
        raise UserError(f"--labels takes LABEL=VERSION, got {text!r}")
    return label, int(number)


def _token(file: str | None) -> str | None:
    where, text = "KERAS_LM_TOKEN", os.environ.get("KERAS_LM_TOKEN")
    if file is not None:
        where = file
        try:
            text = pathlib.Path(file).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{file} is not UTF-8 text") from None
    if text is None:
        return None
    text = text.strip()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise UserError(f"{where} must hold one word of ASCII characters, the token")
    return text


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise UserError(f"--port must be from 0 to 65535, got {port}")
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UserError(f"--host {host} is no address of this machine") from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} is in use: stop what listens there, or give another with --port") from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise UserError(f"--host {host} is no address of this machine") from None
        raise UserError(f"{host} port {port}: {error.strerror}") from None
    return listening


def _export(run: Run, folder: pathlib.Path) -> pathlib.Path:
    from keras_lm.export.saved_model import export_run

    print(f"exporting {run.folder} ...", file=sys.stderr, flush=True)
    export_run(run, folder)
    return folder


def _load(name: str, path: pathlib.Path, limits: Limits, labels: dict[str, int], xla: bool) -> Model:
    from keras_lm.serving.versions import Model, load_version, settle

    progress = lambda line: print(f"{line} ...", file=sys.stderr, flush=True)
    model = Model(name, path, limits, labels=labels, load=functools.partial(load_version, xla=xla, progress=progress))
    model.load()
    settle()
    return model


def _run(model: Model, limits: Limits, token: str | None, allow_open: bool, form: str, listening: socket.socket) -> int:
    import uvicorn

    from keras_lm.serving.app import create_app

    app = create_app([model], limits, token, any_host=allow_open, form=FORMATS[form])

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: object) -> None:
            app.state.gate.closing = True  # what comes on connections that are open is refused
            self.force_exit, self.should_exit = self.should_exit, True

    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=limits.max_connections,
        timeout_graceful_shutdown=int(limits.max_seconds) + 1,
    )
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    print(f"serving {model.name} {max(model.versions)} at {address} (Ctrl-C ends it)", flush=True)
    Server(config).run(sockets=[listening])
    return 0


def main() -> None:
    sys.exit(options.run(lambda: serve(None), _PROGRAM))
