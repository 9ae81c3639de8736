"""The steps of a run, each behind the one before it: plan, shards, reduce, then train and measure, or predict."""

from __future__ import annotations

import json
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from jobs._cli.command import echo, shown
from jobs._cli.ending import EndedError
from jobs._cli.progress import Progress, duration
from jobs._cluster.executor import Executor, Job, in_order, require_idle, submitted
from jobs._cluster.planning import input_paths
from jobs._cluster.profile import JobKind, Resources
from jobs._cluster.task import plan_task, predict_task, reduce_task, run_task, share_task
from vnp.classifier.recipe import DEFAULT_RECIPE
from vnp.encoders.spec import DEFAULTS
from vnp.encoders.weights.folders import weights_root
from vnp.errors import UsageError
from vnp.files.claims import make_folder
from vnp.files.machine import require_room
from vnp.files.records import read_json, read_record, write_record
from vnp.runs.planning.options import RunOptions, clear
from vnp.runs.request import PlannedInput, Run, RunPaths
from vnp.sequences.samplesheet import InputFile

if TYPE_CHECKING:
    from vnp.runs.done.reduce import Reduced

_BOTH = {0, 1}
_CLASSIFIER = "classifier.json"


def start(chain: Sequence[Job], executor: Executor, *, force: bool = False) -> list[str]:
    """Do the steps of a run in turn, or submit them, each behind the one before it.

    ``force`` makes shards that jobs in the queue are going to make, too.

    Returns:
        Ids of the jobs that the last step became; none where all is done.

    Raises:
        EndedError: this process was asked to end while a step was done here, and there are more.
    """
    ids: list[str] = []
    for step in chain:
        if executor.told_to_end:
            raise EndedError(signal.SIGTERM)
        job = replace(step, after=tuple(ids))
        ids = executor.submit(job) if executor.waits else _submit(executor, job, force)
    return ids


def _submit(executor: Executor, job: Job, force: bool) -> list[str]:
    """Hand a job to a scheduler: without the shards that it has, and in place of a merging that waits already."""
    if job.shards is not None and not job.after:
        return _submit_shards(executor, job, force)
    queue = executor.state(job.root) or [] if job.anyhow else []
    stale = [one.id for one in queue if one.waiting and one.shard is None and one.name == job.name]
    ids = _take(executor, job)
    if stale:
        # It would start too early, and say that shards are missing which are being made.
        executor.cancel(stale)
    return ids


def _submit_shards(executor: Executor, job: Job, force: bool) -> list[str]:
    """Returns the ids of all jobs that make shards, those that were in the queue before included."""
    queue = executor.state(job.root)
    todo = job.shards or ()
    if queue is None and not force:
        echo(f"{executor.title}'s queue could not be read; submitting without a look at it", err=True)
    elif queue is not None and not force:
        # A job that is ending may have been cancelled: two tasks for one shard do no harm, none would.
        at_work = [one for one in queue if not one.ending]
        sharing = sum(one.shares for one in at_work)
        busy = {one.shard for one in at_work if one.shard is not None} & set(todo)
        if job.tasks is None and todo and sharing:
            echo(f"left to {sharing} tasks in the queue, which share the shards (rerun --tasks adds more)")
            busy = set(todo)
        elif busy:
            echo(f"{len(busy)} shards are in the queue already: left to their jobs (rerun --force submits them again)")
        todo = tuple(number for number in todo if number not in busy)
    ids = [one.job for one in queue or [] if one.shard is not None or one.shares]
    for numbers, wanted in _asked_alike(executor, job, todo):
        name = job.name if job.tasks is not None else _shards_name(job.root, numbers)
        ids += _take(executor, replace(job, name=name, shards=numbers, wanted=wanted))
    return in_order(job.root, ids)


