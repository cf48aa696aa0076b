"""Execute one notebook in a fresh kernel through papermill, and say honestly where it stopped.

papermill marks every cell completed after a kernel death or a timeout, and lets `sys.exit(0)` pass as success.
The client below stops at the first cell that does not finish, marks that one failed, and leaves the later
ones pending. It stands on papermill's client class, hence papermill==2.7.* in pyproject.toml.
"""

import copy
import datetime
import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lab.reports.notebook import MARKER, tagged

LOST = {"DeadKernelError", "KernelStartError"}  # what says nothing against the notebook
THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")  # BLAS and torch read the first
# what is registered first runs last: all else that waits for the end has run, and the system takes the memory back at
# once, where Python would take torch and transformers apart object by object for two seconds
LAUNCH = (
    "import atexit, os, runpy; atexit.register(os._exit, 0); "
    "runpy.run_module('ipykernel_launcher', run_name='__main__', alter_sys=True)"
)


@dataclass(frozen=True)
class Failure:
    """Where and why a run stopped. index counts the cells of the executed notebook; None = no cell began."""

    index: int | None
    error: str
    reason: str


class Stop:
    """Ends the runs it was given to, when it is called from another thread."""

    def __init__(self) -> None:
        self.called = False
        self.clients: list = []

    def __call__(self) -> None:
        self.called = True
        for client in list(self.clients):
            client.kill()


@dataclass(frozen=True)
class Executed:
    """An executed notebook, whole or partial; data: what it read through lab.data, each {name, rows, sha256}."""

    notebook: dict
    failure: Failure | None
    started: datetime.datetime
    seconds: float
    data: list[dict]
    beside: int = 0  # how many others could run at the same time


def unfinished(node: dict, failure: Failure) -> Executed:
    """Where nothing came back of a run."""
    return Executed(copy.deepcopy(node), failure, datetime.datetime.now(datetime.UTC), 0.0, [])


def execute(
    node: dict,
    parameters: dict,
    *,
    timeout: int | float | None,
    label: str | None = None,
    see: Callable[[int, int], object] | None = None,
    threads: int | None = None,
    tries: int = 1,
    stop: Stop | None = None,
) -> Executed:
    """Run all cells of `node`, with `parameters` injected after its parameters cell.

    timeout: seconds for the whole notebook, None = no limit. label: names the progress bar, None = no bar.
    see(n, of): called before each cell, when n are done.
    threads: of each library in the kernel, where the environment does not say; None = what the library takes.
    tries: how often to begin where the kernel dies or does not start; the last one counts.
    stop: from another thread, ends the run as a KeyboardInterrupt would.
    Never raises for what a notebook does; the failure is in the result. A KeyboardInterrupt in this
    process stops the kernel and is a failure too, for the caller to raise again.
    """
    for _ in range(tries):
        executed = _once(node, parameters, timeout, label, see, threads, stop or Stop())
        if executed.failure is None or executed.failure.error not in LOST:
            break
    return executed


def _once(
    node: dict,
    parameters: dict,
    timeout: int | float | None,
    label: str | None,
    see: Callable[[int, int], object] | None,
    threads: int | None,
    stop: Stop,
) -> Executed:
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from lab.data import ledger

    _register()
    when, started = datetime.datetime.now(datetime.UTC), time.monotonic()
    kept: list[tuple] = []
    failure = None
    with tempfile.TemporaryDirectory(prefix="lab-ledger-") as scratch:
        read = Path(scratch) / "read.jsonl"
        try:
            papermill.execute_notebook(
                node,
                None,
                parameters=parameters,
                engine_name="lab",
                kernel_name="lab",
                language="python",
                request_save_on_cell_execute=False,
                progress_bar={"desc": label, "leave": False} if label else False,
                deadline=None if timeout is None else started + timeout,
                limit=timeout,
                see=see,
                stop=stop,
                environment=os.environ
                | {name: os.environ.get(name, str(threads)) for name in THREADS if threads}
                | {ledger.VARIABLE: str(read)},
                kept=kept,
            )
        except PapermillExecutionError:
            pass  # the client has recorded it, with the right cell
        except (RuntimeError, OSError) as error:
            failure = Failure(None, "KernelStartError", f"the kernel did not start: {error}")
            if stop.called:
                failure = Failure(None, "KeyboardInterrupt", "the run was stopped by hand before its first cell")
        data = ledger.readings(read)
    notebook, client = kept[0]
    failure = client.failure or failure
    notebook.cells = [cell for cell in notebook.cells if not tagged(cell, MARKER)]
    return Executed(notebook, failure, when, time.monotonic() - started, data)


