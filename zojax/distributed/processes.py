"""Several processes: how they find each other, and what they tell each other beside the devices.

JAX's runtime connects them, and its programs exchange what lies on devices. Whatever else decides
where a run goes is decided by one of them, the leader, and told to the others through the
key-value store of that runtime's coordination service, which needs no device and no program.
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
"""What says in the environment where the leader is (``host:port``), how many there are, and who."""

LOST_AFTER = "ZOJAX_LOST_AFTER"
"""The environment's name for the seconds without a sign of life that a process is given up after.

It should stay well below JAX's own 100, which end a process with a dump.
"""

_LOST_AFTER_SECONDS = 30.0
_FOREVER_MS = 7 * 24 * 3600 * 1000  # the watch ends a wait for a process that is lost
_calls = itertools.count()
_watch: Watch | None = None


def connect() -> None:
    """Connects this process with the others of its job, if it has any; once, before JAX is used.

    Several are those that ``srun``, ``mpirun``, an indexed Kubernetes job or a TPU pod started, as
    JAX's own detection knows them; or those that the environment names (:data:`ADDRESS`,
    :data:`NUMBER`, :data:`INDEX`), which goes first. A shell inside an allocation is alone.

    Raises:
        InputError: the environment is incomplete, the others cannot be reached, or JAX finds no
            device.
    """
    given = {name: os.environ[name] for name in (ADDRESS, NUMBER, INDEX) if os.environ.get(name)}
    if given.get(NUMBER) == "1" or not (given.keys() & {NUMBER, INDEX} or _is_in_job(os.environ)):
        check_platforms()
        return
    # It would take SIGTERM for itself, from the first moment on.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        if given.keys() & {NUMBER, INDEX}:
            jax.distributed.initialize(given[ADDRESS], int(given[NUMBER]), int(given[INDEX]))
        else:
            jax.distributed.initialize()
        jax.devices()  # they tell each other of theirs now, or would wait for those that do not
    except KeyError as error:
        raise InputError(
            f"{error.args[0]} is not set; several processes need {ADDRESS}, {NUMBER} and {INDEX}"
        ) from None
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"this process cannot join the others ({str(error).splitlines()[0]}); "
            f"{NUMBER}=1 has it work alone"
        ) from error


def _is_in_job(environment: Any) -> bool:
    """Whether something started this process as one of several, or JAX had better ask."""

    def is_many(name: str) -> bool:
        return int(environment.get(name) or 1) > 1

    # Of the step, not of the job: a shell of salloc is a step of its own, of one task.
    by_launcher = is_many("SLURM_STEP_NUM_TASKS") or is_many("OMPI_COMM_WORLD_SIZE")
    by_kubernetes = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= set(environment)
    hosts_of_tpus = environment.get("TPU_WORKER_HOSTNAMES", "")
    return by_launcher or by_kubernetes or "," in hosts_of_tpus or runtime.is_tpu_machine()


def count() -> int:
    """How many processes there are."""
    return runtime.process_count()


def index() -> int:
    """Which of them this one is; 0 is the leader."""
    return runtime.process_index()


def is_alone() -> bool:
    """Whether this process is the only one."""
    return count() == 1


def is_leader() -> bool:
    """Whether this is the process that decides, writes and tells."""
    return index() == 0


def broadcast_from_leader(name: str, make: Callable[[], T]) -> T:
    """What ``make()`` gives on the leader, on every process; it is called there alone.

    All processes call this, :func:`all_gather` and :func:`run_on_all` in the same order, from their
    main threads.

    Args:
        name: what this is about, the same on all.
        make: gives what JSON can hold, in less than 2 GB.

    Raises:
        InputError: ``make`` raised it.
        RuntimeError: the leader is at something else, so this process went another way.

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
    """What each process gives, in their order, on every process; waits for all of them.

    Args:
        name: what this is about, the same on all.
        value: what JSON can hold.

    Raises:
        RuntimeError: another process is at something else.

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
    """What ``make()`` gives on this process, if it succeeds on all of them.

    Args:
        name: what this is about, the same on all.
        make: may do what all processes must do together, if none can fail before the others have.

    Raises:
        InputError: on every process, if ``make`` raised it on any.
        RuntimeError: another process is at something else.
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
    """Writes a value for the others, and gives what they will read."""
    published = json.dumps([name, value])
    runtime.coordination_client().key_value_set(f"zojax/published/{call}/{index()}", published)
    return json.loads(published)[1]


def _receive(call: int, name: str, process: int) -> Any:
    """What a process wrote in a call, if it calls it by the same name.

    The name is not in the key: nobody would ever write the key of one who went another way.
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
    """Connects the processes, and has them end together, whatever ends one of them.

    Alone, it does nothing. Otherwise no process leaves it before all have come to its end; and if
    one of them fails or is lost, all others end too, within seconds, whatever they are doing. What
    went wrong is told in one line: by the leader, or by each that lost another.
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
    """Ends all processes for a stop, each when the others are ready too; alone, it returns."""
    if _watch is not None:
        _watch.exit_together(exit_code)


def propagate_stop(stop: Stoppable) -> None:
    """Has a stop that is asked for on any process be asked for on all, within a second or so."""
    if _watch is not None:
        _watch.stops = [stop]
