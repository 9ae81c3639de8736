"""However a command ends, it says so in one message, with a code that tells; and nobody who stops listening ends it."""

from __future__ import annotations

import concurrent.futures.process
import errno
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import click
import pytest
from click.testing import CliRunner, Result

from jobs.__main__ import every_command
from jobs._cli.command import as_typed
from jobs._cli.ending import EndedError, wrapped
from jobs._cluster import chain
from jobs._cluster.executor import Job
from jobs._cluster.inline import Inline
from tests.jobs.commands import KMER, REPOSITORY, SAMPLE, call, clean, extract, start
from vnp.errors import EncoderError, IncompleteRunError, UsageError, machine_error
from vnp.runs.request import Run

COMMANDS = {" ".join(command.table): command for command in every_command()}  # type: ignore[attr-defined]
ERRORS: list[tuple[BaseException, int, str]] = [
    (MemoryError(), 1, "not enough memory"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 7 bytes"), 1, "memory"),
    (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried"), 1, "--token-budget"),
    (OSError("Unable to synchronously create dataset (memory allocation: cannot allocate memory)"), 1, "memory"),
    (RecursionError("maximum recursion depth exceeded"), 1, "nested too deeply"),
    (RuntimeError("can't start new thread"), 1, "ulimit -u"),
    (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), 1, "ulimit -u"),
    (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), 1, "ulimit -n"),
    (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), 1, "memory"),
    (RuntimeError("Symlink loop from '/x'"), 1, "leads to itself"),
    (ImportError("libx.so: failed to map segment from shared object"), 1, "not enough memory"),
    (SystemError("error return without exception set"), 1, "not enough memory"),
    (concurrent.futures.process.BrokenProcessPool("terminated abruptly"), 1, "was killed"),
    (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "here"), 1, "here: permission denied"),
    (EncoderError("no"), 1, "no"),
    (UsageError("no"), 2, "no"),
    (IncompleteRunError("no"), 3, "no"),
    (KeyboardInterrupt(), 130, "interrupted. What is finished is safe. Go on with: python -m jobs."),
]
SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "nohup"}


@pytest.fixture
def heard() -> Iterator[None]:
    """Let no signal be ignored because whoever started the tests, such as nohup, ignores it."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ended(command: click.Command, act: Callable[[], object]) -> Result:
    """Run a command that does something else, without its options."""

    with mock.patch.object(command, "callback", act), mock.patch.object(command, "params", []):
        return CliRunner().invoke(command, [])


def throw(error: BaseException) -> Callable[[], object]:
    def act() -> object:
        raise error

    return act


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_ends_with_one_message(name: str) -> None:
    for error, code, words in ERRORS:
        result = ended(COMMANDS[name], throw(error))
        assert result.exit_code == code, (error, result)
        assert result.stderr.startswith("error: ")
        assert words in result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.usefixtures("heard")
def test_every_command_tells_which_signal_ended_it(name: str) -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, words in SIGNALS.items():
        tidied: list[bool] = []

        def act(number: signal.Signals = number, tidied: list[bool] = tidied) -> None:
            try:
                signal.raise_signal(number)
            finally:
                tidied.append(True)

        result = ended(COMMANDS[name], act)
        assert result.exit_code == 128 + number
        assert words in clean(result)
        assert tidied
    assert before == {number: signal.getsignal(number) for number in SIGNALS}


def test_a_fault_of_vnp_is_shown_as_such() -> None:
    for error in (ValueError("odd"), RuntimeError("shapes differ"), OSError("HDF5 says no")):
        assert ended(COMMANDS["reduce"], throw(error)).exception is error
        assert machine_error(error) is None


def test_a_signal_that_comes_while_an_object_goes_is_not_lost() -> None:
    """What comes up there is dropped by Python."""

    class Going:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def act() -> None:
        going = Going()
        del going
        time.sleep(60)

    before = sys.unraisablehook, signal.getsignal(signal.SIGALRM)
    result = ended(COMMANDS["reduce"], act)
    assert result.exit_code == 128 + signal.SIGTERM
    assert clean(result).startswith("error: asked to end (SIGTERM)")
    assert before == (sys.unraisablehook, signal.getsignal(signal.SIGALRM))


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_does_not_leave_imports_locked(number: signal.Signals, heard: None) -> None:
    """What is raised within Python's own code of ``import`` leaves a lock that all other threads wait for."""
    ends_whole: list[int] = []
    importing = compile("raise_it()\nwhole()", "<frozen importlib._bootstrap>", "exec")
    kill = partial(os.kill, os.getpid(), number)

    def act() -> None:
        exec(importing, {"raise_it": kill, "whole": lambda: ends_whole.append(1)})
        time.sleep(60)

    before = signal.getsignal(signal.SIGALRM)
    result = ended(COMMANDS["reduce"], act)
    assert result.exit_code == 128 + number
    assert SIGNALS[number] in clean(result)
    assert ends_whole
    assert signal.getsignal(signal.SIGALRM) is before