def _asked_alike(executor: Executor, job: Job, todo: Sequence[int]) -> list[tuple[tuple[int, ...], Resources | None]]:
    """Shards in groups that ask for the same, by what became of earlier tries; says what differs from the profile."""
    if not todo or executor.profile is None or not any(RunPaths(job.root).parts.glob("shard-*")):
        return [(tuple(todo), job.wanted)] if todo else []
    # Here, because a first submission has nothing to mend.
    from jobs._cluster.mending import submissions

    wanted = executor.profile.of(job.kind)
    jobs = submitted(job.root)
    last = {shard: executor.task_id(one.job, executor.index(one, shard)) for one in jobs for shard in one.shards}
    words = executor.ended([last[shard] for shard in todo if shard in last])
    found = submissions(
        Run.open(job.root), todo, wanted, executor.node_count(wanted), words, shared=job.tasks is not None
    )
    for numbers, _, why in found:
        for sentence in why:
            echo(f"{f'shard {numbers[0]}' if len(numbers) == 1 else f'{len(numbers)} shards'}: {sentence}")
    return [(tuple(numbers), asked) for numbers, asked, _ in found]


def _take(executor: Executor, job: Job) -> list[str]:
    ids = executor.submit(job)
    count = len(job.elements or (0,))
    what = f"{count} task{'s' * (count != 1)}"
    if job.shards is not None and job.tasks is not None:
        what += f" for {len(job.shards)} shards"
    echo(f"submitted {job.name}: job {', '.join(ids)}, {what}")
    return ids


# The steps.


def plan_and_shards(
    options: RunOptions, root: Path, executor: Executor, tasks: int | None, *, force: bool
) -> tuple[Job, Job]:
    """The reading and cutting of the inputs as a job, and the shards behind it.

    Raises:
        UsageError: there is no scheduler, or tasks would not find what they need.
        RunExistsError: a run stands there, or its jobs are in the queue.
    """
    require_scheduler(executor)
    require_idle(executor, root)
    executor.check()
    paths = RunPaths(root)
    clear(paths, force=force)
    paths.logs.mkdir(parents=True, exist_ok=True)
    write_record(paths.options, options, seal="digest")
    folders = [Path(folder) for folder in options.folders.values()]
    if options.cache is not None:
        make_folder(options.cache)
        folders.append(options.cache.absolute())
    binds = (*input_paths(options), *folders, *(_weights(options.weights) if options.needs_weights else ()))
    numbers = tuple(range(options.shards))
    return (
        Job(root, _name(root, "plan"), plan_task, binds=binds),
        _shards(root, numbers, options.needs_gpu, binds, tasks),
    )


def require_scheduler(executor: Executor) -> None:
    """Refuse to plan in a job where there is nobody to hand it to."""
    if executor.waits:
        raise UsageError("--plan-job needs a scheduler: there is none here, or --cluster says otherwise")


def shards(
    run: Run, numbers: Sequence[int], tasks: int | None = None, report: Callable[[float], str] | None = None
) -> Job:
    """The making of a planned run's shards; it asks for GPUs only if an encoder is a transformer.

    So many ``tasks`` share them; None is one task a shard. ``report`` makes of the seconds that it took what to say
    once they are made on this machine.

    Raises:
        RunError: other code planned the run.
    """
    if numbers:
        run.require_code()
    request = run.request
    weights = _weights(Path(request.weights) if request.weights else None) if request.needs_weights else []
    gpu = request.needs_weights and request.device != "cpu"
    binds = [*(Path(entry.path) for entry in request.inputs), *map(Path, request.folders.values()), *weights]
    if request.classifier is not None and (path := request.classifier.path) is not None:
        binds.append(path)
    if request.cache is not None:
        # An image can bind only what is there.
        make_folder(Path(request.cache))
        binds.append(Path(request.cache))
    job = _shards(run.paths.root, numbers, gpu, tuple(binds), tasks)
    return replace(job, report=report)


def _shards(root: Path, numbers: Sequence[int], gpu: bool, binds: tuple[Path, ...], tasks: int | None) -> Job:
    kind: JobKind = "gpu" if gpu else "cpu"
    job = Job(root, _shards_name(root, numbers), run_task, kind, shards=tuple(numbers), binds=binds)
    if tasks is None:
        return job
    if tasks < 1:
        raise UsageError(f"--tasks must be at least 1, not {tasks}")
    submission = (secrets.token_hex(4),)
    return replace(job, name=_name(root, "tasks"), function=share_task, arguments=submission, tasks=tasks)


