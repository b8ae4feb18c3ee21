"""What ``soak.py`` lets a server train: jobs of all kinds, one after the other, which all end.

Each is paused, resumed, cancelled or trained to its end, and then deleted with all that it had, so
that whatever memory grows by afterwards is lost.
"""

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx

from tests.serving.tinker_client import created, outcome, post, scoring

TOKENS = [2, 45, 120, 77, 301, 9, 64]
_SECONDS = 300.0
"""How long a job may take to get anywhere."""

_ROWS = "".join(
    json.dumps({"text": f"a {word} film", "label": str(i % 2)}) + "\n"
    for i, word in enumerate(("dull", "great", "flat", "funny", "tired", "moving") * 8)
).encode()
_FROM_FILE = {"batch_size": 4, "steps": 6, "rank": 2, "epsilon": 0.01, "learning_rate": 0.1}
_FROM_USE = {"batch_size": 4, "steps_per_batch": 1, "num_queries": 2, "rank": 2, "steps": 3}


class Training(threading.Thread):
    """Trains one job after the other.

    Args:
        url: the server's.
        compilations: the number of programs that the server has compiled so far.

    Attributes:
        outcomes: how jobs have ended, by their kind.
        compiled: how many programs each kind of job has compiled, each time.
    """

    def __init__(self, url: str, compilations: Callable[[], float]):
        super().__init__(daemon=True)
        self.outcomes: Counter[str] = Counter()
        self.compiled: dict[str, list[float]] = {}
        self._http = httpx.Client(base_url=url, timeout=60)
        self._compilations, self._is_over = compilations, threading.Event()

    def run(self) -> None:
        """Trains until it is stopped."""
        kinds = (self._from_file, self._cancelled, self._from_use, self._with_tinker)
        for kind in itertools.cycle(kinds):
            if self._is_over.is_set():
                return
            name, before = kind.__name__.strip("_"), self._compilations()
            try:
                kind()
                self.outcomes[name] += 1
            except Exception as error:
                self.outcomes[f"lost: {name}: {type(error).__name__} {error}"[:200]] += 1
            self.compiled.setdefault(name, []).append(self._compilations() - before)

    def stop(self) -> None:
        """Lets the job in progress end, and begins no other."""
        self._is_over.set()
        self.join()
        self._http.close()

    @property
    def compiles_more(self) -> bool:
        """Whether a job has compiled more than twice as much as the first two of its kind.

        Paused at another step, one may replay another number of steps, for which it compiles.
        """
        return any(max(counts) > 2 * max(counts[:2]) for counts in self.compiled.values())

    def _from_file(self) -> None:
        """A job that is paused and goes on, to its end."""
        job = self._created(_FROM_FILE)
        self._waited(job, lambda now: now["status"] == "running")
        paused = self._http.post(f"/v1/fine_tuning/jobs/{job['id']}/pause")
        if paused.status_code == 200:  # else it has just ended
            self._asked("POST", f"/v1/fine_tuning/jobs/{job['id']}/resume")
        self._waited(job, lambda now: now["status"] == "succeeded")
        events = f"/v1/fine_tuning/jobs/{job['id']}/events"
        with self._http.stream("GET", events, params={"stream": "true"}) as answer:
            assert [line for line in answer.iter_lines() if line][-1] == "data: [DONE]"
        assert self._asked("GET", f"/v1/fine_tuning/jobs/{job['id']}/checkpoints")["data"]
        self._complete(job["current_model"])
        self._deleted(job)

    def _cancelled(self) -> None:
        """A job that is cancelled at once."""
        job = self._created({**_FROM_FILE, "steps": 1000})
        self._asked("POST", f"/v1/fine_tuning/jobs/{job['id']}/cancel")
        self._deleted(job)

    def _from_use(self) -> None:
        """A job that learns from rewards, to its end."""
        method = {"type": "feedback", "feedback": {"hyperparameters": _FROM_USE}}
        job = self._asked("POST", "/v1/fine_tuning/jobs", json={"model": "demo", "method": method})
        self._waited(job, lambda now: self._is_served(now["current_model"]))
        while self._now(job)["status"] == "running":
            answer = self._complete(job["current_model"], n=4)
            for choice in answer["choices"]:
                body = {"id": answer["id"], "index": choice["index"], "reward": choice["index"] % 2}
                told = self._http.post("/v1/feedback", json=body)
                if told.status_code not in (200, 404, 409):  # the job has ended meanwhile
                    told.raise_for_status()
        self._waited(job, lambda now: now["status"] == "succeeded")
        self._deleted(job)

    def _with_tinker(self) -> None:
        """A model that is trained by Tinker's verbs, kept, asked and loaded."""
        http = self._http
        model = created(http)
        session = model.partition(":train")[0]
        for seq_id in (1, 3):
            begun = post(http, "forward_backward", scoring(model, seq_id, TOKENS))
            step = {"model_id": model, "seq_id": seq_id + 1, "adam_params": {}}
            moved = post(http, "optim_step", step)
            outcome(http, begun)
            outcome(http, moved)
        save = {"model_id": model, "path": "x"}
        path = outcome(http, post(http, "save_weights", {**save, "seq_id": 5}))["path"]
        begun = post(http, "save_weights_for_sampler", {**save, "seq_id": 6})
        kept = outcome(http, begun)["path"]
        load = {"model_id": model, "seq_id": 7, "optimizer": True, "path": path}
        outcome(http, post(http, "load_weights", load))
        body = {"session_id": session, "sampling_session_seq_id": 0, "model_path": kept}
        sampler = post(http, "create_sampling_session", body).json()["sampling_session_id"]
        prompt = {"chunks": [{"type": "encoded_text", "tokens": TOKENS}]}
        asks = {"prompt": prompt, "sampling_params": {"max_tokens": 4}, "num_samples": 2}
        outcome(http, post(http, "asample", {**asks, "sampling_session_id": sampler, "seq_id": 0}))
        self._complete(model)
        for kind in ("weights", "sampler_weights"):
            where = f"/api/v1/training_runs/{model}/checkpoints/{kind}/x"
            http.delete(where).raise_for_status()
        post(http, f"sessions/{session}/finish", {}).raise_for_status()

    def _created(self, hyperparameters: dict[str, Any]) -> dict[str, Any]:
        """A job that learns from a file, which is deleted as soon as it may be."""
        rows = {"file": ("rows.jsonl", _ROWS)}
        file = self._asked("POST", "/v1/files", files=rows, data={"purpose": "fine-tune"})
        body = {
            "model": "demo",
            "training_file": file["id"],
            "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
            "data": {"prompt": "{text} It was", "candidates": {"0": " terrible", "1": " great"}},
        }
        job = self._asked("POST", "/v1/fine_tuning/jobs", json=body)
        self._asked("DELETE", f"/v1/files/{file['id']}")
        return job

    def _deleted(self, job: dict[str, Any]) -> None:
        """Deletes a job that has ended, or ends soon, with all that it has learnt."""
        where, end = f"/v1/models/{job['current_model']}", time.monotonic() + _SECONDS
        while (answer := self._http.delete(where)).status_code == 400:  # its thread is not done
            assert time.monotonic() < end, answer.text
            time.sleep(0.1)
        answer.raise_for_status()

    def _now(self, job: dict[str, Any]) -> dict[str, Any]:
        return self._asked("GET", f"/v1/fine_tuning/jobs/{job['id']}")

    def _waited(self, job: dict[str, Any], is_so: Callable[[dict[str, Any]], bool]) -> None:
        end = time.monotonic() + _SECONDS
        while not is_so(now := self._now(job)):
            assert time.monotonic() < end, now
            assert now["status"] not in ("failed", "cancelled"), now
            time.sleep(0.1)

    def _is_served(self, model: str) -> bool:
        return self._http.get(f"/v1/models/{model}").status_code == 200

    def _complete(self, model: str, **changes: Any) -> dict[str, Any]:
        body = {"model": model, "prompt": "a film It was", "max_tokens": 1, **changes}
        return self._asked("POST", "/v1/completions", json=body)

    def _asked(self, method: str, path: str, **given: Any) -> Any:
        return self._http.request(method, path, **given).raise_for_status().json()
