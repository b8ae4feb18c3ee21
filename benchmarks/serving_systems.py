"""What answers in the benchmark of serving: zojax, vLLM, llama.cpp, and transformers here."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np
import torch
from peers import load_model
from serving_load import Question
from transformers import AutoTokenizer

from zojax.errors import InputError
from zojax.exports.lora import Lora, save_lora

MODEL = "model"
LENGTH = 512
LLAMA = Path(__file__).with_name("serving_llama.py")
BATCH = 16
_START_SECONDS = 900


@contextlib.contextmanager
def zojax_server(
    checkpoint: Path, options: Sequence[str] = (), adapters: Mapping[str, Path] | None = None
) -> Iterator[str]:
    """Serve a checkpoint with this zojax, at the address that is yielded."""
    command = [sys.executable, "-m", "zojax.cli", "serve", "--model", str(checkpoint)]
    command += ["--served-model-name", MODEL, "--max-length", str(LENGTH), *options]
    command += ["--max-loras", str(len(adapters))] if adapters else []
    for name, path in (adapters or {}).items():
        command += ["--adapter", f"{name}={path}"]
    with _server(command, {"JAX_PLATFORMS": "cpu"}) as url:
        yield url


@contextlib.contextmanager
def vllm_server(python: Path, checkpoint: Path) -> Iterator[str]:
    """Serve a checkpoint with the vLLM of another environment, at the address that is yielded."""
    # The package for processors has no metadata under the name that the command vllm looks up.
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint)]
    command += ["--served-model-name", MODEL, "--max-model-len", str(LENGTH)]
    command += ["--dtype", "float32"]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "4",
        # By itself it keeps a core free, which is half of two.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(os.cpu_count()),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    with _server(command, environment) as url:
        yield url


@contextlib.contextmanager
def llama_server(python: Path, file: Path, slots: int) -> Iterator[str]:
    """Serve a GGUF file with llama.cpp, as the xllamacpp of another environment has it."""
    with _server([str(python), str(LLAMA), str(file), str(slots), str(LENGTH)], {}) as url:
        yield url


@contextlib.contextmanager
def _server(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(process, url)
            yield url
        except InputError as error:
            log.seek(0)
            tail = log.read()[-2000:].decode(errors="replace")
            raise InputError(f"{error}; its last words:\n{tail}") from None
        finally:
            _end(process)


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    last = time.monotonic() + _START_SECONDS
    while time.monotonic() < last:
        if process.poll() is not None:
            raise InputError(f"{process.args[0]}: the server ended before it answered")  # type: ignore[index]
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/v1/models").is_success:
                return
        time.sleep(0.5)
    raise InputError(f"the server did not answer within {_START_SECONDS} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and the processes that it started, which are a group of their own."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
    process.wait()


def write_adapters(directory: Path, count: int, sites: Mapping[str, tuple[int, int]]) -> list[Path]:
    """Write random adapters of rank 8 as PEFT does.

    Args:
        directory: where each gets a directory.
        count: the number of adapters.
        sites: the shape ``(m, n)`` of the matrix of each module that has one.
    """
    paths = []
    for seed in range(count):
        rng = np.random.default_rng(seed)

        def draw(rows: int, rng: np.random.Generator = rng) -> np.ndarray:
            return 0.01 * rng.standard_normal((rows, 8), np.float32)

        factors = {name: (draw(m), draw(n)) for name, (m, n) in sites.items()}
        path = directory / f"a{seed}"
        path.mkdir(parents=True)
        save_lora(Lora(factors, 8, 0.0, ("", 0.0)), path, MODEL)
        paths.append(path)
    return paths


def as_checkpoint(file: Path, directory: Path) -> Path:
    """A GGUF file as a checkpoint in float32, written by transformers."""
    model: Any = load_model(file)
    model.hf_quantizer = None  # its tensors are not quantised any more
    vars(model.config).pop("quantization_config", None)
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(directory)
    return directory


def in_float32(source: Path, target: Path) -> Path:
    """Write a GGUF file whose tensors are those of another, dequantised."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    written = "general.architecture", "general.file_type"
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in written:
            sub_type = field.types[-1] if len(field.types) > 1 else None  # of an array's values
            writer.add_key_value(name, field.contents(), field.types[0], sub_type)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        exact = gguf.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, exact.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


class Transformers:
    """transformers in this process, for a number of questions at a time.

    Args:
        checkpoint: the model.
    """

    def __init__(self, checkpoint: Path):
        torch.set_num_threads(os.cpu_count() or 1)
        self._model: Any = load_model(checkpoint)
        self._model.set_attn_implementation("sdpa")
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.pad_token_id = 0

    @torch.inference_mode()
    def generate(self, batch: Sequence[Question]) -> int:
        """Continue prompts, all until the longest wish is fulfilled; returns the wished tokens."""
        tokens_pt, mask_pt = _padded([question.prompt for question in batch])
        most = max(question.new_tokens for question in batch)
        self._model.generate(
            input_ids=tokens_pt, attention_mask=mask_pt, max_new_tokens=most, do_sample=False
        )
        return sum(question.new_tokens for question in batch)

    def score(self, batch: Sequence[Question]) -> int:
        """Score candidates; returns their number."""
        return sum(len(self.logprobs(question)) for question in batch)

    def score_one_by_one(self, batch: Sequence[Question]) -> int:
        """Score candidates, each alone; returns their number."""
        alone = [q._replace(candidates=[c]) for q in batch for c in q.candidates]
        return self.score(alone)

    @torch.inference_mode()
    def logprobs(self, question: Question) -> list[float]:
        """Each candidate's log-probability: all of them behind the prompt, padded, in one call."""
        rows = [question.prompt + candidate for candidate in question.candidates]
        tokens_pt, mask_pt = _padded(rows)
        most = max(map(len, question.candidates))
        out = self._model(input_ids=tokens_pt, attention_mask=mask_pt, logits_to_keep=most + 1)
        logprob_ptv = out.logits[:, :-1].float().log_softmax(-1)
        logprob_pt = logprob_ptv.gather(-1, tokens_pt[:, -most:, None])[..., 0]
        return [
            logprob_pt[i, most - len(candidate) :].sum().item()
            for i, candidate in enumerate(question.candidates)
        ]


def _padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    tokens = [[0] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(tokens), torch.tensor(mask)
