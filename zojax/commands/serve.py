"""Serve a model and its adapters over HTTP, as OpenAI's and vLLM's clients expect.

Example:
  zojax serve
  zojax serve RUN
  zojax serve --model facebook/opt-125m --adapter reviews=DIR --port 8000
  zojax serve --model model.gguf --host 0.0.0.0 --api-keys keys.txt
  zojax serve --allow-training-in tunings
  zojax serve --allow-training-in tunings --train-class tokens=64,rank=4
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zojax.commands.options import COUNT, RUN, WEIGHT_DTYPES, count
from zojax.errors import InputError
from zojax.printing import make_console, warn

if TYPE_CHECKING:
    import socket

    from zojax.config import MeshConfig
    from zojax.serving.service import Service
    from zojax.serving.start import Settings

_BACKLOG = 2048
_NEEDED = (
    *("fastapi", "uvicorn", "sse_starlette", "prometheus_client", "llguidance"),
    "python_multipart",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", nargs="?", **RUN)
    parser.add_argument(
        "--step",
        **COUNT,
        help="with RUN: the model after N steps (default: the best on the dev set)",
    )
    parser.add_argument(
        "--model", metavar="M", help="directory, hub id or GGUF file (default: the demo's model)"
    )
    parser.add_argument("--served-model-name", metavar="NAME", help="what clients call the model")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        dest="adapters",
        metavar="NAME=DIR",
        help="a PEFT LoRA that clients ask for as model NAME (repeatable)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address (default: 127.0.0.1)")
    numbers: list[tuple[str, Any, Any, str]] = [
        ("--port", count, 8000, "port; 0 for any that is free"),
        ("--rows", count, 16, "the most texts that are continued together"),
        ("--max-loras", count, 4, "the most adapters on the device together"),
        ("--max-lora-rank", count, 16, "the largest rank of adapters that clients load"),
        ("--shared-layers", count, 0, "lowest layers whose cache adapters above them share"),
        ("--target-ms", float, 50.0, "time between two tokens that readers accept"),
        ("--max-requests-per-key", count, 1024, "the most open texts and items of a key"),
        ("--max-jobs", count, 4, "the most fine-tuning jobs that are trained together"),
        ("--training-share", float, 0.005, "the share of the time that training is sure of"),
        ("--max-queue", count, 4096, "the most open texts and items of all keys"),
    ]
    for name, kind, default, what in numbers:
        parser.add_argument(
            name, type=kind, default=default, metavar="N", help=f"{what} (default: {default})"
        )
    parser.add_argument(
        "--max-length",
        type=count,
        metavar="N",
        help="the most tokens of a prompt with its continuation (default: what the model has, but "
        "at most 2048)",
    )
    parser.add_argument(
        "--dtype",
        choices=WEIGHT_DTYPES,
        help="dtype of --model's weights on the device (default: float32)",
    )
    parser.add_argument(
        "--mesh",
        metavar="data=N,model=N",
        help="devices that share the work, as in a run's settings mesh.data and mesh.model: model "
        "splits the weights, data splits pages to score (default: one device)",
    )
    parser.add_argument(
        "--api-key",
        action="append",
        default=[],
        dest="keys",
        metavar="K",
        help="a key that clients must give; others on this machine can see it, so rather use "
        "--api-keys or the environment's ZOJAX_API_KEY (repeatable)",
    )
    parser.add_argument(
        "--api-keys",
        type=Path,
        dest="keys_file",
        metavar="FILE",
        help="a file with a key, or sha256: and its hash, on each line",
    )
    parser.add_argument(
        "--admin-keys",
        type=Path,
        dest="admin_keys_file",
        metavar="FILE",
        help="the same, of keys that alone may load and unload adapters; or the environment's "
        "ZOJAX_ADMIN_KEY",
    )
    parser.add_argument(
        "--allow-adapters-from",
        type=Path,
        dest="adapters_from",
        metavar="DIR",
        help="let clients load adapters from directories below DIR, and unload them",
    )
    parser.add_argument(
        "--allow-training-in",
        type=Path,
        dest="trains_in",
        metavar="DIR",
        help="let clients upload files and train adapters (OpenAI's /v1/fine_tuning), which are "
        "kept in DIR",
    )
    parser.add_argument(
        "--train-class",
        action="append",
        default=[],
        dest="train_classes",
        metavar="KEY=VALUE,…",
        help="a class of jobs whose programs are compiled now; others are refused then. Keys: "
        "estimator (mezo), rank, batch_size (16), epsilon, num_layers, candidates (2 labels at "
        "most; 1 for completions and chats), candidate_tokens, tokens of a row (128) (repeatable)",
    )


def run(args: argparse.Namespace) -> int:
    """Load the model, compile its programs, and serve until a signal comes."""
    lacking = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        raise InputError(
            f"serve: {', '.join(lacking)} is missing; install it with pip install 'zojax[serve]'"
        )
    settings = _settings(args)

    from zojax.serving.start import bound_socket, is_loopback

    with bound_socket(args.host, args.port) as sock:
        if not (is_loopback(sock) or settings.keys):
            raise InputError(
                f"--host {args.host}: others can reach it, so a key is needed; give --api-keys "
                "FILE, or the environment's ZOJAX_API_KEY"
            )
        return _serve(settings, sock)


def _serve(settings: Settings, sock: socket.socket) -> int:

    from zojax.distributed.platforms import check_platforms
    from zojax.programs.cache import keep_programs, kept_until_the_end
    from zojax.serving.server import Server

    keep_programs()
    check_platforms()
    kept = kept_until_the_end() if settings.job_classes else contextlib.nullcontext()
    with kept, _started(settings) as service:
        host, port = sock.getsockname()[:2]
        place = f"[{host}]" if ":" in host else host
        names = ", ".join([service.name, *settings.adapters])
        sock.listen(_BACKLOG)  # so that whoever reads this line may connect at once
        url = f"http://{place}:{port}"
        warn(f"zojax serve: {names} at {url}/v1, a dashboard at {url}/; Ctrl-C ends it")
        return Server(service).serve_on(sock)


@contextlib.contextmanager
def _started(settings: Settings) -> Iterator[Service]:
    """Starts the service, and shows what it is doing until it is there."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from zojax.serving.start import started

    console = make_console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = progress.add_task("loading the model", total=None)

    def on_progress(done: int, of: int) -> None:
        progress.update(task, description="compiling programs", completed=done, total=of)

    with contextlib.ExitStack() as stack:
        with progress:
            service = stack.enter_context(started(settings, on_progress))
        yield service