def reduce(root: Path, layout: str, *, last: bool = True) -> Job:
    """The merging. As a job it starts when the shards' have ended, however they ended, and says what is missing."""
    return Job(
        root,
        _name(root, "reduce"),
        reduce_task,
        "reduce",
        arguments=(layout,),
        here=lambda: reduce_here(Run.open(root), layout, last=last),
        anyhow=True,
    )


def predict(root: Path, binds: Iterable[Path], here: Callable[[], object]) -> Job:
    """The calling of records; in this process ``here`` does it, and says what it found.

    As a job it starts when the shards' have ended, however they ended, and says what is missing.
    """
    return Job(root, _name(root, "predict"), predict_task, "reduce", binds=tuple(binds), here=here, anyhow=True)


@dataclass(frozen=True, slots=True)
class Classifier:
    """What a run's features are trained to, beside its ``run.json`` for the tasks that do."""

    recipe: str = DEFAULT_RECIPE
    model: str | None = None  # absolute path of the checkpoint; None is in the run

    @classmethod
    def read(cls, root: Path) -> Classifier:
        """As it was written; where nothing was asked, what is usual."""
        found = read_record(root / _CLASSIFIER, cls, seal="digest", remedy="give the pipeline command again")
        return found or cls()

    def path(self, root: Path) -> Path:
        """The checkpoint."""
        if self.model is not None:
            return Path(self.model)
        # As an earlier version called it, where it stands.
        old = root / "model" / "model.pth"
        return old if old.exists() else old.with_name(model_name(Run.open(root)))


def makes(root: Path, model: Path) -> bool:
    """Whether a checkpoint is that of a run, if there is one: it was asked for so, or is called as usual."""
    return (root / "run.json").exists() and Classifier.read(root).path(root) == model


def model_name(run: Run) -> str:
    """What a checkpoint of a run's rows is called where nobody says."""
    read = {molecule: choice.name for molecule, choice in run.request.encoders.items()}
    return "model_fastesm650.pth" if read == DEFAULTS else "model.pth"


def train_and_measure(root: Path, asked: Classifier | None = None) -> tuple[Job, Job]:
    """A classifier of the merged features, and its accuracy on what was held out.

    What was made from these features in this way already is kept; what was made otherwise is written anew.

    Without ``asked`` it is made as it was asked for before.
    """
    if asked is not None:
        write_record(root / _CLASSIFIER, asked, seal="digest")
    model = Classifier.read(root).model
    binds = () if model is None else (Path(model).parent,)
    request = str(RunPaths(root).request)
    return (
        Job(root, _name(root, "train"), train_task, "gpu", here=partial(train_task, request), binds=binds),
        Job(root, _name(root, "benchmark"), measure_task, here=partial(measure_task, request), binds=binds),
    )


def _name(root: Path, what: str) -> str:
    """What the scheduler shows: the run and the shards, without what its columns or a shell could stumble over."""
    return f"vnp-{re.sub(r'[^A-Za-z0-9_.+-]+', '_', root.name)[:60]}-{what}"


def _shards_name(root: Path, numbers: Sequence[int]) -> str:
    return _name(root, f"{min(numbers)}-{max(numbers)}" if numbers else "none")


def _weights(given: Path | None) -> list[Path]:
    """The folder of weights, and the files in it that are links to somewhere else, as in a cache of the hub."""
    root = weights_root(given).absolute()
    # There need be none: some come with the package.
    if not root.exists():
        return []
    return [root, *(path for path in sorted(root.rglob("*")) if path.is_symlink())]


# What they do.


