"""Check all frames of all splits on worker processes, with a journal, so that a stop costs little."""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

from raydet3d import compat
from raydet3d.config import ConfigDict
from raydet3d.data.check.expectations import Expectations
from raydet3d.data.check.findings import KINDS, Finding, Value
from raydet3d.data.check.fit_checks import check_fit
from raydet3d.data.check.frame_checks import Frame, FrameReader, check_frame
from raydet3d.data.check.sources import CheckedSplit
from raydet3d.data.check.tally import Tally, TallyRecord
from raydet3d.data.prepare.job_pool import run_jobs
from raydet3d.data.prepare.journal import Journal
from raydet3d.data.prepare.preparers import RawFrame
from raydet3d.files import locked
from raydet3d.progress_bar import ProgressBar

FRAMES_PER_JOB = 32
"""A stop costs what the workers have begun: this many frames each."""
MAX_KEPT = 1000
"""Findings of a kind that are kept; further ones are counted."""
_MAX_KEPT_PER_JOB = 64
_VERSION = "check 1"


class JobResult(TypedDict):
    """Result of some frames.

    `tally`: counts; `findings`: those that are kept; `totals`: number of findings by kind; `digests`: digest of each
    frame's cloud, empty without one.
    """

    tally: TallyRecord
    findings: list[dict[str, Value]]
    totals: dict[str, int]
    digests: list[str]


class JobRecord(TypedDict):
    """What the journal keeps of some frames.

    `signature`: what the result depends on; `result`: a `JobResult`, packed, because the journal holds all of them in
    memory: as Python objects the histograms of 20,000 frames take hundreds of megabytes.
    """

    signature: str
    result: str


def _pack(result: JobResult) -> str:
    return base64.b85encode(zlib.compress(json.dumps(result).encode())).decode()


def _unpack(record: JobRecord) -> JobResult:
    result: JobResult = json.loads(zlib.decompress(base64.b85decode(record["result"])))
    return result


@dataclass(frozen=True)
class CheckJob:
    """Some consecutive frames of a split.

    Args:
        split: Name of the split.
        first: Position of the first frame.
        frames: The frames.
        reader: Config of the data set and categories, pickled.
        expected: What the config expects.
        info_file: Info file that describes the frames; empty for raw ones.
        signature: What the results depend on.
    """

    split: str
    first: int
    frames: Sequence[RawFrame]
    reader: bytes
    expected: Expectations
    info_file: str
    signature: str

    @property
    def key(self) -> str:
        """Return the key in the journal."""
        return f"{self.split} {self.first}"


@dataclass
class CheckResult:
    """Result of a check.

    Args:
        splits: Counts of each split.
        expected: What the config expects.
        findings: The first `MAX_KEPT` findings of each kind, the gravest kinds first.
        totals: Number of findings by kind.
    """

    splits: dict[str, Tally]
    expected: Expectations
    findings: list[Finding] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    trained: tuple[str, ...] = ()

    @property
    def num_errors(self) -> int:
        """Return the number of findings that would break training."""
        return sum(count for kind, count in self.totals.items() if KINDS[kind].severity == "error")

    @property
    def num_warnings(self) -> int:
        """Return the number of the other findings."""
        return self.totals.total() - self.num_errors

    def add(self, finding: Finding) -> None:
        """Count a finding; keep it unless there are many of its kind."""
        self.totals[finding.kind] += 1
        if self.totals[finding.kind] <= MAX_KEPT:
            self.findings.append(finding)

    def trained_tally(self) -> Tally:
        """Return the counts of the splits that are trained on; of all splits, if none is."""
        total = Tally()
        for name, tally in self.splits.items():
            if name in self.trained or not self.trained:
                total.merge(tally)
        return total