def test_ignored_signals_stay_ignored() -> None:
    """As ``nohup`` has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert ended(COMMANDS["reduce"], lambda: signal.raise_signal(signal.SIGHUP)).exit_code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_commands_are_named_as_they_were_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "next: python -m jobs.reduce RUN, not python -m jobs._cluster.task; jobs.train made it, /run/jobs.train did not"
    )
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/vnp", "extract"])
    assert as_typed(text) == (
        "next: vnp reduce RUN, not python -m jobs._cluster.task; vnp train made it, /run/jobs.train did not"
    )
    monkeypatch.setattr(sys, "argv", ["/somewhere/jobs/extract.py"])
    assert as_typed(text) == text


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ending") / "run"
    assert extract(SAMPLE.parent / "viral/phage_t4.fna.gz", "--out", root, "--shards", 2).exit_code == 0
    return root


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ending") / "labelled"
    assert extract(SAMPLE, "--out", root).exit_code == 0
    assert call("reduce", root).exit_code == 0
    return root


def shell(line: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which VNP is the command line of vnp."""
    own = {"VNP": f"{shlex.quote(sys.executable)} -m jobs", "PYTHONPATH": str(REPOSITORY)}
    line = line.replace("VNP", own["VNP"])
    return subprocess.run(["bash", "-c", line], env={**os.environ, **own, **more}, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("warning: there are few groups of hosts here", "warning: there are few\n  groups of hosts here"),
        (
            "interrupted. Go on with: vnp extract a.fna --out RUN",
            "interrupted. Go on with:\n  vnp extract a.fna --out RUN",
        ),
        ("next: vnp reduce a/long/path/to/RUN", "next:\n  vnp reduce a/long/path/to/RUN"),
        ("a/path/that/is/longer/than/that is whole", "a/path/that/is/longer/than/that\n  is whole"),
        ("accuracy     0.975     0.988     1.000", None),
        ("run vnp fetch dnabert_s, or name its folder", None),
        ('  "text": "JSON that is copied from the screen"', None),
        ("  no record is here that anybody called", "  no record is here that\n  anybody called"),
        ("  vnp predict --from RUN --out OTHER", None),
        ("short", None),
        ("", None),
    ],
)
def test_a_terminal_gets_sentences_in_its_width(line: str, shown: str | None) -> None:
    assert wrapped(line, 24) == (line if shown is None else shown)