def merge_run(run: Run, layout: str, *, force: bool = False) -> Reduced:
    """Merge a run in this process, with progress."""
    from vnp.runs.done.reduce import reduce_run

    if run.request.keeps_rows and (force or not run.paths.features.exists()):
        echo(require_room(shown(run.paths.root), run.request.room(run.request.totals.rows, layout)), err=True)
    with Progress("merging", run.request.totals.rows, "rows") as progress:
        return reduce_run(run, layout, force=force, progress=progress.advance)


def reduce_here(run: Run, layout: str, *, force: bool = False, last: bool = True) -> None:
    """Merge a run in this process and say what was made, and what comes next if nobody does that anyway."""
    begun = time.monotonic()
    reduced = merge_run(run, layout, force=force)
    spent = f"merged in {duration(time.monotonic() - begun)}" if reduced.fresh else "was there already"
    echo(f"{shown(reduced.path)}: {reduced.rows:,} rows of {reduced.layout.width} ({spent})")
    echo(f"  {reduced.layout}")
    if reduced.skipped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reduced.skipped.items()))
        echo(f"without a row: {reasons} ({shown(run.paths.skipped)})")
    if reduced.parts:
        parts = ", ".join(f"{count:,} {name}" for name, count in reduced.parts.items())
        echo(f"rows by the split that came with the data: {parts}")
    if last:
        echo(f"next: {after_shards(run, shown(run.paths.root))}")


def after_shards(run: Run, folder: Path) -> str:
    """The command that comes next for a run whose shards are made, and whose folder is called so."""
    root = quote(str(folder))
    if (folder / "report.html").exists():
        return f"look at {folder / 'report.html'}"
    if (folder / "predict.json").exists():
        return f"python -m jobs.predict --from {root}"
    if not run.paths.features.exists():
        return f"python -m jobs.reduce {root}"
    if can_train(run.request.inputs):
        return f"python -m jobs.train {root} --out {model_name(run)}"
    return f"python -m jobs.export {root} --format npz, or read it with h5py"


def can_train(inputs: Iterable[InputFile | PlannedInput]) -> bool:
    """Whether there are viral and host inputs, so that a classifier can be trained; a dataset has both."""
    return {label for entry in inputs for label in ((entry.label,) if entry.dataset is None else _BOTH)} >= _BOTH


def train_task(request: str) -> str:
    """Train on a merged run, in this process or as a job; returns the checkpoint's path."""
    # Here, as below, because help need not wait for the options of other commands.
    from jobs.train import main as train

    root = Path(request).parent
    asked = Classifier.read(root)
    path = asked.path(root)
    if path.exists():
        from vnp.classifier.checkpoint import Checkpoint
        from vnp.classifier.rows import data_digest, labels_of
        from vnp.features.read import open_features

        features = open_features(root)
        before = Checkpoint.load(path).training
        same = before.get("data") == data_digest(features, labels_of(features))
        if same and before["recipe"]["name"] == asked.recipe:
            echo(f"{path} is there already")
            return str(path)
        why = "by another recipe" if same else f"on other features than are in {root} now"
        echo(f"{path} was trained {why}: training anew")
    # A training of these features that was killed goes on all the same; one of other features makes way.
    train.call(features=root, out=path, recipe=asked.recipe, force=True)
    return str(path)


def measure_task(request: str) -> str:
    """Measure the classifier of a run on what was held out; returns the folder of the results."""
    from jobs.benchmark import accuracy

    root = Path(request).parent
    folder, path = root / "accuracy", Classifier.read(root).path(root)
    there = folder.exists()
    if there and _measured(folder / "accuracy.json", path):
        echo(f"{folder} is there already")
        return str(folder)
    over = {"force": True} if there else {}
    accuracy.call(contestant=(f"{root}@{path}",), out=folder, **over)
    return str(folder)


def _measured(table: Path, path: Path) -> bool:
    """Whether a table of results is that of this classifier, and whole."""
    from vnp.classifier.checkpoint import Checkpoint
    from vnp.comparison.contestants import UNFINISHED

    if (table.parent / UNFINISHED).exists():
        return False
    try:
        measured = [one["training"] for one in read_json(table)["contestants"]]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(measured == [json.loads(json.dumps(Checkpoint.load(path).training))])
