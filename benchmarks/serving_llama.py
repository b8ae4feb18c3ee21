"""Serve a GGUF file with llama.cpp; run by the python of an environment that has xllamacpp.

ENV/bin/python serving_llama.py FILE SLOTS LENGTH --port N
"""

import argparse
import os
import signal

import xllamacpp  # pyright: ignore[reportMissingImports]


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("slots", type=int)
    parser.add_argument("length", type=int)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = args.file
    params.hostnames, params.port = ["127.0.0.1"], args.port
    params.n_parallel, params.n_ctx = args.slots, args.slots * args.length
    for threads in (params.cpuparams, params.cpuparams_batch):
        threads.n_threads = os.cpu_count() or 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
