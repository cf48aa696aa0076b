"""Execute one notebook in a fresh kernel through papermill, and say honestly where it stopped.

papermill marks every cell completed after a kernel death or a timeout, and lets `sys.exit(0)` pass as success.
The client below stops at the first cell that does not finish, marks that one failed, and leaves the later
ones pending. It stands on papermill's client class, hence papermill==2.7.* in pyproject.toml.
"""

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


@dataclass(frozen=True)
class Failure:
    """Where and why a run stopped. index counts the cells of the executed notebook; None = no cell began."""

    index: int | None
    error: str
    reason: str


@dataclass(frozen=True)
class Executed:
    """An executed notebook, whole or partial; data: what it read through lab.data, each {name, rows, sha256}."""

    notebook: dict
    failure: Failure | None
    seconds: float
    data: list[dict]


def execute(
    node: dict,
    parameters: dict,
    *,
    timeout: int | float | None,
    label: str | None,
    see: Callable[[int, int], object] | None = None,
) -> Executed:
    """Run all cells of `node`, with `parameters` injected after its parameters cell.

    timeout: seconds for the whole notebook, None = no limit. label: names the progress bar, None = no bar.
    see(n, of): called before each cell, when n are done. Never raises for what a notebook does; the failure is in
    the result. A KeyboardInterrupt in this process stops the kernel and is a failure too, for the caller to raise
    again.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from lab.data import ledger

    _register()
    started = time.monotonic()
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
                environment=os.environ | {ledger.VARIABLE: str(read)},
                kept=kept,
            )
        except PapermillExecutionError:
            pass  # the client has recorded it, with the right cell
        except (RuntimeError, OSError) as error:
            failure = Failure(None, "KernelStartError", f"the kernel did not start: {error}")
        data = ledger.readings(read)
    notebook, client = kept[0]
    failure = client.failure or failure
    notebook.cells = [cell for cell in notebook.cells if not tagged(cell, MARKER)]
    return Executed(notebook, failure, time.monotonic() - started, data)


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
            return KernelSpec(**get_kernel_dict(extra_arguments=["--HistoryManager.hist_file=:memory:"]))

    class Client(PapermillNotebookClient):
        failure: Failure | None = None
        see: Callable[[int, int], object] | None = None

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
            return self.nb

        def _one(self, index, cell):
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
                self._fail(index, cell, "DeadKernelError", _death(self.km.provisioner.process.poll()))
            except KeyboardInterrupt:
                self._fail(index, cell, "KeyboardInterrupt", "the run was stopped by hand in this cell")

        def _fail(self, index, cell, error, reason):
            if not any(output.output_type == "error" for output in cell.get("outputs", [])):
                text = f"{error}: {reason}"
                cell.outputs.append(new_output("error", ename=error, evalue=reason, traceback=[text]))
            self.failure = Failure(index, str(error), str(reason))
            self.nb_man.cell_exception(cell, index)

    class LabEngine(Engine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, *, deadline, limit, see, environment, kept, **_):
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
