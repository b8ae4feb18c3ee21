"""Several processes: how they find each other, and what they exchange besides device arrays.

JAX's runtime connects them, and its programs exchange what lies on devices. Every other decision
about a run is made by one process, the leader, and sent to the others through the key-value store
of the runtime's coordination service, which needs no device and no program.
``docs/processes.md`` says how to start them.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax

from zojax.distributed import runtime
from zojax.distributed.platforms import check_platforms
from zojax.distributed.watch import Stoppable, Watch
from zojax.errors import BAD_INPUT, INTERRUPTED, InputError, as_line

T = TypeVar("T")

ADDRESS, NUMBER, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
"""Environment variables: the leader's ``host:port``, the number of processes, and the index."""

LOST_AFTER = "ZOJAX_LOST_AFTER"
"""Environment variable: after how many seconds without a heartbeat a process counts as lost.

It should stay well below JAX's own limit of 100 seconds, which ends a process with a dump.
"""

_LOST_AFTER_SECONDS = 30.0
_FOREVER_MS = 7 * 24 * 3600 * 1000  # long enough: the watch ends a wait for a lost process
_calls = itertools.count()
_watch: Watch | None = None


def connect() -> None:
    """Connects this process with the others of its job, if any; call it once, before using JAX.

    A job's processes are those that the environment names (:data:`ADDRESS`, :data:`NUMBER`,
    :data:`INDEX`), or else those that ``srun``, ``mpirun``, an indexed Kubernetes job or a TPU pod
    started, as JAX itself detects them. A shell inside an allocation is alone.

    Raises:
        InputError: the environment is incomplete, the others cannot be reached, or JAX finds no
            device.
    """
    given = {name: os.environ[name] for name in (ADDRESS, NUMBER, INDEX) if os.environ.get(name)}
    if given.get(NUMBER) == "1" or not (given.keys() & {NUMBER, INDEX} or _is_in_job(os.environ)):
        check_platforms()
        return
    # The service would handle SIGTERM itself from the start.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        if given.keys() & {NUMBER, INDEX}:
            jax.distributed.initialize(given[ADDRESS], int(given[NUMBER]), int(given[INDEX]))
        else:
            jax.distributed.initialize()
        jax.devices()  # all exchange their device lists here; later, one might wait in vain
    except KeyError as error:
        raise InputError(
            f"{error.args[0]} is not set; several processes need {ADDRESS}, {NUMBER} and {INDEX}"
        ) from None
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"this process cannot join the others ({str(error).splitlines()[0]}); "
            f"set {NUMBER}=1 to run it alone"
        ) from error


def _is_in_job(environment: Any) -> bool:
    """Whether this process may be one of several, so that JAX should look for the others."""

    def is_many(name: str) -> bool:
        return int(environment.get(name) or 1) > 1

    # The step's tasks, not the job's: a shell started by salloc is a step of one task.
    by_launcher = is_many("SLURM_STEP_NUM_TASKS") or is_many("OMPI_COMM_WORLD_SIZE")
    by_kubernetes = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= set(environment)
    hosts_of_tpus = environment.get("TPU_WORKER_HOSTNAMES", "")
    return by_launcher or by_kubernetes or "," in hosts_of_tpus or runtime.is_tpu_machine()


def count() -> int:
    """The number of processes."""
    return runtime.process_count()


def index() -> int:
    """The index of this process; 0 is the leader."""
    return runtime.process_index()


def is_alone() -> bool:
    """Whether this process is the only one."""
    return count() == 1


def is_leader() -> bool:
    """Whether this is the process that decides, writes files and prints."""
    return index() == 0