@cache
def _register() -> None:
    """Enter our engine, client and kernel into papermill. Classes live here because their bases are heavy."""
    import zmq
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from nbformat.v4 import new_output
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import Engine, papermill_engines
    from papermill.translators import PythonTranslator, papermill_translators

    class Kernel(AsyncKernelManager):
        """This interpreter, whatever kernel is registered as python3 elsewhere."""

        @property
        def kernel_spec(self):
            # no history file: several kernels would wait for each other's lock on it
            found = get_kernel_dict(extra_arguments=["--HistoryManager.hist_file=:memory:"])
            at = found["argv"].index("-m")
            found["argv"][at : at + 2] = ["-c", LAUNCH]
            return KernelSpec(**found)

    class Client(PapermillNotebookClient):
        failure: Failure | None = None
        see: Callable[[int, int], object] | None = None
        stopped = False

        def kill(self):
            """From another thread: the cell that runs ends as a dead kernel's, and no other begins."""
            self.stopped = True
            if self.km is not None and self.km.has_kernel and self.km.provisioner.process is not None:
                self.km.provisioner.process.kill()

        def execute(self, **kwargs):
            self.reset_execution_trackers()
            with self.setup_kernel(**kwargs):
                for index, cell in enumerate(self.nb.cells):
                    if self.see:
                        self.see(index, len(self.nb.cells))
                    self.nb_man.cell_start(cell, index)
                    self._one(index, cell)
                    self.nb_man.cell_complete(cell, index)
                    if self.failure:
                        # whatever hangs in the kernel would also hang a polite shutdown
                        self.shutdown_kernel = "immediate"
                        break
                self.set_widgets_metadata()
                # its thread wakes once a second, and the channels' context would wait for that
                self.kc.hb_channel.stop()
            return self.nb

        def _one(self, index, cell):
            if self.stopped:
                self._stopped(index, cell)
                return
            try:
                self.execute_cell(cell, index)
            except CellExecutionError as error:
                reason = error.evalue
                if error.ename == "SystemExit":
                    reason = f"the cell ended the notebook early, with exit code {error.evalue or 0}"
                self._fail(index, cell, error.ename, reason)
            except CellTimeoutError:
                self._fail(index, cell, "TimeoutError", f"the notebook's limit of {self.limit:g} s passed in this cell")
            except DeadKernelError:
                if self.stopped:
                    self._stopped(index, cell)
                else:
                    self._fail(index, cell, "DeadKernelError", _death(self.km.provisioner.process.poll()))
            except KeyboardInterrupt:
                self._stopped(index, cell)

        def _stopped(self, index, cell):
            self._fail(index, cell, "KeyboardInterrupt", "the run was stopped by hand in this cell")

        def _fail(self, index, cell, error, reason):
            if not any(output.output_type == "error" for output in cell.get("outputs", [])):
                text = f"{error}: {reason}"
                cell.outputs.append(new_output("error", ename=error, evalue=reason, traceback=[text]))
            self.failure = Failure(index, str(error), str(reason))
            self.nb_man.cell_exception(cell, index)

    class LabEngine(Engine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, *, deadline, limit, see, environment, kept, stop, **_):
            client = Client(
                nb_man,
                kernel_manager_class=Kernel,
                kernel_name=kernel_name,
                startup_timeout=60,
                force_raise_errors=True,
                # a remaining time of 0 would mean "no limit" to nbclient
                timeout_func=deadline and (lambda _: max(deadline - time.monotonic(), 0.001)),
                log=quiet,
            )
            client.limit, client.see = limit, see
            kept.append((nb_man.nb, client))
            stop.clients.append(client)
            client.stopped = stop.called
            # keys of their own for each kernel: encrypted and without ipykernel's warning about plain TCP
            client.execute(env=environment, **({"transport_encryption": "auto"} if zmq.has("curve") else {}))

    class Translator(PythonTranslator):
        """papermill's writes a tuple as a string."""

        @classmethod
        def translate(cls, val):
            if isinstance(val, tuple):
                return f"({''.join(cls.translate(v) + ', ' for v in val).rstrip()})"
            if isinstance(val, dict):
                return "{" + ", ".join(f"{cls.translate(k)}: {cls.translate(v)}" for k, v in val.items()) + "}"
            return super().translate(val)

    # the failure is in the report; the same words as log lines between progress bars are noise
    quiet = logging.getLogger("lab.reports.kernel")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    # it warns of parameters that its own reading of the cell misses (`str | None`); ours has checked them
    logging.getLogger("papermill").setLevel(logging.ERROR)
    papermill_engines.register("lab", LabEngine)
    papermill_translators.register("lab", Translator)


def _death(code: int | None) -> str:
    if code is None or code >= 0:
        return f"the kernel ended itself with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = "; lack of memory is the usual cause" if name == "SIGKILL" else ""
    return f"the kernel was killed ({name}){hint}"