def check_splits(
    splits: Sequence[CheckedSplit], expected: Expectations, folder: Path, *, workers: int = 0
) -> CheckResult:
    """Check all frames of some splits.

    Frames that were checked earlier and have not changed since are not read again.

    Args:
        splits: The splits.
        expected: What the config expects.
        folder: Folder of the journal; it is made.
        workers: Processes; 0 checks in this one.

    Raises:
        InputError: Another process uses the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [job for split in splits for job in _make_jobs(split, expected)]
    busy = f"{folder}: another process is checking into this folder; wait for it, stop it, or name another with --out"
    journal: Journal[JobRecord] = Journal(folder / ".check.journal", _VERSION)
    with locked(folder / ".check.lock", timeout_s=0, busy=busy, required=False), journal:
        todo = [job for job in jobs if not _is_done(job, journal.records)]
        total, left = (sum(len(job.frames) for job in some) for some in (jobs, todo))
        bar = ProgressBar(total, "frames checked")
        bar.skip(total - left)
        with bar:
            for job, record in zip(todo, run_jobs(check_job, todo, workers, chunksize=1), strict=True):
                journal.add(job.key, record)
                bar.step(len(job.frames))
        return _collect(splits, jobs, journal.records, expected)


def _make_jobs(split: CheckedSplit, expected: Expectations) -> Iterator[CheckJob]:
    # A worker must import the plug-ins before it builds a data set of theirs.
    reader = pickle.dumps((compat.plugin_state(), split.dataset, dict(split.categories)))
    settings = hashlib.sha256(reader + pickle.dumps(expected)).digest()
    for first in range(0, len(split.frames), FRAMES_PER_JOB):
        frames = split.frames[first : first + FRAMES_PER_JOB]
        digest = hashlib.sha256(settings)
        for frame in frames:
            digest.update(pickle.dumps(frame))
            for path in frame.files():
                try:
                    stat = path.stat()
                    digest.update(b"%d %d" % (stat.st_size, stat.st_mtime_ns))
                except OSError:
                    digest.update(b"none")
        yield CheckJob(split.name, first, frames, reader, expected, split.info_file, digest.hexdigest()[:32])


def _is_done(job: CheckJob, records: Mapping[str, JobRecord]) -> bool:
    return job.key in records and records[job.key].get("signature") == job.signature


def check_job(job: CheckJob) -> JobRecord:
    """Check the frames of a job."""
    reader = _make_reader(job.reader)
    tally = Tally()
    findings: list[Finding] = []
    totals: Counter[str] = Counter()
    digests = []
    for index, source in enumerate(job.frames, job.first):
        frame = check_frame(Frame(job.split, index, source, job.info_file), reader, job.expected, tally)
        digests.append(frame.digest)
        for finding in frame.findings:
            totals[finding.kind] += 1
            if totals[finding.kind] <= _MAX_KEPT_PER_JOB:
                findings.append(finding)
    result: JobResult = {
        "tally": tally.to_json(),
        "findings": [finding.to_json() for finding in findings],
        "totals": dict(totals),
        "digests": digests,
    }
    return {"signature": job.signature, "result": _pack(result)}


@lru_cache(maxsize=8)
def _make_reader(pickled: bytes) -> FrameReader:
    _, dataset, categories = pickle.loads(pickled)
    return FrameReader(ConfigDict(dataset), categories)


def _collect(
    splits: Sequence[CheckedSplit],
    jobs: Sequence[CheckJob],
    records: Mapping[str, JobRecord],
    expected: Expectations,
) -> CheckResult:
    result = CheckResult(
        {split.name: Tally() for split in splits},
        expected,
        trained=tuple(split.name for split in splits if split.is_trained),
    )
    digests: list[list[str]] = []
    for job in jobs:
        done = _unpack(records[job.key])
        digests.append(done["digests"])
        result.splits[job.split].merge(Tally.from_json(done["tally"]))
        for one in done["findings"]:
            result.add(Finding(**{key: value for key, value in one.items() if key != "severity"}))  # type: ignore[arg-type]
        kept = Counter(str(one["kind"]) for one in done["findings"])
        result.totals.update(Counter(done["totals"]) - kept)
    for finding in find_repeated_frames(jobs, digests):
        result.add(finding)
    for finding in check_fit(splits, result.splits, result.trained_tally(), expected):
        result.add(finding)
    order = list(KINDS)
    result.findings.sort(key=lambda finding: order.index(finding.kind))
    return result


def find_repeated_frames(jobs: Sequence[CheckJob], digests: Sequence[Sequence[str]]) -> Iterator[Finding]:
    """Yield the frames whose cloud has the content of an earlier frame's, of the same split or of another one.

    Args:
        jobs: The frames.
        digests: Digests of the clouds of each job, empty for those without one.
    """
    seen: dict[str, tuple[CheckJob, int]] = {}
    for job, own in zip(jobs, digests, strict=True):
        for number, digest in enumerate(own):
            if not digest:
                continue
            other, place = seen.setdefault(digest, (job, number))
            if other is job and place == number:
                continue
            index, other_index = job.first + number, other.first + place
            path, other_path = job.frames[number].files()[0], other.frames[place].files()[0]
            what = "is the same file as" if path == other_path else f"has the same points as {other_path},"
            if other.split == job.split:
                sentence = f"{path}: frame {index} of {job.split} {what} frame {other_index}"
                yield Finding("duplicate-frame", str(path), other_index, sentence, job.split, index)
            else:
                sentence = (
                    f"{path}: frame {index} of {job.split} {what} frame {other_index} of {other.split}; "
                    "a score on frames that were trained on is too good"
                )
                yield Finding("shared-frame", str(path), other_index, sentence, job.split, index)