def broadcast_from_leader(name: str, make: Callable[[], T]) -> T:
    """Calls ``make()`` on the leader only, and returns its result on every process.

    All processes must call this, :func:`all_gather` and :func:`run_on_all` in the same order, from
    their main threads.

    Args:
        name: a description of the value, the same on all processes.
        make: a function that returns a value that JSON can hold, of less than 2 GB.

    Raises:
        InputError: ``make`` raised it on the leader.
        RuntimeError: the leader is at another call, so this process has diverged from it.

    Example:
        >>> broadcast_from_leader("two numbers", lambda: [1, 2])
        [1, 2]
    """
    if is_alone():
        return make()
    call = next(_calls)
    outcome = _publish(call, name, _outcome(make)) if is_leader() else _receive(call, name, 0)
    if "error" in outcome:
        raise InputError(outcome["error"])
    return outcome["value"]


def all_gather(name: str, value: T) -> list[T]:
    """Returns the values of all processes, in their order, on every process; waits for all.

    Args:
        name: a description of the value, the same on all processes.
        value: this process's value, which JSON must be able to hold.

    Raises:
        RuntimeError: another process is at another call.

    Example:
        >>> all_gather("a word", "one")
        ['one']
    """
    if is_alone():
        return [value]
    call = next(_calls)
    _publish(call, name, value)
    return [_receive(call, name, process) for process in range(count())]


def run_on_all(name: str, make: Callable[[], T]) -> T:
    """Calls ``make()`` on every process, and returns each its own result if all succeed.

    Args:
        name: a description of the work, the same on all processes.
        make: the work; it may contain collective operations if none of the processes can fail
            before them.

    Raises:
        InputError: on every process, if ``make`` raised it on any.
        RuntimeError: another process is at another call.
    """
    if is_alone():
        return make()
    result: list[T] = []
    outcomes = all_gather(name, _outcome(lambda: result.append(make())))
    for process, outcome in enumerate(outcomes):
        if "error" in outcome:
            where = "" if process == 0 else f"process {process} of {count()}: "
            raise InputError(where + outcome["error"])
    return result[0]


def _publish(call: int, name: str, value: Any) -> Any:
    """Writes a value for the others, and returns it as they will read it."""
    published = json.dumps([name, value])
    runtime.coordination_client().key_value_set(f"zojax/published/{call}/{index()}", published)
    return json.loads(published)[1]


def _receive(call: int, name: str, process: int) -> Any:
    """The value that a process wrote in a call; ``RuntimeError`` if its name differs.

    The name is not part of the key: a process that has diverged would wait for its key for ever.
    """
    key = f"zojax/published/{call}/{process}"
    published = runtime.coordination_client().blocking_key_value_get(key, _FOREVER_MS)
    their_name, value = json.loads(published)
    if their_name != name:
        raise RuntimeError(
            f"process {process} is at {their_name!r} where process {index()} is at {name!r}"
        )
    return value


def _outcome(make: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"value": make()}
    except InputError as error:
        return {"error": str(error)}


@contextmanager
def connected() -> Iterator[None]:
    """Connects the processes, and makes them end together, whatever ends one of them.

    For a single process it does nothing else. Otherwise no process leaves the context before all
    have reached its end, and if one fails or is lost, all others end within seconds, whatever they
    are doing. One line says what went wrong: the leader prints it, or each that lost another.
    """
    global _watch
    connect()
    if is_alone():
        yield
        return
    seconds = float(os.environ.get(LOST_AFTER) or _LOST_AFTER_SECONDS)
    client, host = runtime.coordination_client(), runtime.coordinator_host()
    _watch = watch = Watch(client, host, index(), count(), seconds)
    try:
        yield
        all_gather("the end", None)
        watch.close()
    except InputError as error:
        watch.fail(as_line(error), BAD_INPUT)
    except KeyboardInterrupt:
        watch.exit_together(INTERRUPTED)
    except Exception as error:
        watch.crash(error)


def exit_together(exit_code: int) -> None:
    """Ends all processes after a request to stop, each once all are ready; alone, it returns."""
    if _watch is not None:
        _watch.exit_together(exit_code)


def propagate_stop(stop: Stoppable) -> None:
    """Passes a request to stop on any process on to all of them, within about a second."""
    if _watch is not None:
        _watch.stops = [stop]