def _settings(args: argparse.Namespace) -> Settings:
    from zojax.demo import MODEL
    from zojax.serving.fine_tuning.classes import read_class
    from zojax.serving.limits import Keys, Limits, read_keys
    from zojax.serving.start import Settings

    keys = [*args.keys, *(read_keys(args.keys_file) if args.keys_file else ())]
    if key := os.environ.get("ZOJAX_API_KEY"):
        keys.append(key)
    admin_keys = read_keys(args.admin_keys_file) if args.admin_keys_file else []
    if key := os.environ.get("ZOJAX_ADMIN_KEY"):
        admin_keys.append(key)
    keys, admin_keys = ([key.strip() for key in given] for given in (keys, admin_keys))
    if "" in (*keys, *admin_keys):
        raise InputError("--api-key: a key is empty")
    for name in ("rows", "max_loras", "max_lora_rank", "target_ms", "max_jobs"):
        if not 1 <= getattr(args, name) < 1 << 20:
            raise InputError(f"--{name.replace('_', '-')} {getattr(args, name)}: give 1 or more")
    if not 0 <= args.training_share < 1:
        raise InputError(f"--training-share {args.training_share}: give 0 or more, below 1")
    if args.run is None and args.step is not None:
        raise InputError("serve: --step goes with RUN")
    if args.run is not None and (args.model or args.dtype):
        raise InputError("serve: --model and --dtype do not go with RUN, which has both")
    if args.run is not None and args.mesh:
        raise InputError("serve: --mesh does not go with RUN; export its model, and serve that")
    if args.run is not None and args.shared_layers:
        raise InputError("serve: --shared-layers does not go with RUN, which has no adapters")
    if args.run is not None and (args.adapters or args.adapters_from):
        raise InputError(
            "serve: adapters do not go with RUN; make one of it: zojax export RUN --format peft"
        )
    if args.trains_in and (args.run is not None or args.mesh):
        raise InputError("serve: --allow-training-in does not go with RUN or --mesh")
    if args.train_classes and not args.trains_in:
        raise InputError("serve: --train-class goes with --allow-training-in")
    model = args.run or args.model
    return Settings(
        str(model or MODEL),
        args.served_model_name or ("" if model else "demo"),
        _adapters(args.adapters),
        args.adapters_from,
        args.dtype or "float32",
        args.rows,
        args.max_length,
        args.max_loras,
        args.max_lora_rank,
        args.target_ms,
        args.trains_in,
        args.training_share,
        Keys(keys),
        Limits(
            open_per_key=args.max_requests_per_key,
            open=args.max_queue,
            jobs_at_once=args.max_jobs,
        ),
        Keys(admin_keys),
        args.run is not None,
        args.step,
        None if args.mesh is None else _mesh(args.mesh),
        [read_class(one, args.max_lora_rank) for one in args.train_classes],
        args.shared_layers,
    )


def _mesh(given: str) -> MeshConfig:
    from zojax.config import MeshConfig

    sizes: dict[str, int] = {}
    for part in given.split(","):
        name, _, size = part.strip().partition("=")
        if name not in ("data", "model") or name in sizes or not size.isdecimal() or not int(size):
            raise InputError(f"--mesh {given}: give data=N, model=N or both, with a comma between")
        sizes[name] = int(size)
    return MeshConfig(sizes.get("data"), sizes.get("model"))


def _adapters(given: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for one in given:
        name, equals, directory = one.partition("=")
        if not (name and equals and directory):
            raise InputError(f"--adapter {one}: give NAME=DIR")
        if name in found:
            raise InputError(f"--adapter {one}: another adapter has this name")
        found[name] = Path(directory).expanduser()
    return found
