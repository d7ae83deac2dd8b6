"""The pytest plugin: `gpu_benchmark`, trials in fresh processes, and verdicts over saved runs.

``gpu_benchmark(function, *args)`` times on the device through `measure` and hands the samples to
pytest-benchmark, whose options and table then work as its users know them. A further trial is the
user's own command once more in a fresh process, with every test deselected that was not measured;
what that process measures comes back through the file that TRIAL_FILE names.

Every pytest run of an environment loads this module, so it imports nothing heavy, and without
pytest-benchmark it only says what to install.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from gpubench import errors
from gpubench.verbs._flags import positive, share

if TYPE_CHECKING:
    from gpubench.device import Device
    from gpubench.measure import Measurement
    from gpubench.record import Record

TRIAL_FILE = "GPUBENCH_PYTEST_TRIAL"
DEFAULT_TRIALS = 5
#: seconds that a further process may take, beside ten times what this one took
PATIENCE_S = 120.0
MISSING = f"gpu_benchmark needs pytest-benchmark: {errors.install_line('run', 'pytest')}"
#: options that write files, compare or wait for a person; a further process does nothing of that
SIDE_EFFECTS = (
    *("benchmark_save", "benchmark_autosave", "benchmark_json", "benchmark_compare"),
    *("benchmark_compare_fail", "benchmark_histogram", "basetemp", "xmlpath", "htmlpath"),
    *("report_log", "log_file", "pastebin", "usepdb", "trace"),
)


@dataclass(frozen=True)
class Settings:
    """How a test is measured: the keywords of ``@pytest.mark.gpubench``, and their defaults."""

    device: str = "auto"
    cache: Literal["hot", "cold"] = "hot"
    half_width: float = 0.01
    budget_s: float = 2.0
    trials: int = 1
    min_effect: float = 0.03

    def __post_init__(self) -> None:
        """Refuse what would otherwise fail far from its cause."""
        if self.cache not in ("hot", "cold"):
            raise ValueError(f"cache is hot or cold, not {self.cache!r}")
        if min(self.half_width, self.budget_s, self.trials) <= 0 or self.min_effect < 0:
            raise ValueError("half_width, budget_s and trials are above 0, min_effect not below")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, in a group of their own."""
    group = parser.getgroup("gpubench", "measuring with gpu_benchmark")
    group.addoption("--gpubench-device", default="auto", metavar="NAME", help="auto, cpu or cuda:0")
    group.addoption(
        "--gpubench-trials",
        type=positive,
        metavar="N",
        help=f"measure in N processes; default: 1, or {DEFAULT_TRIALS} where a verdict is wanted",
    )
    group.addoption(
        "--gpubench-fail-on", choices=("slower",), help="fail if a test has this verdict"
    )
    group.addoption(
        "--gpubench-baseline",
        metavar="NAME|FILE",
        help="saved run(s) to compare with; default: the latest of this machine",
    )
    group.addoption(
        "--gpubench-min-effect",
        type=share,
        default=Settings.min_effect,
        metavar="PERCENT",
        help="differences below this count as none; default: 3%%",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the fixture in the form that this environment can have."""
    names = ", ".join(f"{name}=…" for name in Settings.__dataclass_fields__)
    config.addinivalue_line("markers", f"gpubench({names}): how gpu_benchmark measures the test")
    if not hasattr(config.option, "benchmark_disable"):
        if config.option.gpubench_fail_on:
            raise pytest.UsageError(f"--gpubench-fail-on: {MISSING}")
        config.pluginmanager.register(WithoutBenchmark(), "gpubench-fixtures")
        return
    # Taken out, so that a pytest started by a test is no trial.
    trial_file = os.environ.pop(TRIAL_FILE, None)
    if trial_file:
        for option in SIDE_EFFECTS:
            if hasattr(config.option, option):
                setattr(config.option, option, None)
        config.pluginmanager.register(Trial(config, Path(trial_file)), "gpubench-fixtures")
    else:
        config.pluginmanager.register(Session(config), "gpubench-fixtures")


def refusal(text: str) -> Exception:
    """What ends a test with these words and without a traceback."""
    refused: Exception = pytest.fail.Exception(text, pytrace=False)
    return refused


class WithoutBenchmark:
    """Stands in where pytest-benchmark is not installed or switched off."""

    @pytest.fixture
    def gpu_benchmark(self) -> None:
        """Say what is missing."""
        raise refusal(MISSING)


@dataclass
class Measured:
    """A test of this session and the records of its processes so far."""

    stats: Any  # pytest-benchmark's, whose extra_info is saved
    settings: Settings
    trials: list["Record"]
    lost: list[str] = field(default_factory=list)


class Fixtures:
    """What a session and its further processes share: devices, and tests as they are measured."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.measured: dict[str, Measured] = {}
        self._devices: dict[str, Device] = {}

    @pytest.fixture
    def gpu_benchmark(self, request: pytest.FixtureRequest, benchmark: Any) -> "GpuBenchmark":
        """Time a function on the device: ``gpu_benchmark(function, *args, **kwargs)``."""
        return GpuBenchmark(self, request.node, benchmark)

    def settings(self, item: pytest.Item) -> Settings:
        """The command line's settings, and over them the marker's."""
        option = self.config.option
        settings = Settings(
            device=option.gpubench_device,
            trials=option.gpubench_trials or (DEFAULT_TRIALS if self.wants_verdict else 1),
            min_effect=option.gpubench_min_effect,
        )
        marker = item.get_closest_marker("gpubench")
        marked = dict(marker.kwargs) if marker else {}
        if settings.trials == 1:  # no further processes unless somebody asks for them
            marked.pop("trials", None)
        try:
            return replace(settings, **marked)
        except (TypeError, ValueError) as error:
            problem = str(error).replace("Settings.__init__() got", "there is")
            raise refusal(f"@pytest.mark.gpubench: {problem}") from error

    @property
    def wants_verdict(self) -> bool:
        """Whether saved runs are to be compared with."""
        return bool(self.config.option.gpubench_fail_on or self.config.option.gpubench_baseline)

    def device(self, name: str) -> "Device":
        """Open a device, once."""
        from gpubench.device import open_device

        if name not in self._devices:
            try:
                self._devices[name] = open_device(name)
            except errors.GpubenchError as error:
                raise refusal(f"{error}\n  → {error.remedy}") from error
        return self._devices[name]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A failed test's time is not worth further processes."""
        if report.failed:
            self.measured.pop(report.nodeid, None)


class GpuBenchmark:
    """The fixture's value: call it once with what is to be timed."""

    def __init__(self, fixtures: Fixtures, item: pytest.Item, benchmark: Any) -> None:
        self._fixtures, self._item, self._benchmark = fixtures, item, benchmark
        self._settings = fixtures.settings(item)
        #: everything that was measured; None before the call and under --benchmark-disable
        self.measurement: Measurement | None = None

    @property
    def device(self) -> str:
        """Where tensors belong: the argument of torch's ``device=``."""
        return self._fixtures.device(self._settings.device).torch_device

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Time ``function(*args, **kwargs)`` and return what it returns.

        It is called many times, so a call must not change what the next one does.
        """
        benchmark = self._benchmark
        if benchmark._mode:  # noqa: SLF001 - pytest-benchmark has no public way to hand samples in
            raise refusal("gpu_benchmark and benchmark time one function in a test")
        benchmark._mode = "gpu_benchmark(...)"  # noqa: SLF001
        if not benchmark.disabled:
            try:
                self.measurement, witness_s = self._measure(lambda: function(*args, **kwargs))
            except BaseException:
                benchmark.has_error = True
                raise
            self._keep(self.measurement, witness_s)
        return function(*args, **kwargs)

    def _measure(self, step: Callable[[], object]) -> "tuple[Measurement, dict[str, float]]":
        """The step, and beside it what never changes."""
        from pytest_benchmark.fixture import PauseInstrumentation

        from gpubench.measure import StopRule, measure_step, witness_s
        from gpubench.workload import Prepared

        settings = self._settings
        device = self._fixtures.device(settings.device)
        rule = StopRule(settings.half_width, settings.budget_s)
        rule = replace(rule, warmup_s=min(rule.warmup_s, settings.budget_s))
        with PauseInstrumentation():  # coverage and debuggers would be timed too
            measured = measure_step(device, Prepared(step=step), cache=settings.cache, rule=rule)
            return measured, witness_s(device)

    def _keep(self, measurement: "Measurement", witness_s: dict[str, float]) -> None:
        from gpubench import exchange

        stats = self._benchmark._make_stats(measurement.inner)  # noqa: SLF001
        for seconds in measurement.samples.device_s:
            stats.stats.update(seconds)  # per step already
        record = replace(self._record(measurement), witness_s=witness_s)
        measured = Measured(stats, self._settings, [record])
        self._fixtures.measured[self._item.nodeid] = measured
        stats.extra_info |= exchange.extra_info([record], samples=False)

    def _record(self, measurement: "Measurement") -> "Record":
        from gpubench.environment import describe
        from gpubench.record import Record

        item = self._item
        params = item.callspec.params if hasattr(item, "callspec") else {}
        return Record(
            started_at=datetime.now(UTC),
            workload=item.nodeid.partition("[")[0],
            case_id=item.nodeid,
            params={
                name: str(value)
                for name, value in params.items()
                if isinstance(value, (str, int, float))
            },
            **measurement.columns(),
            **describe(self._fixtures.device(self._settings.device)),
        )


class Trial(Fixtures):
    """A further process: measures the tests that its file lists, and writes the rows there."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        super().__init__(config)
        self._path = path

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Deselect everything else."""
        wanted = set(json.loads(self._path.read_text()))
        others = [item for item in items if item.nodeid not in wanted]
        items[:] = [item for item in items if item.nodeid in wanted]
        self.config.hook.pytest_deselected(items=others)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Hand over what was measured."""
        from gpubench.exchange import row_of

        rows = {name: row_of(measured.trials[0]) for name, measured in self.measured.items()}
        self._path.write_text(json.dumps(rows))


class Session(Fixtures):
    """The session that the user started: further trials, then verdicts."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__(config)
        self._begin = time.monotonic()
        self._saved: list[tuple[str, Any]] = []
        self._rows: list[dict[str, Any]] = []
        self._refused = False

    @property
    def _benchmarks(self) -> Any:
        """pytest-benchmark's session, which is made only after this one."""
        return vars(self.config)["_benchmarksession"]

    def pytest_sessionstart(self) -> None:
        """Find the baseline before anything is measured, and before this run is saved."""
        if not self.wants_verdict or self._benchmarks.disabled:
            return
        wanted, storage = self.config.option.gpubench_baseline, self._benchmarks.storage
        if not wanted:
            self._saved = [(str(path), document) for path, document in storage.load()][-1:]
            if not self._saved and storage.query():  # which a gate must not take for a first run
                raise pytest.UsageError(
                    f"none of the saved runs in {storage} can be read; remove them, and "
                    f"`--benchmark-autosave --gpubench-trials {DEFAULT_TRIALS}` saves a new one"
                )
            return
        # By the name given to --benchmark-save, else whatever --benchmark-compare takes.
        found = [
            (path, document)
            for path, document in storage.load()
            if Path(str(path)).stem.partition("_")[2] == wanted
        ]
        try:
            found = found or list(storage.load(wanted))
        except ValueError as error:
            raise pytest.UsageError(f"--gpubench-baseline {wanted}: {error}") from error
        if not found:
            raise pytest.UsageError(
                f"--gpubench-baseline {wanted}: no saved run of that name in {storage}; "
                f"`--benchmark-save={wanted} --gpubench-trials {DEFAULT_TRIALS}` saves one"
            )
        self._saved = [(str(path), document) for path, document in found]

    # Before pytest-benchmark saves: the trials belong into the file.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """Run the further trials and judge."""
        if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            self._run_trials()
            self._judge()
            fail_on = self.config.option.gpubench_fail_on
            if any(row["verdict"] == fail_on for row in self._rows):
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
            elif fail_on and self._refused:  # a gate that judged nothing must not stand open
                session.exitstatus = pytest.ExitCode.USAGE_ERROR
        return (yield)

    def _run_trials(self) -> None:
        from gpubench import exchange

        most = max((measured.settings.trials for measured in self.measured.values()), default=1)
        patience_s = PATIENCE_S + 10 * (time.monotonic() - self._begin)
        if most > 1:
            self._say("")  # ends the line of dots
        for trial in range(2, most + 1):
            wanted = {
                name: measured
                for name, measured in self.measured.items()
                if measured.settings.trials >= trial
            }
            tests = f"{len(wanted)} test{'s' if len(wanted) > 1 else ''}"
            self._say(f"gpubench: trial {trial} of {most}, {tests} in a fresh process …")
            rows, problem = self._fresh_process(list(wanted), patience_s)
            for name, measured in wanted.items():
                if name in rows:
                    record = exchange.record_of(rows[name], name)
                    measured.trials.append(replace(record, trial=trial))
                else:
                    measured.lost.append(f"trial {trial}: {problem}")
        for measured in self.measured.values():
            found = exchange.extra_info(measured.trials, samples=False)
            measured.stats.extra_info |= found

    def _fresh_process(self, names: list[str], patience_s: float) -> tuple[dict[str, Any], str]:
        """Measure these tests once more; returns the rows by test and why some are missing."""
        arguments = [str(argument) for argument in self.config.invocation_params.args]
        command = [sys.executable, "-m", "pytest", *arguments]
        hasplugin = self.config.pluginmanager.hasplugin
        if hasplugin("_cov"):
            command.append("--no-cov")
        if hasplugin("logging"):  # the file of this session would be written anew
            command += ["-o", "log_file="]
        try:
            with tempfile.TemporaryDirectory(prefix="gpubench-") as folder:
                if hasplugin("cacheprovider"):
                    command += ["-o", f"cache_dir={folder}/cache"]
                return self._rows_of(command, Path(folder), names, patience_s)
        except subprocess.TimeoutExpired:
            return {}, f"no end after {patience_s:.0f} s"
        except OSError as error:
            return {}, f"it could not be started: {error}"

    def _rows_of(
        self, command: list[str], folder: Path, names: list[str], patience_s: float
    ) -> tuple[dict[str, Any], str]:
        path, output = folder / "trial.json", folder / "output.txt"
        path.write_text(json.dumps(names))
        # Not a pipe: a process that a test leaves behind would hold it open.
        with output.open("wb") as stream:
            done = subprocess.run(
                command,
                cwd=self.config.invocation_params.dir,
                env=os.environ | {TRIAL_FILE: str(path)},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=patience_s,
            )
        try:
            rows = json.loads(path.read_text())
        except ValueError:  # it was ended while it wrote
            rows = {}
        lines = output.read_text(errors="replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "")
        problem = f"exit status {done.returncode}: {last.strip(' =')}"
        return (rows if isinstance(rows, dict) else {}), problem

    def _judge(self) -> None:
        """Compare with the baseline, where one is wanted and there."""
        if not self._saved or not self.measured:
            return
        from gpubench import regression

        machine = self._benchmarks.get_machine_info()
        try:
            baseline = regression.read(self._saved, machine)
        except errors.UnreadableResult as error:
            self._say(f"gpubench: {error}\n  → {error.remedy}", red=True)
            self._refused = True
            return
        tests = [
            regression.Test(name, measured.trials, measured.lost, measured.settings.min_effect)
            for name, measured in self.measured.items()
        ]
        self._rows = regression.verdicts(tests, baseline)
        for row in self._rows:
            self.measured[row["test"]].stats.extra_info["gpubench_verdict"] = row["verdict"]

    def pytest_benchmark_update_json(self, output_json: dict[str, Any]) -> None:
        """Keep the samples of all trials where pytest-benchmark keeps those of the first."""
        from gpubench import exchange

        for benchmark in output_json["benchmarks"]:
            measured = self.measured.get(benchmark["fullname"])
            if measured and "data" in benchmark["stats"]:
                # A new mapping: the old one also goes into files without samples.
                trials = exchange.extra_info(measured.trials)
                benchmark["extra_info"] = benchmark["extra_info"] | trials

    # After pytest-benchmark's table, and also where that ends in its own --benchmark-compare-fail.
    @pytest.hookimpl(wrapper=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> Iterator[None]:
        """The verdicts, and what to type next."""
        try:
            return (yield)
        finally:
            self._summarise(terminalreporter)

    def _summarise(self, reporter: Any) -> None:
        write = reporter.write_line
        lost = {reason for measured in self.measured.values() for reason in measured.lost}
        for reason in sorted(lost):
            write(f"gpubench: {reason}", yellow=True)
        if not self.wants_verdict:
            return
        reporter.section("gpubench: this run against saved ones")
        if not self._rows:
            write(self._why_nothing(), yellow=True)
            return
        from gpubench import regression

        write(f"baseline: {', '.join(name for name, _ in self._saved)}\n")
        write(regression.text(self._rows))
        write(regression.conclusion(self._rows))
        if step := regression.next_step(self._rows):
            write(step)
        for row in self._rows:
            if row["verdict"] == "slower":
                change = f"{100 * (row['ratio'] - 1):.0f} %"
                write(f"SLOWER {row['test']} takes {change} longer than its baseline", red=True)

    def _why_nothing(self) -> str:
        if self._benchmarks.disabled:
            return "benchmarks are disabled: nothing was measured, and nothing judged"
        if not self.measured:
            return "no test measured with gpu_benchmark has passed: nothing to judge"
        if self._saved:
            return "the baseline can't be read: nothing judged"
        trials = self.config.option.gpubench_trials or DEFAULT_TRIALS
        return (
            "there is no saved run of this machine to compare with; "
            f"`--benchmark-autosave --gpubench-trials {trials}` saves one"
        )

    def _say(self, line: str, **markup: bool) -> None:
        reporter = self.config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(line, **markup)