def test_the_next_step_is_not_begun_by_who_was_asked_to_end(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TERM lets the block at hand be finished, which may be the last one."""

    def make(*_: object) -> tuple[list[object], list[object]]:
        signal.raise_signal(signal.SIGTERM)
        return [], []

    begun: list[str] = []
    behind = Job(run, "behind", str, here=lambda: begun.append("behind"))
    chain.start([chain.shards(Run.open(run), [0, 1]), behind], Inline())
    assert begun == ["behind"]
    monkeypatch.setattr("jobs._cluster.inline.make", make)
    with pytest.raises(EndedError, match="SIGTERM"):
        chain.start([chain.shards(Run.open(run), [0, 1]), behind], Inline())
    assert begun == ["behind"]


def test_thousands_of_inputs_are_not_repeated(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.fna" for number in range(9)]
    for number, path in enumerate(paths):
        path.write_text(f">r{number}\nATGGCCAAAGACCTC\n")
    *_, said = call("frames", *paths, "--out", tmp_path / "out").stdout.splitlines()
    assert said.startswith(f"next: python -m jobs.extract {paths[0]} {paths[1]} {paths[2]} … (6 more) --out RUN")


class TestStreams:
    """What is printed may go nowhere; what is written is written."""

    @pytest.mark.parametrize("streams", ["<&- >&- 2>&-", ">/dev/full 2>/dev/full", "2>/dev/full | true", "2>&1 | true"])
    def test_the_work_is_done_all_the_same(self, run: Path, tmp_path: Path, streams: str) -> None:
        done = shell(
            f"VNP frames {SAMPLE.parent}/viral/phage_t4.fna.gz --out {tmp_path}/out {streams}; exit $PIPESTATUS"
        )
        assert {path.name for path in (tmp_path / "out").iterdir()} >= {"skipped.tsv"}
        assert done.returncode == (1 if streams.startswith(">/dev/full") else 0)
        assert "Traceback" not in done.stderr

    def test_what_could_not_be_printed_is_told(self, run: Path) -> None:
        done = shell(f"VNP status {run} --json >/dev/full")
        assert done.returncode == 1
        assert done.stderr == (
            "error: all is done, but what was printed could not be written: no space left on the disk\n"
        )

    def test_a_closed_stream_is_no_file_that_is_opened(self, tmp_path: Path) -> None:
        """Else what is printed would stand in the first file that is opened."""
        done = shell(
            f"VNP frames {SAMPLE.parent}/viral/phage_t4.fna.gz --out {tmp_path}/out 2>&- && "
            f"VNP frames {SAMPLE.parent}/viral/phage_t4.fna.gz --out {tmp_path}/other"
        )
        assert done.returncode == 0
        for path in (tmp_path / "out").iterdir():
            assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


class TestPlaces:
    """Odd working directories, homes and locales."""

    def test_the_working_directory_is_gone(self, run: Path, tmp_path: Path) -> None:
        (tmp_path / "gone").mkdir()
        done = shell(f"cd {tmp_path}/gone && rmdir ../gone && VNP status {run} && VNP reduce somewhere")
        assert "2 shards: 2 done" in done.stdout
        assert done.returncode == 1
        assert done.stderr == (
            "error: the working directory was deleted: go to one that is there (cd), and begin again\n"
        )

    def test_letters_that_the_locale_has_not(self, tmp_path: Path) -> None:
        path = tmp_path / "é.fna.gz"
        path.symlink_to(SAMPLE.parent / "viral/phage_t4.fna.gz")
        ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
        done = shell(f"VNP extract {path} --out {tmp_path}/run {shlex.join(KMER)} --cluster inline", **ascii_only)
        assert done.returncode == 1
        assert "PYTHONUTF8=1" in done.stderr
        assert "rename" not in done.stderr


def test_a_training_that_is_ended_is_tidied_up(labelled: Path, tmp_path: Path) -> None:
    process = start("train", labelled, "--out", tmp_path / "m.pth", "--epochs", 100_000, "--patience", 100_000)
    while process.poll() is None and not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]:
        time.sleep(0.05)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "SIGTERM" in said
    assert "Traceback" not in said
    assert not [path.name for path in tmp_path.iterdir() if path.suffix in (".tmp", ".lock")]
